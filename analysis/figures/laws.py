"""Error against an axis: runs, fitted law, bands, residuals, and the panel of all axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.figures.style import (
    BAND,
    BLUE,
    INK,
    MUTED,
    ORANGE,
    RUN,
    column_label,
    grid,
    mark_levels,
    outlined,
    round_ticks,
    tex_number,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from analysis.axis_study import AxisFit, Curve
    from analysis.law_fit import LawFit
    from analysis.study import StudyFit

# A trivial predictor further above the runs than this is named, not drawn: it would flatten them.
FARTHEST = 2.5
REFERENCES = {
    "mean_chunk": ("mean chunk", (0, (5, 2)), MUTED),
    "hold": ("hold pose", (0, (1, 1.5)), MUTED),
    "blind": ("blind run", (0, (4, 1.5, 1, 1.5)), ORANGE),
}


def axis_fit(
    ax: Axes,
    result: AxisFit,
    *,
    y: str = "val_l1",
    references: Mapping[str, float] | None = None,
) -> Axes:
    """Draw error against one axis on log-log paper: runs, curve, bands, trivial predictors.

    Args:
        ax: where to draw.
        result: one axis of `fit_study`; a refused one shows its points only.
        y: the error's column, for the label.
        references: horizontal lines by name ("mean_chunk", "hold", "blind").
    """
    x, v = _points(result)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.patch.set_gid(f"panel-{result.axis}")
    curve = result.fitted.curve if result.fitted else None
    if curve:
        _draw_curve(ax, curve)
    _draw_points(ax, result.axis, x, v)
    ends = [curve.x[0], curve.x[-1]] if curve else x
    ax.set_xlim(min(ends) / 1.12, max(ends) * 1.12)
    shown = _draw_references(ax, references or {}, v)
    _limit_y(ax, v, curve, shown)
    mark_levels(ax, x)
    round_ticks(ax)
    ax.set_xlabel(result.label)
    ax.set_ylabel(column_label(y))
    return ax


def _points(result: AxisFit) -> tuple[np.ndarray, np.ndarray]:
    points = result.data.points if result.data else ()
    x = np.array([p.x for p in points], dtype=float)
    return x, np.array([p.y for p in points], dtype=float)


def _draw_points(ax: Axes, axis: str, x: np.ndarray, v: np.ndarray) -> None:
    """Draw every seed, and the range of each level as a thin bar."""
    for level in np.unique(x):
        here = v[x == level]
        ax.plot([level, level], [here.min(), here.max()], color=INK, lw=0.9, zorder=3)
    ax.scatter(x, v, **RUN, zorder=4, gid=f"runs-{axis}")


def _draw_curve(ax: Axes, curve: Curve) -> None:
    """Draw the fit, solid over the data and dashed beyond, and its two bands."""
    x, mean = np.array(curve.x), np.array(curve.mean)
    ax.fill_between(x, curve.lower, curve.upper, color=BAND, alpha=0.55, lw=0, zorder=1)
    for edge in (curve.run_lower, curve.run_upper):
        ax.plot(x, edge, color=MUTED, lw=0.8, ls=(0, (1, 1.2)), zorder=1.2)
    inside = x <= curve.x_last * (1 + 1e-9)
    ax.plot(x[inside], mean[inside], color=BLUE, lw=1.8, zorder=2)
    beyond = x >= x[inside][-1]
    ax.plot(x[beyond], mean[beyond], color=BLUE, lw=1.4, ls=(0, (3, 2)), zorder=2)


def _draw_references(ax: Axes, references: Mapping[str, float], v: np.ndarray) -> list[float]:
    """Draw lines of trivial predictors; those off the scale are named at the top edge."""
    shown, far = [], []
    for name, value in references.items():
        text, dash, colour = REFERENCES.get(name, (name, (0, (2, 2)), MUTED))
        if not v.min() / FARTHEST < value < v.max() * FARTHEST:
            side = "\u2191" if value > v.max() else "\u2193"
            far.append(f"{side} {text} {value:.3g}")
            continue
        ax.axhline(value, color=colour, lw=1.1, ls=dash, zorder=1.5)
        ax.annotate(
            f"{text} {value:.3g}",
            (1.0, value),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 2),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=7.5,
            color=colour,
            path_effects=outlined(),
        )
        shown.append(value)
    if far:
        ax.set_title("off the scale: " + "  ".join(far), fontsize=7.5, color=MUTED, loc="right")
    return shown


def _limit_y(ax: Axes, v: np.ndarray, curve: Curve | None, shown: Sequence[float]) -> None:
    """Fit the y range to points, the curve and reference lines; a wild band does not widen it."""
    values = [v.min(), v.max(), *shown]
    if curve:
        values += [min(curve.mean), max(curve.mean)]
    low, high = min(values), max(values)
    room = max((high / low) ** 0.12, 1.03)
    ax.set_ylim(low / room, high * room * (1.02 if shown else 1.0))


def residuals(ax: Axes, result: AxisFit) -> Axes:
    """Draw what the law leaves over, in percent, with one and two standard deviations.

    Raises:
        ValueError: the law of this axis was refused.
    """
    if result.fitted is None:
        raise ValueError(f"axis {result.axis} has no law, hence no residuals")
    (x, v), curve, law = _points(result), result.fitted.curve, result.fitted.law
    left = 100 * (v / curve.at(x) - 1)
    sigma = 100 * (law.sigma if np.isfinite(law.sigma) else 0.0)
    ax.set_xscale("log")
    for width, alpha in ((2, 0.25), (1, 0.35)):
        ax.axhspan(-width * sigma, width * sigma, color=BAND, alpha=alpha, lw=0, zorder=0)
    ax.axhline(0, color=BLUE, lw=1.4, zorder=1)
    ax.scatter(x, left, **RUN, zorder=3, gid=f"left-{result.axis}")
    bound = 1.15 * max(np.abs(left).max(), 2 * sigma, 1e-3)
    ax.set_ylim(-bound, bound)
    ax.set_xlim(curve.x[0] / 1.12, curve.x[-1] * 1.12)
    mark_levels(ax, x)
    grid(ax)
    ax.set_xlabel(result.label)
    ax.set_ylabel("residual (%)\nshaded: 1, 2 \u03c3")
    return ax


def three_axes(
    figure: Figure,
    study: StudyFit,
    *,
    references: Mapping[str, float] | None = None,
) -> Figure:
    """Draw every axis of a study side by side, as the paper's Fig. 6."""
    shown = [a for a in study.axes.values() if a.data and a.data.points]
    axes = figure.subplots(1, max(len(shown), 1), squeeze=False)[0]
    for ax, result in zip(axes, shown, strict=False):
        axis_fit(ax, result, y=study.y, references=references)
        if result.fitted:
            formula = math_formula(result.axis, result.fitted.law)
            ax.text(0.03, 0.03, formula, transform=ax.transAxes, fontsize=9, color=BLUE)
    _share_y(axes[: len(shown)])
    for ax in axes[1:]:
        ax.set_ylabel("")
        ax.tick_params(labelleft=False)
    return figure


