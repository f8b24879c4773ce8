"""The parts of a plan's figure: marks, bars of totals, the colour bar, frames and legend."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.figures.grid import Axis, Cell, Grid
from analysis.figures.style import GRID, INK, MUTED, ORANGE, column_label, short_number, tex_number
from analysis.hover import Mark

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Hollow shapes would lose the colour: states differ by shape, and what is done has a heavy rim.
SHAPES = {
    "planned": "o",
    "queued": "D",
    "running": "^",
    "preempted": "v",
    "done": "s",
    "failed": "X",
    "cancelled": "P",
    "unknown": "*",
}
BAR = "#b9c4d0"
MOST_LETTERS = 60  # of the labels under an axis
Marks = dict[str, list[Mark]]


class Colours:
    """What a run costs as a colour; one colour where all cost the same."""

    def __init__(self, grid: Grid) -> None:
        from matplotlib import colormaps
        from matplotlib.colors import LogNorm, Normalize

        costs = [cell.mean_cost for cell in grid.cells]
        self.label = f"{grid.unit} a run"
        self.low, self.high = min(costs), max(costs)
        self.map = colormaps["YlGnBu"]
        kind = LogNorm if self.low > 0 and self.high / self.low > 8 else Normalize
        # The lightest fifth of the map is too pale on white.
        low = self.low / 1.6 if kind is LogNorm else self.low - 0.25 * (self.high - self.low)
        self.norm = kind(low, self.high if self.differ else self.low + 1)

    @property
    def differ(self) -> bool:
        """Whether costs are more than rounding apart."""
        return self.high > self.low * 1.001

    def of(self, cell: Cell) -> Any:
        """Return the colour of a cell."""
        return self.map(self.norm(cell.mean_cost)) if self.differ else self.map(0.55)

    def key(
        self,
        figure: "Figure",
        axes: "Axes | list[Axes]",
        *,
        inside: tuple[float, float, float, float] | None = None,
    ) -> None:
        """Draw the colour bar beside `axes`, or lying `inside` one, from cheapest to dearest."""
        from matplotlib.cm import ScalarMappable
        from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

        if not self.differ:
            return
        mapped = ScalarMappable(self.norm, self.map)
        if inside:
            place = axes.inset_axes(inside)  # type: ignore[union-attr]
            bar = figure.colorbar(mapped, cax=place, orientation="horizontal")
            bar.ax.set_title(self.label, fontsize=8)
            bar.ax.set_xlim(self.low, self.high)
        else:
            bar = figure.colorbar(mapped, ax=axes, label=self.label, pad=0.02, aspect=18)
            bar.ax.set_ylim(self.low, self.high)
        axis = bar.ax.xaxis if inside else bar.ax.yaxis
        count = 3 if inside else 5
        ticks = list(MaxNLocator(count).tick_values(self.low, self.high))
        if self.high / self.low > 8:
            ticks = [float(f"{t:.1g}") for t in np.geomspace(self.low, self.high, count)]
        axis.set_major_locator(FixedLocator([t for t in ticks if self.low <= t <= self.high]))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: amount(value)))
        bar.outline.set_visible(False)


def scatter(
    ax: "Axes",
    cells: Sequence[tuple[Cell, int, int]],
    grid: Grid,
    colours: Colours,
    *,
    size: float,
    prefix: str,
) -> Marks:
    """Draw a mark for each cell, states of one point side by side; return the texts."""
    marks: Marks = {}
    alike = len({len(cell.run_ids) for cell in grid.cells}) == 1
    shared: dict[tuple[int, int], list[str]] = {}
    for cell, x, y in cells:
        shared.setdefault((x, y), []).append(cell.state)
    for state in dict.fromkeys(cell.state for cell, _, _ in cells):
        mine = [item for item in cells if item[0].state == state]
        places = [(x + _beside(shared[x, y], state), y) for _, x, y in mine]
        smallest = max(len(shared[x, y]) for _, x, y in mine)
        gid, (edge, width) = f"{prefix}-{state}", _rim(state)
        ax.scatter(
            [x for x, _ in places], [y for _, y in places], s=size**2 / smallest,
            marker=SHAPES[state], c=[colours.of(cell) for cell, _, _ in mine],
            zorder=3, gid=gid, edgecolors=edge, linewidths=width,
        )  # fmt: skip
        marks[gid] = [_text(cell, grid) for cell, _, _ in mine]
        for (cell, _, _), place in zip(mine, places, strict=True):
            if not alike and len(cell.run_ids) > 1 and size > 5:
                ax.annotate(
                    f"\N{MULTIPLICATION SIGN}{len(cell.run_ids)}", place, fontsize=6.5,
                    xytext=(size / 2 + 1, 0), textcoords="offset points", va="center", color=MUTED,
                )  # fmt: skip
    return marks


def _text(cell: Cell, grid: Grid) -> Mark:
    """Return what hovering over a cell says; a single run's row can be found by a click."""
    at = (f"{a.name} {a.labels[i]}" for a, i in zip(grid.axes, cell.at, strict=True))
    count, cost = len(cell.run_ids), f"{cell.mean_cost:,.4g}"
    who = f"run {cell.run_ids[0]}" if count == 1 else f"{count} runs"
    text = f"{who}, {cell.state}\n{', '.join(at)}\n{cost} {grid.unit}{' each' * (count > 1)}"
    return Mark(text=text, run=cell.run_ids[0] if count == 1 else "")


