"""All figures of a study: which are drawn, their files and captions, and what hovering says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.axis_study import AxisData, AxisFit, AxisLaw, Curve, Point
from analysis.figures import diagnostics, outcomes
from analysis.figures import laws as law_panels
from analysis.figures import style as styles
from analysis.figures.diagnostics import NAMES
from analysis.findings import Findings
from analysis.hover import Bands, Hover, Mark, Panel
from analysis.select import Backtest
from analysis.study import StudyFit
from analysis.success.failures import FailureLaw
from analysis.success.points import SuccessCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


QUALITY, OUTCOMES = "Profiles and forecasts", "Settings and success"  # sections of the page


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One figure on disk, and what the page says over it."""

    section: str
    caption: str
    paths: dict[str, str]
    wide: bool = False
    hover: Hover | None = None


def draw_all(found: Findings, folder: Path, *, curves: pd.DataFrame | None = None) -> list[Drawn]:
    """Draw every figure that a fitted study has the data for, as PNG and SVG."""
    study = found.fit
    with styles.style():
        drawn = [*_panel(found, folder), *_axes(found, folder), *_diagnostics(study, folder)]
        drawn += [*_isoflop(study, folder), *_outcomes(found, folder), *_failures(found, folder)]
        drawn += _prompts(found, folder)
        if curves is not None and len(curves):
            drawn += _curves(study.y, folder, curves)
    return drawn


