"""The result of a search for people: one table, the answer, and where everything is kept."""

from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

SCORES = {
    "horizon_l1": "horizon_l1: mean absolute error over one fixed horizon of every chunk",
    "val_l1": "val_l1: val/l1 as the run logged it",
    "adapted_success": "adapted_success: failure rate of rollouts after finetuning",
}


def render(document: dict[str, Any]) -> Group:
    """Return the table of the default and the best points, and the lines below it."""
    names = list(document["default"]["params"])
    table = Table(
        title=f"{document['study']} ({document['scale']})",
        title_justify="left",
    )
    table.add_column("")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for name in ("score", "new seeds", "mean", "difference"):
        table.add_column(name, justify="right")
    table.add_column("95 % interval", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("run", no_wrap=True)
    rows = [("default", document["default"])]
    rows += [(f"{place}.", row) for place, row in enumerate(document["candidates"], start=1)]
    for label, row in rows:
        values = [str(row["params"][name]) for name in names]
        verdict = "" if label == "default" else row["verdict"]
        table.add_row(label, *values, *_numbers(row), verdict, row["run_id"])
    lines = [f"{SCORES[document['score']]}; smaller is better"]
    lines += ["the score chose the points; mean and difference are of new seeds alone"]
    lines += [_counted(document["counts"]), *_weighed(document["importance"])]
    if document.get("stopped"):
        lines.append(f"stopped early: {document['stopped']}")
    lines += [f"storage (optuna-dashboard opens it): {document['journal']}"]
    figures = [paths[0] for paths in document["figures"].values()]
    lines += [f"figures: {' '.join(figures)}"] if figures else []
    return Group(table, Text("\n".join(lines)), Text(document["answer"], style="bold"))


def _numbers(row: dict[str, Any]) -> list[str]:
    """Return the score that chose the point, and what the new seeds say."""
    found = [_score(row["search_value"]), str(len(row["repeats"])), _score(row["mean"])]
    if row["low"] is None:
        return [*found, "", ""]
    return [*found, f"{row['delta']:+.5f}", f"{row['low']:+.5f} to {row['high']:+.5f}"]


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"


def _counted(counts: dict[str, int]) -> str:
    names = ("complete", "pruned", "out_of_memory", "failed", "running")
    parts = [f"{counts[name]} {name.replace('_', ' ')}" for name in names if counts[name]]
    twice = f", {counts['duplicates']} duplicates at no cost" if counts["duplicates"] else ""
    return f"{counts['trials']} trials, {counts['runs']} runs{twice}: {', '.join(parts)}"


def _weighed(importance: dict[str, float]) -> list[str]:
    parts = [f"{name} {100 * share:.0f} %" for name, share in importance.items()]
    return [f"share of the score's variance (fANOVA): {', '.join(parts)}"] if parts else []
