"""What a fitted study says in words: one verdict an axis, every number with its conditions."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.axis_study import AxisFit, AxisLaw
from analysis.document import Scalar
from analysis.figures.style import short_number
from analysis.law_fit import Param
from analysis.next_runs import NextRuns, Purchase
from analysis.notes import Note, Refused, Skipped
from analysis.pages.sentences import (
    is_known,
    number,
    parameter_texts,
    percent,
    sensitivity_text,
    span,
)
from analysis.saturation import Saturation
from analysis.study import StudyFit
from analysis.success.points import SuccessCurve

GAINS = {
    "rises": "No gain is promised for the next doubling: the error rises.",
    "does not fall": "No gain is promised for the next doubling: the trend is within the noise.",
}


def n_text(study: StudyFit) -> str:
    """Say which parameters N counts, where a law has that axis."""
    return f"; N is {study.n_column}" if "N" in study.axes else ""


def headline(axis: AxisFit) -> str:
    """Say in one sentence whether the error falls with an axis."""
    label, found = axis.label, axis.trend
    if isinstance(axis.outcome, Refused) or found is None:
        return f"No law along {label}: {_reason(axis)}."
    slope = f"elasticity {number(found.elasticity)} {span(found.interval)}"
    if found.verdict == "does not fall":
        why = "the interval holds zero"
        return f"The error does not fall measurably with {label} ({slope}; {why})."
    falls = "falls" if found.verdict == "falls" else "RISES"
    return f"The error {falls} with {label} ({slope}, p = {number(found.p_value, 2)})."


def _reason(axis: AxisFit) -> str:
    return axis.outcome.reason if isinstance(axis.outcome, Refused) else "it has no trend"


def details(axis: AxisFit, study: StudyFit) -> list[str]:
    """List the sentences below a headline: law, saturation, gain, forecast, remarks."""
    found, data, slope = axis.fitted, axis.data, axis.trend
    if not (found and data and slope):
        return []
    law, lines = found.law, []
    seeds = data.num_seeds or study.num_seeds or "unknown"
    lines.append(
        f"{study.y} = {law.formula} ({study.estimator}, sigma {number(law.sigma)} in log, "
        f"{data.num_runs} runs, {seeds} seeds)."
    )
    if data.held_of_many:
        held = (f"{name} = {_short(value)}" for name, value in data.held_of_many.items())
        lines.append(f"At {', '.join(held)}.")
    lines.append("Parameters: " + "; ".join(parameter_texts(law, study.level)) + ".")
    lines.append(saturation_text(found.saturation))
    lines.append(GAINS.get(slope.verdict) or gain_text(found.saturation))
    lines += [next_runs_text(found.next_runs), rivals_text(found)]
    if law.sensitivity:
        lines.append(sensitivity_text(law.sensitivity))
    return lines + remarks([*data.notes, *law.notes])


def remarks(notes: Sequence[Note]) -> list[str]:
    """Write remarks as sentences."""
    return [f"Remark {note}." for note in notes]


def summary_rows(study: StudyFit) -> list[dict[str, Scalar]]:
    """Return the verdict in one line an axis: exponent, floor, saturation, gain, what to buy."""
    return [{"axis": axis.label, **_summary(axis, study.y)} for axis in study.axes.values()]


def _summary(axis: AxisFit, y: str) -> dict[str, Scalar]:
    found, data, slope = axis.fitted, axis.data, axis.trend
    if not (found and data and slope):
        return {"trend": f"no law: {_reason(axis)}"}
    params, gain, plan = found.law.params, found.saturation.next_doubling, found.next_runs
    buys = slope.verdict == "falls" and is_known(gain)
    interval = span(found.saturation.next_doubling_interval, 2)
    return {
        "trend": slope.verdict,
        "exponent": _short_param(params["alpha"]),
        f"floor ({y})": _short_param(params["E"]),
        "saturated?": found.saturation.verdict,
        "next doubling buys": f"{number(gain, 2)} {interval}" if buys else "nothing promised",
        "runs, seeds": f"{data.num_runs}, {data.num_seeds or '?'}",
        "sigma (log)": found.law.sigma,
        "buy next": "-" if isinstance(plan, Skipped) else purchase_text(plan.rows[0], plan.unit),
    }


def _short(value: Scalar) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return short_number(value)


def _short_param(found: Param) -> str:
    is_open = found.profile is not None and not found.is_bounded
    return f"{number(found.value)} {'[open]' if is_open else span(found.profile)}"


def purchase_text(row: Purchase, unit: str) -> str:
    """Say what one line of a buying order is, and what it costs."""
    runs = f"{row.num_runs} run{'s' if row.num_runs > 1 else ''}"
    price = "" if unit == "runs" else f", {short_number(row.cost)} {unit}"
    return f"{runs} at {short_number(row.level)} ({row.kind}{price})"


def next_runs_text(found: NextRuns | Skipped) -> str:
    """Say which runs to buy next, for how much, and what they teach."""
    if isinstance(found, Skipped):
        return f"Which runs to buy next: no advice ({found.refused})."
    first, last = found.rows[0], found.rows[-1]
    order = ", then ".join(purchase_text(row, found.unit) for row in found.rows)
    return (
        f"Buy next: {order}. All of it ({short_number(last.spent)} {found.unit}) takes the "
        f"standard deviation of the error predicted at {short_number(found.target)} from "
        f"{first.sd_percent_before:.2g}% to {last.sd_percent_after:.2g}%."
    )


def ranking_text(study: StudyFit) -> str:
    """Say how the settings are ordered and what a difference is measured in."""
    if not study.noise_floor:
        return (
            "Not ranked: no setting was run with two seeds, so that no difference can be measured "
            "against noise. Run a second seed of one setting or more."
        )
    within = any("prediction_window_s" in setting.values for setting in study.ranking)
    rivals = "the best of the same prediction window (others have other targets)"
    return (
        f"Geometric means over seeds; delta_over_sigma is the difference from "
        f"{rivals if within else 'the best'} in its "
        f"standard error (sigma {number(study.noise_floor.sigma)} in log from seeds, divided by "
        f"the number of seeds): below 2, two settings are not told apart."
    )


def saturation_text(found: Saturation) -> str:
    """Say whether the error has saturated, by which test."""
    test = f"floor test p = {number(found.p_value, 2)}"
    return f"Saturation: {found.verdict} ({found.reason}; {test})."


def gain_text(found: Saturation) -> str:
    """Say what the next doubling buys."""
    gain, last = found.next_doubling, found.last
    if not is_known(gain):
        return "What the next doubling buys cannot be said: no noise estimate."
    return (
        f"The next doubling buys {number(gain, 2)} {span(found.next_doubling_interval, 2)}, "
        f"{percent(gain / last)} of the error at the last level ({number(last)})."
    )


def rivals_text(found: AxisLaw) -> str:
    """Say which form the data prefer and how well it forecast the levels it had not seen."""
    forms, ahead = found.comparison, found.backtest
    if isinstance(forms, Skipped):
        first = f"Forms were not compared: {forms.refused}"
    else:
        shares = ", ".join(f"{r.law} {r.weight:.0%}" for r in forms.rows)
        first = f"Preferred form by AICc: {forms.best} (weights: {shares})"
    if isinstance(ahead, Skipped):
        return f"{first}. No forecast test: {ahead.refused}."
    return (
        f"{first}. Forecasting each next level from those below: mean error "
        f"{percent(ahead.mare)}, bias {percent(ahead.bias, '+')}, "
        f"{percent(ahead.coverage)} of {ahead.num_predictions} runs "
        f"inside the {ahead.level:.0%} prediction interval."
    )


def joint_lines(study: StudyFit) -> list[str]:
    """Return the joint law in words, or why there is none, and what is to be said against it."""
    found = study.joint
    if isinstance(found, Refused):
        return [f"Joint law: {found.reason}."]
    law = found.law
    return [
        f"Joint law {study.y} = {law.formula} ({study.estimator}, sigma {number(law.sigma)} in "
        f"log, {found.num_cells} cells, {study.num_runs} runs). "
        f"{'; '.join(parameter_texts(law, study.level))}.",
        *remarks(law.notes),
    ]


def noise_text(study: StudyFit) -> str:
    """Say how much seeds alone change the error."""
    found = study.noise_floor
    if not found:
        return "Seed noise is unknown: no setting was run with two seeds."
    return (
        f"Seeds alone change the error by {100 * found.sigma:.2g}% (standard deviation in log, "
        f"{span(found.interval, 2)}, {found.degrees_of_freedom} degrees of freedom)."
    )


def success_text(found: SuccessCurve | Skipped | None) -> str:
    """Say whether a smaller error goes with more closed-loop success (paper, Table 1)."""
    if found is None:
        return ""
    if isinstance(found, Skipped):
        return f"Error against closed-loop success: {found.refused}."
    told = found.correlation
    return (
        f"Error against closed-loop success over {told.num_runs} runs: Spearman's "
        f"{number(told.spearman, 2)} {span(told.spearman_interval, 2)}, Kendall's "
        f"{number(told.kendall, 2)} {span(told.kendall_interval, 2)}, p = "
        f"{number(told.p_value, 2)} of no fall."
    )
