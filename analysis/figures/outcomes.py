"""Error and success beyond the laws: design settings, closed-loop success, soft prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from analysis.figures.style import (
    BAND,
    BLUE,
    DASHES,
    INK,
    MARKERS,
    MUTED,
    ORANGE,
    RUN,
    SHADES,
    column_label,
    grid,
    mark_levels,
    round_ticks,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from analysis.prompts import PromptMap
    from analysis.success.failures import FailureLaw
    from analysis.success.points import SettingCurve, SuccessCurve


def setting_curve(ax: Axes, result: SettingCurve) -> Axes:
    """Draw error or success against a setting such as the prediction window or prompt length.

    Args:
        ax: where to draw.
        result: rates are in percent.
    """
    points = result.points
    x = np.array([p.x for p in points], dtype=float)
    v = np.array([p.y for p in points], dtype=float)
    levels = np.unique(x)
    means = np.array([v[x == level].mean() for level in levels])
    ax.set_xscale("log")
    ax.plot(levels, means, color=BLUE, lw=1.6, zorder=2, label="mean of seeds")
    place = _side_by_side(x) if points[0].lower is not None else x
    for p, at in zip(points, place, strict=True):
        if p.lower is not None and p.upper is not None:
            ax.plot([at] * 2, [p.lower, p.upper], color=INK, lw=0.9, zorder=3)
    for level in levels if place is x else ():
        here = v[x == level]
        ax.plot([level, level], [here.min(), here.max()], color=INK, lw=0.9, zorder=3)
    ax.scatter(place, v, **RUN, zorder=4, label="one run (seed)", gid="runs-setting")
    _draw_published(ax, result)
    ax.set_xlim(levels.min() / 1.3, levels.max() * 1.3)
    mark_levels(ax, levels)
    if result.y == "success_rate":
        ax.set_ylim(-3, 103)
    grid(ax)
    ax.set_xlabel(column_label(result.x))
    ax.set_ylabel(column_label(result.y))
    ax.legend(loc="best")
    return ax


def _side_by_side(x: np.ndarray) -> np.ndarray:
    """Move runs of the same level apart, so that their intervals can be read [n]."""
    place = x.astype(float).copy()
    for level in np.unique(x):
        here = np.flatnonzero(x == level)
        place[here] = level * 1.05 ** (np.arange(len(here)) - (len(here) - 1) / 2)
    return place


def _draw_published(ax: Axes, result: SettingCurve) -> None:
    """Draw the paper's numbers where there are some: grey, broken, and named."""
    rows = result.published
    if rows:
        ax.plot([r.x for r in rows], [r.y for r in rows], color=MUTED, lw=1.1, marker="x",
                ls=DASHES[1], zorder=1, label=result.published_label)  # fmt: skip


def error_against_success(ax: Axes, result: SuccessCurve, *, y: str = "val_l1") -> Axes:
    """Draw closed-loop success against validation error: does the proxy rank policies?

    Args:
        ax: where to draw.
        result: rates are shares.
        y: the error's column, for the label.
    """
    points = result.points
    error = np.array([p.error for p in points])
    rate, low, high = 100 * np.array([(p.rate, p.lower, p.upper) for p in points]).T
    ax.set_xscale("log")
    ends = [np.maximum(rate - low, 0), np.maximum(high - rate, 0)]
    ax.errorbar(error, rate, yerr=ends, ls="", color=INK, lw=0.9, capsize=2, zorder=2)
    ax.scatter(error, rate, **RUN, zorder=3, label="one run", gid="runs-success")
    rows = result.published
    if rows:
        ax.plot([r.error for r in rows], [100 * r.rate for r in rows], color=MUTED, lw=1.0,
                marker="x", ls=DASHES[1], zorder=1, label=result.published_label)  # fmt: skip
    found = result.correlation
    span = ", ".join(f"{v:.2f}" if np.isfinite(v) else "open" for v in found.spearman_interval)
    text = f"Spearman \u03c1 = {found.spearman:.2f} [{span}]"
    text += f" ({found.level:.0%}), Kendall \u03c4 = {found.kendall:.2f}, {len(points)} runs"
    ax.set_title(text, fontsize=8, color=INK, loc="left")
    ax.set_ylim(-3, 103)
    round_ticks(ax, "x")
    ax.set_xlabel(column_label(y))
    ax.set_ylabel(column_label("success_rate"))
    ax.legend(loc="best")
    return ax


