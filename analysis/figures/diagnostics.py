"""What a fit is worth: profiles, forecasts of held-out levels, isoFLOP parabolas and optima."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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
    count_ticks,
    grid,
    mark_levels,
    round_ticks,
    short_number,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from analysis.budgets import Budget
    from analysis.design import IsoFlop
    from analysis.profiles import Profile
    from analysis.select import Backtest

TALLEST = 4.0  # of a profile, in units of the interval's threshold
WIDE = 20.0  # an interval over this ratio is drawn on a logarithmic axis
NAMES = {"E": "floor E", "alpha": r"exponent $\alpha$", "beta": r"exponent $\beta$"}


def profile(ax: Axes, result: Profile, *, label: str = "") -> Axes:
    """Draw the rise of the cost along one parameter, and the interval where it stays below 1.

    Args:
        ax: where to draw.
        result: of one parameter.
        label: of the parameter with its unit; by default made from its name.
    """
    values = result.grid
    rise = (result.cost - result.cost.min()) / result.threshold
    low, high = (v if np.isfinite(v) else None for v in result.interval)
    shown = rise <= TALLEST * 1.3
    ax.set_ylim(0, min(max(1.6, 1.15 * float(rise[shown].max())), TALLEST))
    if low is not None and high is not None and low > 0 and high > WIDE * low:
        ax.set_xscale("log")
    else:
        ax.locator_params(axis="x", nbins=5)
    ax.set_xlim(*_profile_range(values[shown], low, high))
    left, right = ax.get_xlim()
    ax.axvspan(left if low is None else low, right if high is None else high,
               color=BAND, alpha=0.45, lw=0, zorder=0)  # fmt: skip
    ax.plot(values[shown], rise[shown], color=BLUE, lw=1.8, marker=".", ms=3, zorder=2)
    ax.axhline(1, color=MUTED, lw=0.9, ls=DASHES[1], zorder=1)
    ax.axvline(result.estimate, color=ORANGE, lw=1.1, ls=DASHES[2], zorder=1)
    text = f"{result.level:.0%} interval {_span(low, high)}"
    ax.set_title(text, fontsize=8, color=INK, loc="left")
    ax.set_xlabel(label or NAMES.get(result.name, result.name))
    ax.set_ylabel(f"rise of cost\n({result.level:.0%} threshold = 1)")
    grid(ax)
    return ax


def _span(low: float | None, high: float | None) -> str:
    left = "[open" if low is None else f"[{low:.3g}"
    return f"{left}, {'open' if high is None else f'{high:.3g}'}]"


def _profile_range(values: np.ndarray, low: float | None, high: float | None) -> tuple[float, Any]:
    """Return the x range: all that is shown, or for an open end as far as the grid went."""
    ends = [float(values.min()), float(values.max())]
    ends += [v for v in (low, high) if v is not None]
    if low is not None and high is not None and low > 0 and high > WIDE * low:
        return min(ends) / 1.1, max(ends) * 1.1
    room = 0.02 * (max(ends) - min(ends) or 1.0)
    return min(ends) - room, max(ends) + room


def backtest(ax: Axes, result: Backtest, *, label: str = "", y: str = "val_l1") -> Axes:
    """Draw each level's runs beside what was forecast for it from the levels below.

    Args:
        ax: where to draw.
        result: with intervals.
        label: of the axis with its unit.
        y: the error's column, for the label.
    """
    levels = np.array([cut.predicted for cut in result.cuts], dtype=float)
    ax.set_xscale("log")
    for cut in result.cuts:
        if cut.forecast is None:
            continue
        truth, found = np.array(cut.forecast.truth), cut.forecast
        at_level = (found.mean[0], found.lower[0], found.upper[0])
        mean, low, high = (100 * (v / truth.mean() - 1) for v in at_level)
        ends = [[mean - low], [high - mean]]
        ax.errorbar(cut.predicted, mean, yerr=ends, color=BLUE, marker="D", ms=5, capsize=4,
                    lw=1.4, zorder=2)  # fmt: skip
        beside = np.full(len(truth), 1.06 * cut.predicted)
        ax.scatter(beside, 100 * (truth / truth.mean() - 1), **RUN, zorder=3)
    ax.axhline(0, color=INK, lw=0.8, zorder=1)
    if len(levels) == 1:
        ax.set_xlim(levels[0] / 2, levels[0] * 2)
    else:
        ax.set_xlim(levels.min() / 1.25, levels.max() * 1.25)
    mark_levels(ax, levels)
    text = (
        f"mean error {100 * result.mare:.2g} %, bias {100 * result.bias:+.2g} %, "
        f"{100 * result.coverage:.0f} % of {result.num_predictions} runs inside"
    )
    ax.set_title(text, fontsize=8, color=INK, loc="left")
    ax.set_xlabel(f"{label or result.by}: the level forecast")
    ax.set_ylabel(f"{y} against the\nlevel's mean (%)")
    _backtest_legend(ax, result.level)
    grid(ax)
    return ax


def _backtest_legend(ax: Axes, level: float) -> None:
    from matplotlib.lines import Line2D

    ax.legend(
        handles=[
            Line2D([], [], color=BLUE, marker="D", ms=5, lw=1.4,
                   label=f"forecast, {level:.0%} for a new run"),
            Line2D([], [], ls="", marker="o", mfc="white", mec=INK, label="runs at that level"),
        ],
        loc="best",
    )  # fmt: skip


def isoflop(
    ax: Axes, budgets: Sequence[Budget], *, label: str = "parameters", y: str = "val_l1"
) -> Axes:
    """Draw error against size at each budget, its parabola in logarithms, and its minimum.

    Args:
        ax: where to draw.
        budgets: runs at each, with its parabola.
        label: of the size with its unit.
        y: the error's column.
    """
    ax.set_xscale("log")
    ax.set_yscale("log")
    for k, budget in enumerate(budgets):
        colour, mark = SHADES[k % len(SHADES)], MARKERS[k % len(MARKERS)]
        ax.scatter(budget.x, budget.y, s=18, marker=mark, color=colour, zorder=3,
                   label=f"{short_number(budget.compute)} FLOPs")  # fmt: skip
        u = np.linspace(np.log(min(budget.x)), np.log(max(budget.x)), 60)
        v = np.exp(np.polyval(budget.parabola, u))
        ax.plot(np.exp(u), v, color=colour, lw=1.2, ls=DASHES[k % len(DASHES)], zorder=2)
        if budget.minimum is not None:
            at, least = budget.minimum
            ax.scatter(at, least, marker="*", s=90, color=colour, edgecolor=INK, lw=0.7, zorder=4)
    levels = np.concatenate([budget.x for budget in budgets])
    ax.set_xlim(levels.min() / 1.2, levels.max() * 1.2)
    mark_levels(ax, levels, most=6)
    round_ticks(ax)
    ax.set_xlabel(label)
    ax.set_ylabel(column_label(y))
    ax.legend(title="budget\n(star: minimum)", title_fontsize=8, loc="upper left",
              bbox_to_anchor=(1.0, 1.0))  # fmt: skip
    return ax


def frontier(ax: Axes, result: IsoFlop, *, label: str = "parameters") -> Axes:
    """Draw the optimal size against compute, and the power law through the optima.

    Args:
        ax: where to draw.
        result: the optima of the budgets.
        label: of the size with its unit.
    """
    c = np.array([m["compute"] for m in result.minima])
    x = np.array([m[result.axis] for m in result.minima])
    ax.set_xscale("log")
    ax.set_yscale("log")
    if len(c) > 1:
        grid_c = np.geomspace(c.min() / 1.5, c.max() * 3, 50)
        middle = np.exp(np.log(x).mean()), np.exp(np.log(c).mean())
        for exponent, dash in zip(
            (result.exponent, *result.exponent_interval), ("-", ":", ":"), strict=True
        ):
            line = middle[0] * (grid_c / middle[1]) ** exponent
            ax.plot(grid_c, line, color=BLUE, lw=1.7 if dash == "-" else 1.0, ls=dash, zorder=2)
        low, high = result.exponent_interval
        text = f"optimum $\\propto$ C$^{{{result.exponent:.2f}}}$ [{low:.2f}, {high:.2f}]"
        ax.set_title(f"{text} (95 %, seed noise)", fontsize=8, color=INK, loc="left")
    ax.scatter(c, x, marker="*", s=80, color=ORANGE, edgecolor=INK, lw=0.7, zorder=3)
    dropped = result.num_edge + result.num_convexless + result.num_small
    if dropped:
        text = f"{dropped} budgets dropped: {result.num_edge} with the minimum at an edge,\n"
        text += f"{result.num_convexless} without one, {result.num_small} with < 4 sizes"
        ax.text(0.98, 0.03, text, transform=ax.transAxes, ha="right", fontsize=7, color=MUTED)
    ax.set_xlabel("training compute (FLOPs)")
    ax.set_ylabel(f"optimal {label}")
    count_ticks(ax)
    return ax
