"""What a fitted study says in words: one verdict an axis, every number with its conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.figures.style import short_number
from analysis.pages.words import number, parameter_texts, percent, sensitivity_text, span
from analysis.study import note_texts


def conditions(result: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """Name estimator, sigma, runs and seeds: they belong to every number."""
    sigma = result.get("law", {}).get("sigma")
    seeds = result.get("num_seeds") or document.get("num_seeds") or "unknown"
    parts = [document["estimator"], f"sigma {number(sigma)} in log"]
    return ", ".join([*parts, f"{result.get('num_runs', '?')} runs, {seeds} seeds"])


def n_text(document: Mapping[str, Any]) -> str:
    """Say which parameters N counts, where a law has that axis."""
    return f"; N is {document['n_column']}" if "N" in document["axes"] else ""


def headline(result: Mapping[str, Any]) -> str:
    """Say in one sentence whether the error falls with an axis."""
    label = result.get("label", result["axis"])
    if result["status"] == "refused":
        return f"No law along {label}: {result['reason']}."
    found = result["trend"]
    slope = f"elasticity {number(found['elasticity'])} {span(found['interval'])}"
    if found["verdict"] == "falls":
        return f"The error falls with {label} ({slope}, p = {number(found['p_value'], 2)})."
    if found["verdict"] == "rises":
        return f"The error RISES with {label} ({slope}, p = {number(found['p_value'], 2)})."
    return f"The error does not fall measurably with {label} ({slope}; the interval holds zero)."


def details(result: Mapping[str, Any], document: Mapping[str, Any]) -> list[str]:
    """List the sentences below a headline: law, saturation, gain, forecast, remarks."""
    if result["status"] == "refused":
        return []
    law, lines = result["law"], []
    lines.append(f"{document['y']} = {law['formula']} ({conditions(result, document)}).")
    if result["held_of_many"]:
        held = (f"{name} = {_short(value)}" for name, value in result["held_of_many"].items())
        lines.append(f"At {', '.join(held)}.")
    lines.append("Parameters: " + "; ".join(parameter_texts(law, document["level"])) + ".")
    lines.append(saturation_text(result["saturation"]))
    if result["trend"]["verdict"] == "falls":
        lines.append(gain_text(result["saturation"]))
    elif result["trend"]["verdict"] == "rises":
        lines.append("No gain is promised for the next doubling: the error rises.")
    else:
        lines.append("No gain is promised for the next doubling: the trend is within the noise.")
    lines.append(next_runs_text(result))
    lines.append(rivals_text(result))
    if law.get("sensitivity"):
        lines.append(sensitivity_text(law["sensitivity"]))
    return lines + [f"Remark {text}." for text in note_texts(dict(result))]


def summary_rows(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the verdict in one line an axis: exponent, floor, saturation, gain, what to buy."""
    rows = []
    for axis, result in document["axes"].items():
        row: dict[str, Any] = {"axis": result.get("label", axis)}
        if result["status"] == "refused":
            rows.append(row | {"trend": f"no law: {result['reason']}"})
            continue
        params, found = result["law"]["params"], result["saturation"]
        falls = result["trend"]["verdict"] == "falls"
        gain = found["next_doubling"] is not None and falls
        rows.append(
            row
            | {
                "trend": result["trend"]["verdict"],
                "exponent": _short_param(params["alpha"]),
                f"floor ({document['y']})": _short_param(params["E"]),
                "saturated?": found["verdict"],
                "next doubling buys": _short_gain(found) if gain else "nothing promised",
                "runs, seeds": f"{result['num_runs']}, {result['num_seeds'] or '?'}",
                "sigma (log)": result["law"]["sigma"],
                "buy next": _short_purchase(result),
            }
        )
    return rows


def _short(value: Any) -> str:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return short_number(value) if plain else str(value)


def _short_param(found: Mapping[str, Any]) -> str:
    known = found["profile"]
    if known and all(end is None for end in known):
        return f"{number(found['value'])} [open]"
    return f"{number(found['value'])} {span(known)}"


def _short_gain(found: Mapping[str, Any]) -> str:
    low_high = span(found["next_doubling_interval"], 2)
    return f"{number(found['next_doubling'], 2)} {low_high}"


def _short_purchase(result: Mapping[str, Any]) -> str:
    found = result["next_runs"]
    return purchase_text(found["rows"][0], found["unit"]) if found.get("rows") else "-"


def purchase_text(row: Mapping[str, Any], unit: str) -> str:
    """Say what one line of a buying order is, and what it costs."""
    runs = f"{row['num_runs']} run{'s' if row['num_runs'] > 1 else ''}"
    price = "" if unit == "runs" else f", {short_number(row['cost'])} {unit}"
    return f"{runs} at {short_number(row['level'])} ({row['kind']}{price})"


def next_runs_text(result: Mapping[str, Any]) -> str:
    """Say which runs to buy next, for how much, and what they teach."""
    found = result["next_runs"]
    if "refused" in found:
        return f"Which runs to buy next: no advice ({found['refused']})."
    first, last = found["rows"][0], found["rows"][-1]
    order = ", then ".join(purchase_text(row, found["unit"]) for row in found["rows"])
    return (
        f"Buy next: {order}. All of it ({short_number(last['spent'])} {found['unit']}) takes the "
        f"standard deviation of the error predicted at {short_number(found['target'])} from "
        f"{first['sd_percent_before']:.2g}% to {last['sd_percent_after']:.2g}%."
    )


