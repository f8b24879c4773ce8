"""The result of a search for people: one table, the answer, and where everything is kept."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from scaling.search.result import Candidate, Counts, SearchResult

SCORES = {
    "horizon_l1": "horizon_l1: mean absolute error over one fixed horizon of every chunk",
    "val_l1": "val_l1: val/l1 as the run logged it",
    "adapted_success": "adapted_success: failure rate of rollouts after finetuning",
}
ENDS = ("complete", "pruned", "out_of_memory", "failed", "running")


def render(result: SearchResult) -> Group:
    """Return the table of the default and the best points, and the lines below it."""
    names = list(result.default.params)
    table = Table(title=f"{result.study} ({result.scale})", title_justify="left")
    table.add_column("")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for name in ("score", "new seeds", "mean", "difference"):
        table.add_column(name, justify="right")
    table.add_column("95 % interval", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("run", no_wrap=True)
    rows = [("default", result.default)]
    rows += [(f"{place}.", row) for place, row in enumerate(result.candidates, start=1)]
    for label, row in rows:
        values = [str(row.params[name]) for name in names]
        verdict = "" if label == "default" else row.verdict
        table.add_row(label, *values, *_numbers(row), verdict, row.run_id)
    return Group(table, Text("\n".join(_lines(result))), Text(result.answer, style="bold"))


def _lines(result: SearchResult) -> list[str]:
    lines = [f"{SCORES[result.score]}; smaller is better"]
    lines += ["the score chose the points; mean and difference are of new seeds alone"]
    lines.append(_counted(result.counts))
    if result.importance:
        parts = [f"{name} {100 * share:.0f} %" for name, share in result.importance.items()]
        lines.append(f"importance of the parameters (PED-ANOVA): {', '.join(parts)}")
    if result.stopped:
        lines.append(f"stopped early: {result.stopped}")
    lines += [f"storage (optuna-dashboard opens it): {result.journal}"]
    figures = [paths[0] for paths in result.figures.values()]
    return [*lines, f"figures: {' '.join(figures)}"] if figures else lines


def _numbers(row: Candidate) -> list[str]:
    """Return the score that chose the point, and what the new seeds say."""
    found = [_score(row.search_value), str(len(row.repeats)), _score(row.mean)]
    if row.delta is None or row.low is None or row.high is None:
        return [*found, "", ""]
    return [*found, f"{row.delta:+.5f}", f"{row.low:+.5f} to {row.high:+.5f}"]


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"


def _counted(counts: Counts) -> str:
    ends = {name.replace("_", " "): getattr(counts, name) for name in ENDS}
    parts = [f"{number} {name}" for name, number in ends.items() if number]
    twice = f", {counts.duplicates} duplicates at no cost" if counts.duplicates else ""
    return f"{counts.trials} trials, {counts.runs} runs{twice}: {', '.join(parts)}"
