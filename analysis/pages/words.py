"""Numbers, intervals and fits in words: what the page and the terminal say alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def number(value: float | None, digits: int = 3) -> str:
    """Write a number for people; a missing one as a dash."""
    return "-" if value is None or value != value else f"{value:.{digits}g}"


def percent(value: float | None, sign: str = "") -> str:
    """Write a share in percent; a missing one as a dash."""
    return "-" if value is None else f"{value:{sign}.1%}"


def span(interval: Sequence[float | None] | None, digits: int = 3) -> str:
    """Write an interval; an open end as infinite, one open at both ends as none at all."""
    if interval is None or all(v is None for v in interval):
        return "[no interval]"
    low, high = interval
    left = "-inf" if low is None else number(low, digits)
    return f"[{left}, {'inf' if high is None else number(high, digits)}]"


def parameter_texts(law: Mapping[str, Any], level: float) -> list[str]:
    """Write each parameter with its bootstrap and profile intervals."""
    texts = []
    for name, found in law["params"].items():
        text = f"{name} = {number(found['value'])}"
        if found["profile"]:  # an amplitude belongs to x = 1, far from the data: no interval
            text += f" ({level:.0%}: bootstrap {span(found['bootstrap'])}"
            closed = any(end is not None for end in found["profile"])
            text += f", profile {span(found['profile']) if closed else 'open at both ends'})"
        texts.append(text)
    return texts


def sensitivity_text(found: Mapping[str, Any]) -> str:
    """Say how far other estimators, levels left out and runs left out move the prediction."""
    where = ", ".join(f"{axis} = {number(value)}" for axis, value in found["target"].items())
    parts = []
    shifts = [row["shift"] for row in found["estimators"]]
    if shifts:
        parts.append(f"{percent(min(shifts), '+')} to {percent(max(shifts), '+')} by other losses "
                     "and knees")  # fmt: skip
    for kind, words in (("levels", "level"), ("runs", "run")):
        if found[kind]:
            row = max(found[kind], key=lambda row: abs(row["shift"]))
            parts.append(f"{percent(row['shift'], '+')} without {_left_out(row, words)}")
    moved = "; ".join(parts) or "nothing could be left out"
    return (
        f"The prediction{' at ' * bool(where)}{where} ({number(found['prediction'])}) moves by: "
        f"{moved}."
    )


def _left_out(row: Mapping[str, Any], kind: str) -> str:
    if kind == "run":
        name = f"run {row['run']}" if row.get("run") is not None else "one run"
        errors = row["standard_errors"]
        known = errors is not None and errors == errors
        return f"{name} ({number(errors, 2)} standard errors)" if known else name
    return f"the level {row['axis']} = {level_text(row)} ({row['num_left_out']} rows)"


def level_text(row: Mapping[str, Any]) -> str:
    """Write the values of a level that was left out."""
    ends = [number(row["from"]), number(row["to"])]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def search_texts(found: Mapping[str, Any]) -> list[str]:
    """Say what a search answered, how its best point stands to the default, and of how many trials.

    Args:
        found: result.json of a search (`analysis.pages.sections.search`).
    """
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


def _against_default(best: Mapping[str, Any], score: str) -> str:
    """Say how the chosen point stands to the default, with its interval."""
    point = ", ".join(f"{name} = {value}" for name, value in best["params"].items())
    mean = "not repeated" if best["mean"] is None else f"{number(best['mean'], 4)}"
    told = f"Best point: {point}; {score} {mean} over {len(best['repeats'])} new seeds"
    if best["delta"] is None or best["low"] is None:
        return f"{told} ({best['verdict']})."
    low, high = (f"{best[end]:+.3g}" for end in ("low", "high"))
    return f"{told}; minus the default's {best['delta']:+.3g} [{low}, {high}]: {best['verdict']}."
