"""Draws the grid of a plan: where runs stand, what they cost, which are done."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from analysis.figures.grid import Axis, Grid
from analysis.figures.plan_marks import (
    SHAPES,
    Colours,
    Marks,
    amount,
    bars,
    frame,
    legend,
    mark_size,
    room,
    scatter,
)
from analysis.figures.style import INK, column_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES_AS_IMAGE = 1500  # above it the lines of parallel coordinates are drawn as one image
PANEL_COLUMNS = 4


def draw_grid(grid: Grid, *, prefix: str = "grid") -> "tuple[Figure, Marks]":
    """Return the figure and what hovering over its marks says, by SVG id.

    One or two axes: a plane with totals along its sides; three: a panel for each level of the
    shortest axis; more: parallel coordinates.
    """
    if len(grid.axes) > 3:
        return _parallel(_with_states(grid)), {}
    if len(grid.axes) == 3:
        return _panels(grid, prefix)
    return _plane(grid, prefix)


def _plane(grid: Grid, prefix: str) -> "tuple[Figure, Marks]":
    from matplotlib.figure import Figure

    across = grid.axes[0]
    up = grid.axes[1] if len(grid.axes) > 1 else Axis(name="", labels=("",))
    rows, columns = len(up.labels), len(across.labels)
    tall = float(np.clip(0.42 * rows, 0.5, 6.0))
    wide = float(np.clip(room(across, least=0.62), 2.8, 7.0))
    figure = Figure(figsize=(wide + 2.8, tall + 2.0), layout="constrained")
    sides = figure.add_gridspec(2, 2, height_ratios=(1.15, tall), width_ratios=(wide, 1.5))
    main = figure.add_subplot(sides[1, 0])
    frame(main, across, up)
    size = mark_size(wide / columns, tall / rows)
    colours = Colours(grid)
    cells = [(cell, cell.at[0], cell.at[1] if rows > 1 else 0) for cell in grid.cells]
    marks = scatter(main, cells, grid, colours, size=size, prefix=prefix)
    bars(figure.add_subplot(sides[0, 0], sharex=main), grid, axis=0, upright=True)
    if rows > 1:
        bars(figure.add_subplot(sides[1, 1], sharey=main), grid, axis=1, upright=False)
    if colours.differ:
        corner = figure.add_subplot(sides[0, 1])
        corner.set_axis_off()
        colours.key(figure, corner, inside=(0.0, 0.42, 0.9, 0.12))
    legend(figure, grid)
    return figure, marks


def _panels(grid: Grid, prefix: str) -> "tuple[Figure, Marks]":
    from matplotlib.figure import Figure

    lengths = [len(axis.labels) for axis in grid.axes]
    by = len(lengths) - 1 - int(np.argmin(lengths[::-1]))
    first, second = (index for index in range(3) if index != by)
    across, up, panel_axis = grid.axes[first], grid.axes[second], grid.axes[by]
    columns = min(PANEL_COLUMNS, len(panel_axis.labels))
    rows = -(-len(panel_axis.labels) // columns)
    wide = float(np.clip(room(across, least=0.36), 1.5, 8.8 / columns))
    tall = float(np.clip(0.34 * len(up.labels), 1.2, 4.0))
    size = (columns * wide + 1.6, rows * (tall + 0.35) + 1.0)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    marks: Marks = {}
    colours = Colours(grid)
    mark = mark_size(wide / len(across.labels), tall / len(up.labels))
    for index, ax in enumerate(axes.flat):
        if index >= len(panel_axis.labels):
            ax.set_axis_off()
            continue
        here = [cell for cell in grid.cells if cell.at[by] == index]
        frame(ax, across, up, slant=room(across, least=0.0) > wide)
        cells = [(cell, cell.at[first], cell.at[second]) for cell in here]
        marks |= scatter(ax, cells, grid, colours, size=mark, prefix=f"{prefix}-{index}")
        total = amount(sum(cell.cost for cell in here))
        ax.set_title(
            f"{column_label(panel_axis.name)}: {panel_axis.labels[index]}\n"
            + (f"{total} {grid.unit}" if here else "no run"),
            fontsize=8.5,
        )
        ax.label_outer()
    colours.key(figure, axes.ravel().tolist())
    legend(figure, grid)
    return figure, marks


def _with_states(grid: Grid) -> Grid:
    """Return the grid with its states as the last axis, where there are several."""
    states = [state for state in SHAPES if any(cell.state == state for cell in grid.cells)]
    if len(states) < 2:
        return grid
    cells = tuple(replace(c, at=(*c.at, states.index(c.state))) for c in grid.cells)
    return replace(grid, axes=(*grid.axes, Axis(name="state", labels=tuple(states))), cells=cells)


def _parallel(grid: Grid) -> "Figure":
    """Draw each point as a line across all axes; thicker where more runs share it."""
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    count = len(grid.axes)
    figure = Figure(figsize=(min(13.0, 1.5 * count + 1.5), 4.2), layout="constrained")
    ax = figure.subplots()
    heights = [
        np.linspace(0.0, 1.0, max(2, len(axis.labels)))[: len(axis.labels)] for axis in grid.axes
    ]
    rng = np.random.default_rng(0)  # lines that share a level are drawn beside each other
    many = len(grid.cells) > LINES_AS_IMAGE
    colours = Colours(grid)
    lines = LineCollection(
        [
            [
                (x, heights[x][at] + rng.uniform(-1, 1) * 0.25 / max(6, len(heights[x])))
                for x, at in enumerate(cell.at)
            ]
            for cell in grid.cells
        ],
        colors=[colours.of(cell) for cell in grid.cells],
        linewidths=0.5 if many else 1.0,
        alpha=0.25 if many else 0.8,
        rasterized=many,
    )
    ax.add_collection(lines)
    for x, axis in enumerate(grid.axes):
        ax.axvline(x, color=INK, lw=0.8)
        every = -(-len(axis.labels) // 12)
        for height, text in list(zip(heights[x], axis.labels, strict=True))[::every]:
            ax.annotate(
                text, (x, height), xytext=(3, 0), textcoords="offset points", fontsize=7.5,
                va="center", bbox={"fc": "white", "ec": "none", "alpha": 0.8, "pad": 0.5},
            )  # fmt: skip
    ax.set(xlim=(-0.15, count - 0.5), ylim=(-0.12, 1.12), yticks=[])
    ax.set_xticks(range(count), [column_label(axis.name) for axis in grid.axes])
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    colours.key(figure, ax)
    return figure
