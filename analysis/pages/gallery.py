"""All figures of a study: which are drawn, their files and captions, and what hovering says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis import plots
from analysis.figures.diagnostics import NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One figure on disk.

    `hover` is plain data for the page: `marks` (texts by SVG id, in drawing order) and `panels`
    (curves to read off under the pointer).
    """

    name: str
    section: str
    caption: str
    paths: dict[str, str]
    wide: bool = False
    hover: dict[str, Any] = field(default_factory=dict)


def draw_all(
    document: Mapping[str, Any], folder: Path, *, curves: pd.DataFrame | None = None
) -> list[Drawn]:
    """Draw every figure that a fitted study has the data for, as PNG and SVG."""
    with plots.style():
        drawn = [*_panel(document, folder), *_axes(document, folder)]
        drawn += [*_diagnostics(document, folder), *_isoflop(document, folder)]
        drawn += [*_outcomes(document, folder), *_failures(document, folder)]
        drawn += _prompts(document, folder)
        if curves is not None and len(curves):
            drawn += _curves(document, folder, curves)
    return drawn


def _new(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _fitted(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {a: r for a, r in document["axes"].items() if r["status"] == "fitted"}


def _panel(document: Mapping[str, Any], folder: Path) -> Iterator[Drawn]:
    shown = {a: r for a, r in document["axes"].items() if r.get("points")}
    if not shown:
        return
    wide = _new(3.7 * len(shown) + 0.4, 3.7)
    plots.three_axes(wide, document, references=document["references"])
    plots.legend(wide, document["level"])
    caption = (
        f"{document['y']} against each axis, all else held; circles are runs, "
        f"bars join the seeds of a level; {document['estimator']}"
    )
    yield Drawn(
        name="axes",
        section="The axes side by side",
        wide=True,
        caption=caption,
        paths=plots.save(wide, folder, "axes"),
        hover=_hover(zip(wide.axes, shown.values(), strict=False), document),
    )


def _axes(document: Mapping[str, Any], folder: Path) -> Iterator[Drawn]:
    for axis, result in _fitted(document).items():
        tall = _new(5.4, 5.0)
        top, bottom = tall.subplots(2, 1, height_ratios=[3, 1.3], sharex=True)
        plots.axis_fit(top, result, y=document["y"], references=document["references"])
        plots.residuals(bottom, result)
        top.set_xlabel("")
        plots.legend(tall, document["level"])
        held = ", ".join(
            f"{k} = {v:g}" if isinstance(v, float) else f"{k} = {v}"
            for k, v in result["held"].items()
        )
        hover = _hover([(top, result)], document)
        if hover["marks"]:
            hover["marks"][f"left-{axis}"] = hover["marks"][f"runs-{axis}"]
        yield Drawn(
            name=axis,
            section="Each axis: fit and residuals",
            caption=f"{result['label']}. Held: {held or 'nothing else varies'}",
            paths=plots.save(tall, folder, f"axis_{axis}"),
            hover=hover,
        )


def _hover(panels: Any, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page shows over the points and curves of the panels."""
    hover: dict[str, Any] = {"marks": {}, "panels": []}
    for ax, result in panels:
        axis, curve = result["axis"], result.get("curve")
        hover["marks"][f"runs-{axis}"] = [
            _mark(point, result, document["y"]) for point in result["points"]
        ]
        if curve:
            hover["panels"].append(_readable_curve(ax, result, curve))
    return hover


def _readable_curve(
    ax: Axes, result: Mapping[str, Any], curve: Mapping[str, Any]
) -> dict[str, Any]:
    low, high = ax.get_xlim()
    bands = {k: curve[k] for k in ("lower", "upper", "run_lower", "run_upper")}
    known = all(v is not None for values in bands.values() for v in values)
    return {
        "id": f"panel-{result['axis']}",
        "label": result["label"],
        "low": float(low),
        "high": float(high),
        "last": curve["x_last"],
        "x": curve["x"],
        "mean": curve["mean"],
    } | (bands if known else {})


def _mark(point: Mapping[str, Any], result: Mapping[str, Any], y: str) -> dict[str, str]:
    """Return the text over one run's point, and the run."""
    lines = [f"run {point['run_id']}"] if point.get("run_id") is not None else []
    lines += [f"{k} {point[k]}" for k in ("seed", "size") if point.get(k) is not None]
    lines.append(f"{result['label']} {plots.short_number(point['x'])}")
    lines.append(f"{y} {point['y']:.4g}")
    if result.get("curve"):
        curve = result["curve"]
        fitted = np.interp(np.log(point["x"]), np.log(curve["x"]), np.log(curve["mean"]))
        lines.append(f"residual {100 * (point['y'] / np.exp(fitted) - 1):+.1f} %")
    return {"run": str(point.get("run_id", "")), "text": "\n".join(lines)}


def _diagnostics(document: Mapping[str, Any], folder: Path) -> Iterator[Drawn]:
    for axis, result in _fitted(document).items():
        found = result["law"]["profiles"]
        if found:
            figure = _new(3.3 * len(found) + 0.2, 2.7)
            for ax, one in zip(figure.subplots(1, len(found), squeeze=False)[0], found.values(),
                               strict=True):  # fmt: skip
                unit = f" (units of {document['y']})" if one["name"] == "E" else ""
                plots.profile(ax, one, label=NAMES.get(one["name"], one["name"]) + unit)
            yield Drawn(
                name=f"profile_{axis}",
                section="Profiles and forecasts",
                caption=f"{result['label']}: profile likelihood; shaded is the interval, "
                f"dotted the estimate; {result['law']['estimator']}",
                paths=plots.save(figure, folder, f"profile_{axis}"),
            )
        if "cuts" in result["backtest"]:
            figure = _new(5.0, 3.2)
            plots.backtest(figure.subplots(), result["backtest"], label=result["label"],
                           y=document["y"])  # fmt: skip
            yield Drawn(
                name=f"backtest_{axis}",
                section="Profiles and forecasts",
                caption=f"{result['label']}: each level forecast from those below it only",
                paths=plots.save(figure, folder, f"backtest_{axis}"),
            )


def _isoflop(document: Mapping[str, Any], folder: Path) -> Iterator[Drawn]:
    found = document.get("isoflop")
    if not found:
        return
    figure = _new(9.4, 3.6)
    left, right = figure.subplots(1, 2)
    plots.isoflop(left, found, y=document["y"], label=found["label"])
    plots.frontier(right, found, label=found["label"])
    yield Drawn(
        name="isoflop",
        section="Equal compute",
        wide=True,
        caption="left: error against size at each budget with its parabola in logarithms; right: "
        "the optima against compute, and the power law through them",
        paths=plots.save(figure, folder, "isoflop"),
    )


def _outcomes(document: Mapping[str, Any], folder: Path) -> Iterator[Drawn]:
    for name, result in document.get("settings", {}).items():
        figure = _new(4.4, 3.2)
        plots.setting_curve(figure.subplots(), result)
        yield Drawn(
            name=name,
            section="Settings and success",
            caption=result["caption"],
            paths=plots.save(figure, folder, name),
            hover={"marks": {"runs-setting": result["marks"]}},
        )
    if (document.get("success") or {}).get("points"):
        figure = _new(4.6, 3.4)
        plots.error_against_success(figure.subplots(), document["success"], y=document["y"])
        yield Drawn(
            name="success",
            section="Settings and success",
            caption=document["success"]["caption"],
            paths=plots.save(figure, folder, "success"),
            hover={"marks": {"runs-success": document["success"]["marks"]}},
        )


def _failures(document: Mapping[str, Any], folder: Path) -> Iterator[Drawn]:
    found = document.get("failures") or {"axes": {}}
    for axis, result in found["axes"].items():
        if result["status"] == "refused":
            continue
        figure = _new(4.6, 3.4)
        plots.failure_rate(figure.subplots(), result, found["level"])
        texts = [
            {
                "run": p["run_id"],
                "text": f"run {p['run_id']}\nfails {p['y']:.0%} of {p['rollouts']}",
            }
            for p in result["points"]
        ]
        yield Drawn(
            name=f"failure_{axis}",
            section="Settings and success",
            caption=f"{result['label']}: failure rate of each run with its exact interval, and "
            f"{result['law']['formula']} ({result['law']['estimator']})",
            paths=plots.save(figure, folder, f"failure_{axis}"),
            hover={"marks": {"runs-failure": texts}},
        )


def _prompts(document: Mapping[str, Any], folder: Path) -> Iterator[Drawn]:
    result = document.get("soft_prompts")
    if not result:
        return
    figure = _new(4.8, 3.6)
    plots.soft_prompts(figure.subplots(), result)
    shared = 100 * sum(result["explained"][:2])
    yield Drawn(
        name="soft_prompts",
        section="Soft prompts",
        caption=(
            f"Tokens of the best run's soft prompts in two principal components ({shared:.0f} % of "
            f"the variance); silhouette of the domains {result['silhouette']:.3f}, with shuffled "
            f"labels {result['silhouette_shuffled']:.3f} (p = {result['p_value']:.3f})"
        ),
        paths=plots.save(figure, folder, "soft_prompts"),
    )


def _curves(document: Mapping[str, Any], folder: Path, curves: pd.DataFrame) -> Iterator[Drawn]:
    figure = _new(6.4, 3.8)
    runs = plots.learning_curves(figure.subplots(), curves, metric=document["y"])
    if runs:
        marks = {f"line-{i}": [{"run": r, "text": f"run {r}"}] for i, r in enumerate(runs)}
        yield Drawn(
            name="curves",
            section="Training",
            caption=f"{document['y']} during training, one line a run",
            paths=plots.save(figure, folder, "curves"),
            hover={"marks": marks},
        )
