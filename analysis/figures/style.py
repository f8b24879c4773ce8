"""The look that all figures share: colours, labels with units, readable ticks, files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours; lines differ by dash as well, so that grey prints keep their meaning.
BLUE, ORANGE, GREEN, INK, MUTED = "#0072B2", "#D55E00", "#009E73", "#222222", "#6b6b6b"
BAND, GRID = "#9ecae1", "#e3e3e3"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# From light to dark in grey as well, for ordered groups such as budgets.
SHADES = ("#56B4E9", "#E69F00", "#009E73", "#0072B2", "#D55E00", "#882255", "#222222")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)), (0, (8, 2)))
RUN: dict[str, Any] = {"s": 22, "facecolor": "white", "edgecolor": INK, "lw": 1.0}
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "svg.hashsalt": "analysis",
}
LABELS = {
    "val_l1": "validation l1 error (m, rotation 6D, gripper)",
    "test_l1": "test l1 error (m, rotation 6D, gripper)",
    "val_l1_all": "validation l1 error, all domains (m, rotation 6D, gripper)",
    "val_l1_position_m": "validation position error (m)",
    "val_l1_rotation_deg": "validation rotation error (deg)",
    "test_l1_position_m": "test position error (m)",
    "prediction_window_s": "prediction window (s)",
    "soft_prompt_length": "soft prompt length (tokens)",
    "success_rate": "closed-loop success rate (%)",
}


@contextmanager
def style():  # type: ignore[no-untyped-def]
    """Use the package's figure style inside the block, and the Agg backend."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    with matplotlib.rc_context(STYLE):
        yield


def column_label(column: str) -> str:
    """Return the axis label of a column, with its unit where it has one."""
    return LABELS.get(column, column.replace("_", " "))


def short_number(value: float) -> str:
    """Write a count briefly: 280, 1.34M, 290k, 2B, 3.2e18."""
    if abs(value) >= 9.99e14:
        return f"{value:.2g}"
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * (10 if size == 1e3 else 1):
            return f"{value / size:.3g}{letter}"
    return f"{value:.4g}"


def tex_number(value: float) -> str:
    """Write a number for mathtext: large and small ones by powers of ten."""
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}"
    power = int(np.floor(np.log10(abs(value))))
    return rf"{value / 10.0**power:.2g}\cdot 10^{{{power}}}"


def mark_levels(ax: Axes, levels: Sequence[float] | np.ndarray, *, most: int = 9) -> None:
    """Mark the levels that were run on a logarithmic x axis, where there is room."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    gap = np.log(ax.get_xlim()[1] / ax.get_xlim()[0]) / most
    kept: list[float] = []
    for level in np.unique(levels):
        if not kept or np.log(level / kept[-1]) > gap:
            kept.append(float(level))
    ax.xaxis.set_major_locator(FixedLocator(kept))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))


def round_ticks(ax: Axes, which: str = "y") -> None:
    """Mark round numbers on a logarithmic axis that may span less than a decade."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    axis = ax.yaxis if which == "y" else ax.xaxis
    low, high = ax.get_ylim() if which == "y" else ax.get_xlim()
    if high / low > 30:  # decades speak for themselves
        grid(ax)
        return
    ticks = [t for t in MaxNLocator(6).tick_values(low, high) if low <= t <= high and t > 0]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    grid(ax)


def count_ticks(ax: Axes) -> None:
    """Mark 1, 2 and 5 of each decade of a logarithmic y axis of counts."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    grid(ax)


def outlined() -> list[Any]:
    """Return the white outline that keeps a label readable on lines and bands."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2.2, foreground="white")]


def grid(ax: Axes) -> None:
    """Draw faint horizontal lines behind everything."""
    ax.set_axisbelow(True)
    ax.grid(axis="y", color=GRID, lw=0.6)


def save(figure: Figure, folder: Path, name: str) -> dict[str, str]:
    """Write a figure as PNG and SVG; return both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {kind: folder / f"{name}.{kind}" for kind in ("png", "svg")}
    engine = figure.get_layout_engine()
    if engine is not None:  # laid out once: a layout costs as much as a drawing
        engine.execute(figure)
        figure.set_layout_engine("none")
    for kind, path in paths.items():
        figure.savefig(path, metadata={"Date": None} if kind == "svg" else None)
    return {kind: str(path) for kind, path in paths.items()}