def failure_rate(ax: Axes, result: FailureLaw, *, label: str, level: float = 0.95) -> Axes:
    """Draw the failure rate of closed-loop rollouts against an axis, with its binomial law.

    Args:
        ax: where to draw.
        result: of one axis, in shares.
        label: of the axis.
        level: of the intervals, for the legend.
    """
    points, curve = result.points, result.curve
    x = np.array([p.x for p in points], dtype=float)
    rate, low, high = 100 * np.array([(p.y, p.lower, p.upper) for p in points]).T
    place = _side_by_side(x)
    ends = [np.maximum(rate - low, 0), np.maximum(high - rate, 0)]
    ax.set_xscale("log")
    at = np.array(curve.x)
    mean, lower, upper = (100 * np.array(v) for v in (curve.mean, curve.lower, curve.upper))
    ax.fill_between(at, lower, upper, color=BAND, alpha=0.55, lw=0, label=f"{level:.0%} of the law")
    inside = at <= curve.x_last * (1 + 1e-9)
    ax.plot(at[inside], mean[inside], color=BLUE, lw=1.8, label="law")
    ax.plot(at[~inside], mean[~inside], color=BLUE, lw=1.4, ls=(0, (3, 2)))
    ax.errorbar(place, rate, yerr=ends, ls="", color=INK, lw=0.9, capsize=2, zorder=2)
    ax.scatter(place, rate, **RUN, zorder=3, label=f"one run, {level:.0%}", gid="runs-failure")
    mark_levels(ax, np.unique(x))
    ax.set_ylim(-3, 103)
    grid(ax)
    ax.set_xlabel(label)
    ax.set_ylabel("closed-loop failure rate (%)")
    ax.legend(loc="best")
    return ax


def soft_prompts(ax: Axes, result: PromptMap) -> Axes:
    """Draw the tokens of the soft prompts in their first two principal components.

    Args:
        ax: where to draw.
        result: of `analysis.prompts`.
    """
    place, labels = np.array(result.coordinates), np.array(result.labels)
    for k, name in enumerate(dict.fromkeys(result.labels)):
        here = place[labels == name]
        colour, mark = SHADES[k % len(SHADES)], MARKERS[k % len(MARKERS)]
        again = k // len(SHADES)  # a second round of colours is hollow
        face = "none" if again else colour
        ax.scatter(here[:, 0], here[:, 1], s=24, marker=mark, facecolor=face, edgecolor=colour,
                   lw=0.9, label=name, zorder=3)  # fmt: skip
        middle = here.mean(axis=0)
        ax.scatter(middle[0], middle[1], s=70, marker="+", color=INK, lw=1.2, zorder=4)
    share = [100 * s for s in result.explained[:2]]
    text = f"silhouette {result.silhouette:.2f}"
    text += f" (shuffled labels {result.silhouette_shuffled:.2f}, p = {result.p_value:.2g})"
    ax.set_title(text, fontsize=8, color=INK, loc="left")
    ax.axhline(0, color=ORANGE, lw=0)  # keeps zero in view
    ax.set_xlabel(f"principal component 1 ({share[0]:.0f} % of variance)")
    ax.set_ylabel(f"principal component 2 ({share[1]:.0f} % of variance)")
    ax.set_aspect("equal", adjustable="datalim")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), title="+ : domain's mean")
    return ax