def ranking_text(document: Mapping[str, Any]) -> str:
    """Say how the settings are ordered and what a difference is measured in."""
    found = document["noise_floor"]
    if not found:
        return (
            "Not ranked: no setting was run with two seeds, so that no difference can be measured "
            "against noise. Run a second seed of one setting or more."
        )
    within = any("prediction_window_s" in row for row in document["ranking"])
    rivals = "the best of the same prediction window (others have other targets)"
    return (
        f"Geometric means over seeds; delta_over_sigma is the difference from "
        f"{rivals if within else 'the best'} in its "
        f"standard error (sigma {number(found['sigma'])} in log from seeds, divided by the number "
        f"of seeds): below 2, two settings are not told apart."
    )


def saturation_text(found: Mapping[str, Any]) -> str:
    """Say whether the error has saturated, by which test."""
    test = f"floor test p = {number(found['p_value'], 2)}"
    return f"Saturation: {found['verdict']} ({found['reason']}; {test})."


def gain_text(found: Mapping[str, Any]) -> str:
    """Say what the next doubling buys."""
    gain, last = found["next_doubling"], found["last"]
    if gain is None:
        return "What the next doubling buys cannot be said: no noise estimate."
    return (
        f"The next doubling buys {number(gain, 2)} {span(found['next_doubling_interval'], 2)}, "
        f"{percent(gain / last)} of the error at the last level ({number(last)})."
    )


def rivals_text(result: Mapping[str, Any]) -> str:
    """Say which form the data prefer and how well it forecast the levels it had not seen."""
    found, ahead = result["comparison"], result["backtest"]
    if "refused" in found:
        first = f"Forms were not compared: {found['refused']}"
    else:
        shares = ", ".join(f"{r['law']} {r['weight']:.0%}" for r in found["rows"])
        first = f"Preferred form by AICc: {found['best']} (weights: {shares})"
    if "refused" in ahead:
        return f"{first}. No forecast test: {ahead['refused']}."
    return (
        f"{first}. Forecasting each next level from those below: mean error "
        f"{percent(ahead['mare'])}, bias {percent(ahead['bias'], '+')}, "
        f"{percent(ahead['coverage'])} of {ahead['num_predictions']} runs "
        f"inside the {ahead['level']:.0%} prediction interval."
    )


def joint_text(document: Mapping[str, Any]) -> str:
    """Say what the joint law is, or why there is none."""
    found = document["joint"]
    if found["status"] == "refused":
        return f"Joint law: {found['reason']}."
    law = found["law"]
    params = "; ".join(parameter_texts(law, document["level"]))
    return (
        f"Joint law {document['y']} = {law['formula']} ({document['estimator']}, sigma "
        f"{number(law['sigma'])} in log, {found['num_cells']} cells, {document['num_runs']} runs). "
        f"{params}."
    )


def joint_lines(document: Mapping[str, Any]) -> list[str]:
    """Return the joint law in words, and what is to be said against it."""
    remarks = [f"Remark {text}." for text in note_texts(document["joint"])]
    return [joint_text(document), *remarks]


def noise_text(document: Mapping[str, Any]) -> str:
    """Say how much seeds alone change the error."""
    found = document["noise_floor"]
    if not found:
        return "Seed noise is unknown: no setting was run with two seeds."
    return (
        f"Seeds alone change the error by {100 * found['sigma']:.2g}% (standard deviation in log, "
        f"{span(found['interval'], 2)}, {found['degrees_of_freedom']} degrees of freedom)."
    )


def success_text(document: Mapping[str, Any]) -> str:
    """Say whether a smaller error goes with more closed-loop success (paper, Table 1)."""
    found = document.get("success")
    if not found:
        return ""
    if "refused" in found:
        return f"Error against closed-loop success: {found['refused']}."
    told = found["correlation"]
    return (
        f"Error against closed-loop success over {told['num_runs']} runs: Spearman's "
        f"{number(told['spearman'], 2)} {span(told['spearman_interval'], 2)}, Kendall's "
        f"{number(told['kendall'], 2)} {span(told['kendall_interval'], 2)}, p = "
        f"{number(told['p_value'], 2)} of no fall."
    )


def not_beating(rows: Sequence[Mapping[Any, Any]], best: float | None, y: str) -> list[str]:
    """List the runs whose error is not below the best trivial predictor."""
    if best is None:
        return []
    return [str(r.get("run_id", "?")) for r in rows if r.get(y) is not None and r[y] >= best]


def render_fit(document: Mapping[str, Any]) -> str:
    """Write a fitted study as text for a terminal."""
    rule = "-" * 88
    head = f"{document['study']}: {document['y']} of {document['num_runs']} runs"
    lines = [head, rule, f"estimator: {document['estimator']}{n_text(document)}"]
    lines.append(noise_text(document))
    trivial = ", ".join(f"{k} {number(v)}" for k, v in document["baselines"].items())
    if trivial:
        lines.append(f"trivial predictors: {trivial}")
    lines += [f"note: {n['message']}" for n in document["notes"]]
    for result in document["axes"].values():
        lines += ["", headline(result)]
        lines += [f"  {line}" for line in details(result, document)]
    if not document["axes"]:
        lines += ["", "No axis varies with all else equal: nothing to fit."]
    lines += ["", *joint_lines(document), rule]
    return "\n".join(lines)