def bars(ax: "Axes", grid: Grid, *, axis: int, upright: bool) -> None:
    """Draw the total cost of each level of an axis, with the interval of the estimate."""
    total, low, high = (np.zeros(len(grid.axes[axis].labels)) for _ in range(3))
    for cell in grid.cells:
        at = cell.at[axis]
        total[at], low[at], high[at] = (
            total[at] + cell.cost, low[at] + cell.low, high[at] + cell.high,
        )  # fmt: skip
    places, spread = np.arange(len(total)), np.stack([total - low, high - total])
    known: dict[str, Any] = {"color": BAR, "zorder": 2}
    whiskers: dict[str, Any] = {"fmt": "none", "ecolor": MUTED, "elinewidth": 0.9, "zorder": 3}
    has_interval = bool(np.any(spread > 0))
    if upright:
        ax.bar(places, total, width=0.6, **known)
        if has_interval:
            ax.errorbar(places, total, yerr=spread, **whiskers)
        ax.set_ylabel(f"{grid.unit}\nat each level", fontsize=7.5)
        ax.tick_params(labelbottom=False, bottom=False)
    else:
        ax.barh(places, total, height=0.6, **known)
        if has_interval:
            ax.errorbar(total, places, xerr=spread, **whiskers)
        ax.set_xlabel(f"{grid.unit}\nat each level", fontsize=7.5)
        ax.tick_params(labelleft=False, left=False)
    _few_ticks(ax.yaxis if upright else ax.xaxis)
    ax.grid(axis="y" if upright else "x", color=GRID, lw=0.6)
    ax.set_axisbelow(True)


def _few_ticks(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(3))
    axis.set_major_formatter(FuncFormatter(lambda value, _: amount(value)))


def amount(value: float) -> str:
    """Write GPU-hours as 2,583 or 12k, FLOPs by powers of ten."""
    if abs(value) >= 1e9:
        return f"${tex_number(value)}$"
    return f"{value:,.0f}" if 1000 <= abs(value) < 10_000 else short_number(value)


def room(axis: Axis, *, least: float) -> float:
    """Return inches that the labels of an axis need side by side."""
    longest = max(len(text) for text in axis.labels)
    return len(axis.labels) * max(least, 0.075 * (longest + 1))


def frame(ax: "Axes", across: Axis, up: Axis, *, slant: bool = False) -> None:
    """Mark the levels of both axes, thinned where there is no room, and a faint line at each."""
    for axis, set_ticks in ((across, ax.set_xticks), (up, ax.set_yticks)):
        length = max((len(text) for text in axis.labels), default=1) + 1
        every = 1 if slant or axis is up else max(1, -(-len(axis.labels) * length // MOST_LETTERS))
        every = max(every, -(-len(axis.labels) // 20))
        set_ticks(range(0, len(axis.labels), every), axis.labels[::every])
    if slant:
        ax.tick_params(axis="x", labelrotation=35)
    ax.set(xlim=(-0.6, len(across.labels) - 0.4), ylim=(-0.6, len(up.labels) - 0.4))
    ax.set_xlabel(column_label(across.name))
    ax.set_ylabel(column_label(up.name))
    if len(up.labels) == 1:
        ax.tick_params(left=False)
    ax.grid(color=GRID, lw=0.6)
    ax.set_axisbelow(True)


def legend(figure: "Figure", grid: Grid) -> None:
    from matplotlib.lines import Line2D

    states = [state for state in SHAPES if any(cell.state == state for cell in grid.cells)]
    counts = {s: sum(len(c.run_ids) for c in grid.cells if c.state == s) for s in states}
    handles = [
        Line2D([], [], ls="", marker=SHAPES[state], mfc="white", mec=_rim(state)[0],
               mew=_rim(state)[1], ms=6, label=f"{counts[state]:,} {state}")
        for state in states
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def _rim(state: str) -> tuple[str, float]:
    """Return colour and width of a mark's edge: heavy where a run is over, orange if it failed."""
    heavy = state in ("done", "failed")
    return ORANGE if state == "failed" else INK, 1.3 if heavy else 0.5


def _beside(states: Sequence[str], state: str) -> float:
    return (states.index(state) - (len(states) - 1) / 2) * 0.5 / max(1, len(states) - 1)


def mark_size(wide: float, tall: float) -> float:
    """Return the diameter of a mark in points, given the inches of a cell."""
    return float(np.clip(72 * 0.55 * min(wide, tall), 2.0, 12.0))