def _share_y(axes: Sequence[Axes]) -> None:
    """Give all panels the range that holds each one's, and room for the formulas below."""
    limits = np.array([ax.get_ylim() for ax in axes])
    low, high = limits[:, 0].min(), limits[:, 1].max()
    low = low / (high / low) ** 0.08
    for ax in axes:
        ax.set_ylim(low, high)
        round_ticks(ax)


def math_formula(axis: str, law: LawFit) -> str:
    """Return the fitted law of one axis in mathtext; a floor of zero is left out."""
    params = {k: p.value for k, p in law.params.items()}
    symbol = {"N": "N", "D": "D"}.get(axis, "x")
    falling = rf"{tex_number(params['A'])}\,{symbol}^{{{-params['alpha']:.2f}}}"
    floor = f"{tex_number(params['E'])} + " if params["E"] > 0 else ""
    return rf"${floor}{falling}$"


def legend(figure: Figure, level: float) -> Figure:
    """Explain the marks below the panels: runs, fit, extrapolation, both bands."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries = [
        Line2D([], [], ls="", marker="o", mfc="white", mec=INK, label="one run (seed)"),
        Line2D([], [], color=BLUE, lw=1.8, label="fitted law"),
        Line2D([], [], color=BLUE, lw=1.4, ls=(0, (3, 2)), label="beyond the data"),
        Patch(color=BAND, alpha=0.55, label=f"{level:.0%} band of the law"),
        Line2D([], [], color=MUTED, lw=0.8, ls=(0, (1, 1.2)), label=f"{level:.0%} of new runs"),
    ]
    wide = figure.get_figwidth() > 6
    columns = len(entries) if wide else 3
    figure.legend(handles=entries, loc="outside lower center", ncols=columns, handlelength=1.8)
    return figure


def learning_curves(ax: Axes, curves: Any, *, metric: str = "val_l1") -> list[str]:
    """Draw a metric during training, one line a run; return the runs that were drawn.

    Args:
        ax: where to draw.
        curves: long table `run_id, num_samples_seen, metric, value`.
        metric: which.
    """
    rows = curves[(curves["metric"] == metric) & (curves["value"] > 0)]
    rows = rows[rows["num_samples_seen"] > 0].sort_values("step")
    drawn: list[str] = []
    for run_id, part in rows.groupby("run_id"):
        if len(part) < 2:
            continue
        x, v = part["num_samples_seen"].to_numpy(), part["value"].to_numpy()
        ax.plot(x, v, color=BLUE, alpha=0.35, lw=1.0, gid=f"line-{len(drawn)}")
        drawn.append(str(run_id))
    if drawn:
        ax.set_yscale("log")
        ax.set_xlabel("training samples seen")
        ax.set_ylabel(column_label(metric))
        round_ticks(ax)
    return drawn