def _new(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _drawn(
    figure: Figure, folder: Path, name: str, section: str, caption: str, **rest: Any
) -> Drawn:
    """Write a figure; `rest`: how wide it is, and what hovers."""
    return Drawn(section=section, caption=caption, paths=styles.save(figure, folder, name), **rest)


def _laws(study: StudyFit) -> Iterator[tuple[AxisFit, AxisLaw]]:
    for axis in study.axes.values():
        if axis.fitted:
            yield axis, axis.fitted


def _panel(found: Findings, folder: Path) -> Iterator[Drawn]:
    study = found.fit
    shown = [axis for axis in study.axes.values() if axis.data and axis.data.points]
    if not shown:
        return
    wide = _new(3.7 * len(shown) + 0.4, 3.7)
    law_panels.three_axes(wide, study, references=found.references)
    law_panels.legend(wide, study.level)
    caption = (
        f"{study.y} against each axis, all else held; circles are runs, "
        f"bars join the seeds of a level; {study.estimator}"
    )
    hover = _hover(zip(wide.axes, shown, strict=False), study.y)
    yield _drawn(wide, folder, "axes", "The axes side by side", caption, wide=True, hover=hover)


def _axes(found: Findings, folder: Path) -> Iterator[Drawn]:
    study = found.fit
    for axis, _ in _laws(study):
        tall = _new(5.4, 5.0)
        top, bottom = tall.subplots(2, 1, height_ratios=[3, 1.3], sharex=True)
        law_panels.axis_fit(top, axis, y=study.y, references=found.references)
        law_panels.residuals(bottom, axis)
        top.set_xlabel("")
        law_panels.legend(tall, study.level)
        held = axis.data.held if axis.data else {}
        told = ", ".join(
            f"{k} = {v:g}" if isinstance(v, float) else f"{k} = {v}" for k, v in held.items()
        )
        hover = _hover([(top, axis)], study.y)
        if marks := hover.marks[f"runs-{axis.axis}"]:
            hover.marks[f"left-{axis.axis}"] = marks
        caption = f"{axis.label}. Held: {told or 'nothing else varies'}"
        name = f"axis_{axis.axis}"
        yield _drawn(tall, folder, name, "Each axis: fit and residuals", caption, hover=hover)


def _hover(panels: Iterable[tuple[Axes, AxisFit]], y: str) -> Hover:
    """Return what the page shows over the points and curves of the panels."""
    marks, readable = {}, []
    for ax, axis in panels:
        if axis.data is None:
            continue
        curve = axis.fitted.curve if axis.fitted else None
        texts = [_mark(point, axis.data, curve, y) for point in axis.data.points]
        marks[f"runs-{axis.axis}"] = texts
        if curve:
            readable.append(_readable_curve(ax, axis, curve))
    return Hover(marks=marks, panels=readable)


def _readable_curve(ax: Axes, axis: AxisFit, curve: Curve) -> Panel:
    low, high = ax.get_xlim()
    bands = Bands(lower=curve.lower, upper=curve.upper, run_lower=curve.run_lower,
                  run_upper=curve.run_upper)  # fmt: skip
    known = np.isfinite([bands.lower, bands.upper, bands.run_lower, bands.run_upper]).all()
    return Panel(
        id=f"panel-{axis.axis}",
        label=axis.label,
        low=float(low),
        high=float(high),
        last=curve.x_last,
        x=curve.x,
        mean=curve.mean,
        bands=bands if known else None,
    )


def _mark(point: Point, data: AxisData, curve: Curve | None, y: str) -> Mark:
    """Return the text over one run's point, and the run."""
    named = {"run": point.run_id, "seed": point.seed, "size": point.size}
    lines = [f"{k} {v}" for k, v in named.items() if v is not None]
    lines.append(f"{data.label} {styles.short_number(point.x)}")
    lines.append(f"{y} {point.y:.4g}")
    if curve:
        lines.append(f"residual {100 * (point.y / float(curve.at(point.x)) - 1):+.1f} %")
    return Mark(run="" if point.run_id is None else str(point.run_id), text="\n".join(lines))


def _diagnostics(study: StudyFit, folder: Path) -> Iterator[Drawn]:
    for axis, found in _laws(study):
        profiles = found.law.profiles.values()
        if profiles:
            figure = _new(3.3 * len(profiles) + 0.2, 2.7)
            panels = figure.subplots(1, len(profiles), squeeze=False)[0]
            for ax, one in zip(panels, profiles, strict=True):
                unit = f" (units of {study.y})" if one.name == "E" else ""
                diagnostics.profile(ax, one, label=NAMES.get(one.name, one.name) + unit)
            caption = (
                f"{axis.label}: profile likelihood; shaded is the interval, dotted the estimate; "
                f"{found.law.estimator}"
            )
            yield _drawn(figure, folder, f"profile_{axis.axis}", QUALITY, caption)
        if isinstance(found.backtest, Backtest):
            figure = _new(5.0, 3.2)
            diagnostics.backtest(figure.subplots(), found.backtest, label=axis.label, y=study.y)
            caption = f"{axis.label}: each level forecast from those below it only"
            yield _drawn(figure, folder, f"backtest_{axis.axis}", QUALITY, caption)


def _isoflop(study: StudyFit, folder: Path) -> Iterator[Drawn]:
    found = study.isoflop
    if not found:
        return
    figure = _new(9.4, 3.6)
    left, right = figure.subplots(1, 2)
    diagnostics.isoflop(left, found.budgets, y=study.y, label=found.label)
    diagnostics.frontier(right, found.optima, label=found.label)
    caption = (
        "left: error against size at each budget with its parabola in logarithms; right: the "
        "optima against compute, and the power law through them"
    )
    yield _drawn(figure, folder, "isoflop", "Equal compute", caption, wide=True)


def _outcomes(found: Findings, folder: Path) -> Iterator[Drawn]:
    for name, result in found.settings.items():
        figure = _new(4.4, 3.2)
        outcomes.setting_curve(figure.subplots(), result)
        hover = Hover(marks={"runs-setting": result.marks})
        yield _drawn(figure, folder, name, OUTCOMES, result.caption, hover=hover)
    success = found.success
    if isinstance(success, SuccessCurve) and success.points:
        figure = _new(4.6, 3.4)
        outcomes.error_against_success(figure.subplots(), success, y=found.fit.y)
        hover = Hover(marks={"runs-success": success.marks})
        yield _drawn(figure, folder, "success", OUTCOMES, success.caption, hover=hover)


def _failures(found: Findings, folder: Path) -> Iterator[Drawn]:
    if found.failures is None:
        return
    for result in found.failures.axes.values():
        law = result.outcome
        if not isinstance(law, FailureLaw):
            continue
        figure = _new(4.6, 3.4)
        outcomes.failure_rate(
            figure.subplots(), law, label=result.label, level=found.failures.level
        )
        marks = [
            Mark(run=p.run_id, text=f"run {p.run_id}\nfails {p.y:.0%} of {p.rollouts}")
            for p in law.points
        ]
        caption = (
            f"{result.label}: failure rate of each run with its exact interval, and "
            f"{law.law.formula} ({law.law.estimator})"
        )
        hover = Hover(marks={"runs-failure": marks})
        yield _drawn(figure, folder, f"failure_{result.axis}", OUTCOMES, caption, hover=hover)


def _prompts(found: Findings, folder: Path) -> Iterator[Drawn]:
    result = found.soft_prompts
    if not result:
        return
    figure = _new(4.8, 3.6)
    outcomes.soft_prompts(figure.subplots(), result)
    shared = 100 * sum(result.explained[:2])
    caption = (
        f"Tokens of the best run's soft prompts in two principal components ({shared:.0f} % of "
        f"the variance); silhouette of the domains {result.silhouette:.3f}, with shuffled "
        f"labels {result.silhouette_shuffled:.3f} (p = {result.p_value:.3f})"
    )
    yield _drawn(figure, folder, "soft_prompts", "Soft prompts", caption)


def _curves(y: str, folder: Path, curves: pd.DataFrame) -> Iterator[Drawn]:
    figure = _new(6.4, 3.8)
    runs = law_panels.learning_curves(figure.subplots(), curves, metric=y)
    if runs:
        marks = {f"line-{i}": [Mark(run=r, text=f"run {r}")] for i, r in enumerate(runs)}
        caption = f"{y} during training, one line a run"
        yield _drawn(figure, folder, "curves", "Training", caption, hover=Hover(marks=marks))
