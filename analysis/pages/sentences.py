"""Numbers, intervals and fits in sentences: what the page and the terminal say alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

from analysis.law_fit import LawFit
from analysis.pages.documents import Candidate, SearchResult
from analysis.sensitivity import LevelLeftOut, RunLeftOut, Sensitivity
from analysis.success.failures import FailureLaw, FailureStudy


def is_known(value: float | None) -> bool:
    """Tell a number from one that does not exist or an end that is open."""
    return value is not None and math.isfinite(value)


def number(value: float | None, digits: int = 3) -> str:
    """Write a number for people; a missing one as a dash."""
    return f"{value:.{digits}g}" if value is not None and math.isfinite(value) else "-"


def percent(value: float | None, sign: str = "") -> str:
    """Write a share in percent; a missing one as a dash."""
    return f"{value:{sign}.1%}" if value is not None and math.isfinite(value) else "-"


def span(interval: Sequence[float | None] | None, digits: int = 3) -> str:
    """Write an interval; an open end as infinite, one open at both ends as none at all."""
    if interval is None or not any(map(is_known, interval)):
        return "[no interval]"
    low, high = interval
    left = number(low, digits) if is_known(low) else "-inf"
    return f"[{left}, {number(high, digits) if is_known(high) else 'inf'}]"


def parameter_texts(law: LawFit, level: float) -> list[str]:
    """Write each parameter with its bootstrap and profile intervals."""
    texts = []
    for name, found in law.params.items():
        text = f"{name} = {number(found.value)}"
        if found.profile:  # an amplitude belongs to x = 1, far from the data: no interval
            text += f" ({level:.0%}: bootstrap {span(found.bootstrap)}, profile "
            text += f"{span(found.profile) if found.is_bounded else 'open at both ends'})"
        texts.append(text)
    return texts


def sensitivity_text(found: Sensitivity) -> str:
    """Say how far other estimators, levels left out and runs left out move the prediction."""
    where = ", ".join(f"{axis} = {number(value)}" for axis, value in found.target.items())
    parts = []
    shifts = [row.refit.shift for row in found.estimators]
    if shifts:
        least, most = percent(min(shifts), "+"), percent(max(shifts), "+")
        parts.append(f"{least} to {most} by other losses and knees")
    if found.levels:
        level = max(found.levels, key=lambda row: abs(row.refit.shift))
        told = f"the level {level.axis} = {level_text(level)} ({level.num_left_out} rows)"
        parts.append(f"{percent(level.refit.shift, '+')} without {told}")
    if found.runs:
        run = max(found.runs, key=lambda row: abs(row.refit.shift))
        parts.append(f"{percent(run.refit.shift, '+')} without {_run_text(run)}")
    moved = "; ".join(parts) or "nothing could be left out"
    return (
        f"The prediction{' at ' * bool(where)}{where} ({number(found.prediction)}) moves by: "
        f"{moved}."
    )


def _run_text(row: RunLeftOut) -> str:
    name = f"run {row.run}" if row.run is not None else "one run"
    known = is_known(row.standard_errors)
    return f"{name} ({number(row.standard_errors, 2)} standard errors)" if known else name


def level_text(row: LevelLeftOut) -> str:
    """Write the values of a level that was left out."""
    ends = [number(row.from_), number(row.to)]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def failure_texts(found: FailureStudy) -> list[str]:
    """Say how often runs fail, whether runs of a setting agree, and how failure falls."""
    total = sum(cell.rollouts for cell in found.cells)
    failures = sum(cell.failures for cell in found.cells)
    lines = [f"{failures} of {total} rollouts of {found.num_runs} runs failed."]
    if is_known(found.p_value):
        agree = "differ beyond" if found.p_value < 1 - found.level else "agree within"
        lines.append(
            f"Runs of one setting {agree} the chance of their episodes (chi-square over degrees "
            f"of freedom {number(found.overdispersion)}, p = {number(found.p_value, 2)})."
        )
    for result in found.axes.values():
        outcome = result.outcome
        if isinstance(outcome, FailureLaw):
            lines.append(f"Along {result.label}: {_failure_law(outcome, found.level)}")
        else:
            lines.append(f"No failure law along {result.label}: {outcome.reason}.")
    return lines


def _failure_law(found: FailureLaw, level: float) -> str:
    law, curve = found.law, found.curve
    told = "; ".join(parameter_texts(law, level))
    ahead = f"{percent(curve.mean[-1])} {span([curve.lower[-1], curve.upper[-1]], 2)}"
    return (
        f"failure = {law.formula} ({law.estimator}, {found.num_runs} runs). {told}. "
        f"At twice the last level: {ahead}."
    )


def search_texts(found: SearchResult) -> list[str]:
    """Say what a search answered, how its best point stands to the default, of how many trials."""
    counts = ", ".join(f"{n} {k.replace('_', ' ')}" for k, n in found["counts"].items() if n)
    lines = [sentence(found["answer"]), _against_default(found["best"], found["score"])]
    lines.append(sentence(counts))
    if found.get("stopped"):
        lines.append(sentence(f"stopped early: {found['stopped']}"))
    shares = found.get("importance") or {}
    told = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    return [*lines, *([f"Importance of the parameters (PED-ANOVA): {told}."] if told else [])]


def sentence(text: str) -> str:
    """Write a remark as a sentence."""
    return f"{text[:1].upper()}{text[1:]}."


def _against_default(best: Candidate, score: str) -> str:
    """Say how the chosen point stands to the default, with its interval."""
    point = ", ".join(f"{name} = {value}" for name, value in best["params"].items())
    mean = "not repeated" if best["mean"] is None else f"{number(best['mean'], 4)}"
    told = f"Best point: {point}; {score} {mean} over {len(best['repeats'])} new seeds"
    if best["delta"] is None or best["low"] is None:
        return f"{told} ({best['verdict']})."
    low, high = f"{best['low']:+.3g}", f"{best['high']:+.3g}"
    return f"{told}; minus the default's {best['delta']:+.3g} [{low}, {high}]: {best['verdict']}."
