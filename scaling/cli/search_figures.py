"""Figures of a search for the report: history, contour, importance, as PNG and SVG."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.figures.style import (
    BLUE,
    GREEN,
    GRID,
    INK,
    MUTED,
    ORANGE,
    RUN,
    column_label,
    grid,
    save,
    style,
)
from scaling.search.controller import Task
from scaling.search.look import CONSTRAINT
from scaling.search.propose import point_of
from scaling.study import Choice, IntRange

if TYPE_CHECKING:
    import optuna
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from optuna.trial import FrozenTrial

MIN_TRIALS, MIN_PLACES = 4, 10  # fewer different points draw no surface, only themselves
SCORES = {
    "horizon_l1": "l1 over the fixed horizon\n(m, rotation 6D, gripper)",
    "val_l1": "validation l1\n(m, rotation 6D, gripper)",
    "adapted_success": "failure rate after adaptation",
}
# How a trial ended -> marker, colour, name. Those without a score stand at the frame's edge.
ENDS: dict[str, tuple[str, str, str]] = {
    "complete": ("o", BLUE, "complete"),
    "pruned": ("v", MUTED, "pruned at a rung"),
    "memory": ("X", ORANGE, "out of memory"),
    "failed": ("x", ORANGE, "failed"),
}
CELLS, SMOOTHING = 60, 0.01  # of the contour; the unit square is the range tried
WIDTH, HEIGHT = 6.0, 3.9  # inches: a column and a half of a paper


def draw_search(
    study: "optuna.Study",
    folder: Path,
    *,
    task: Task,
    score: str,
    answer: Mapping[str, Any],
    importance: Mapping[str, float],
) -> dict[str, list[str]]:
    """Write search_{history,contour,importance}.{png,svg} and return their paths by figure.

    `answer` as from `search_result.compare`. With fewer than four complete trials there is nothing
    to draw and {} is returned; the contour needs two parameters, the importance an importance.
    """
    trials = [trial for trial in study.get_trials(deepcopy=False) if _end(trial)]
    if sum(_end(trial) == "complete" for trial in trials) < MIN_TRIALS:
        return {}
    label = SCORES[score]
    with style():
        figures = {"history": _history(trials, task, label)}
        if len(task.search.space) > 1:
            names = sorted(task.search.space, key=lambda name: -importance.get(name, 0.0))[:2]
            names.sort(key=list(task.search.space).index)
            figures["contour"] = _contour(trials, task, names, label=label, answer=answer)
        if importance:
            figures["importance"] = _importance(importance)
        return {
            name: list(save(figure, folder, f"search_{name}").values())
            for name, figure in figures.items()
        }


def _history(trials: "Sequence[FrozenTrial]", task: Task, label: str) -> "Figure":
    """Draw the scores in the order asked, with standard errors, and the best so far."""
    figure, ax = _axes()
    complete = [trial for trial in trials if _end(trial) == "complete"]
    values = [float(t.value) for t in complete]  # type: ignore[arg-type]
    best = [min(values[: place + 1]) for place in range(len(values))]
    last = trials[-1].number
    ax.step([*(t.number for t in complete), last], [*best, best[-1]], where="post",
            color=GREEN, lw=1.4, label="best so far", zorder=1)  # fmt: skip
    sems = [float(trial.user_attrs.get("sem", 0.0)) for trial in complete]
    ax.errorbar([t.number for t in complete], values, yerr=sems, fmt="none",
                ecolor=BLUE, elinewidth=0.8, alpha=0.6, zorder=2)  # fmt: skip
    for end in ENDS:
        found = [trial for trial in trials if _end(trial) == end]
        shown = [(float(t.number), v) for t in found if (v := _value(t)) is not None]
        _scatter(ax, shown, end)
        edge = [(float(t.number), 0.02) for t in found if _value(t) is None]
        _scatter(ax, edge, end, transform=ax.get_xaxis_transform(), clip_on=False)
    default = task.search.defaults[task.scale]
    for trial in [t for t in complete if dict(t.params) == default][:1]:
        ax.scatter([trial.number], [float(trial.value or 0)], s=110, marker="s", facecolor="none",
                   edgecolor=INK, lw=1.1, label="default", zorder=4)  # fmt: skip
    ax.set(xlabel="trial", ylabel=label, xlim=(-0.6, last + 0.6))
    ax.locator_params(axis="x", integer=True)
    grid(ax)
    _legend(figure, ax)
    return figure


def _contour(
    trials: "Sequence[FrozenTrial]",
    task: Task,
    names: Sequence[str],
    *,
    label: str,
    answer: Mapping[str, Any],
) -> "Figure":
    """Draw the scores over two parameters; the surface only between points that were tried."""
    figure, ax = _axes()
    placed = [t for t in trials if point_of(t, task.search)]
    complete = [t for t in placed if _end(t) == "complete"]
    values = [float(t.value) for t in complete]  # type: ignore[arg-type]
    spots = [_spot(t.params, names, task) for t in complete]
    levels: dict[str, Any] = {"cmap": "viridis_r", "vmin": min(values), "vmax": max(values)}
    _surface(ax, spots, values, levels)
    x, y = ([spot[axis] for spot in spots] for axis in (0, 1))
    dots = ax.scatter(x, y, c=values, s=42, edgecolor="white", lw=0.7, zorder=3, label="complete",
                      **levels)  # fmt: skip
    for end in list(ENDS)[1:]:
        there = [_spot(t.params, names, task) for t in placed if _end(t) == end]
        _scatter(ax, there, end)
    best = answer["best"]
    for row, marker, size, name in (
        (answer["default"], "s", 120, "default"),
        (best, "*", 190, f"best, new seeds: {best['verdict']}"),
    ):
        if row is best and best["verdict"] == "default":
            continue
        spot = _spot(row["params"], names, task)
        ax.scatter(*spot, marker=marker, s=size, facecolor="none", edgecolor=INK, lw=1.2, zorder=5,
                   label=name)  # fmt: skip
    for name, which in zip(names, ("x", "y"), strict=True):
        _mark_axis(ax, which, name, task)
    bar = figure.colorbar(dots, ax=ax, pad=0.02)
    bar.set_label(label)
    bar.outline.set_linewidth(0.6)
    _legend(figure, ax)
    return figure


def _importance(importance: Mapping[str, float]) -> "Figure":
    figure, ax = _axes(height=0.9 + 0.42 * len(importance))
    rows = sorted(importance.items(), key=lambda item: item[1])
    bars = ax.barh([column_label(name) for name, _ in rows], [100 * share for _, share in rows],
                   color=BLUE, height=0.6)  # fmt: skip
    ax.bar_label(bars, fmt="%.0f %%", padding=3, fontsize=8)
    ax.set(xlabel="share of the score's variance between trials (fANOVA, %)", xlim=(0, 108))
    ax.grid(axis="x", color=GRID, lw=0.6)
    ax.set_axisbelow(True)
    return figure


def _axes(*, height: float = HEIGHT) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _end(trial: "FrozenTrial") -> str:
    """Return how a trial ended, "" while it is open."""
    if trial.state.name == "COMPLETE":
        return "complete"
    if trial.constraints.get(CONSTRAINT, 0) > 0:
        return "memory"
    return {"PRUNED": "pruned", "FAIL": "failed"}.get(trial.state.name, "")


def _value(trial: "FrozenTrial") -> float | None:
    """Return the score, of a pruned trial that at its last rung."""
    rungs = trial.intermediate_values
    return trial.value if trial.value is not None else (rungs[max(rungs)] if rungs else None)


def _scatter(ax: "Axes", spots: "Sequence[tuple[float, float]]", end: str, **more: Any) -> None:
    marker, colour, name = ENDS[end]
    if spots:
        x, y = ([spot[axis] for spot in spots] for axis in (0, 1))
        look = {"color": colour, "label": name, "zorder": 3, "lw": 1.0, **more}
        ax.scatter(x, y, s=RUN["s"] + 6, marker=marker, **look)


def _spot(params: Mapping[str, Any], names: Sequence[str], task: Task) -> tuple[float, float]:
    x, y = (_coordinate(params[name], task.search.space[name]) for name in names)
    return x, y


def _coordinate(value: Any, axis: IntRange | Choice) -> float:
    """Return log2 of a number of a range or of positive choices, else the choice's place."""
    return math.log2(value) if _is_log(axis) else float(axis.values.index(value))  # type: ignore[union-attr]


def _is_log(axis: IntRange | Choice) -> bool:
    if isinstance(axis, IntRange):
        return True
    return all(isinstance(value, int | float) and value > 0 for value in axis.values)


def _mark_axis(ax: "Axes", which: str, name: str, task: Task) -> None:
    """Mark powers of two of a range, or the choices."""
    axis = task.search.space[name]
    if isinstance(axis, IntRange):
        last = math.floor(math.log2(axis.high))
        ticks: list[Any] = [2**power for power in range(last + 1) if 2**power >= axis.low]
    else:
        ticks = list(axis.values)
    places = [_coordinate(tick, axis) for tick in ticks]
    texts = [f"{tick:g}" if isinstance(tick, int | float) else str(tick) for tick in ticks]
    margin = 0.06 * (max(places) - min(places) or 1.0)
    end = (min(places) - margin, max(places) + margin)
    label = f"{column_label(name)}{', log scale' if _is_log(axis) else ''}"
    if which == "x":
        ax.set(xlim=end, xlabel=label)
        ax.set_xticks(places, texts)
    else:
        ax.set(ylim=end, ylabel=label)
        ax.set_yticks(places, texts)


def _surface(
    ax: "Axes", spots: Sequence[tuple[float, float]], values: list[float], levels: Mapping[str, Any]
) -> None:
    """Fill a smoothing thin-plate spline, only between trials; nothing where they are too few."""
    import numpy as np
    from matplotlib.patches import Polygon
    from scipy.interpolate import RBFInterpolator
    from scipy.spatial import ConvexHull, QhullError

    places, first = np.unique(np.array(spots), axis=0, return_index=True)
    heights = np.array(values)[first]  # a run has one score, however often it was asked for
    low, span = places.min(0), np.ptp(places, axis=0)
    if len(places) < MIN_PLACES or not span.all() or min(values) == max(values):
        return
    unit = (places - low) / span
    axis = np.linspace(0, 1, CELLS)
    cells = np.stack(np.meshgrid(axis, axis), axis=-1)
    try:
        hull = ConvexHull(unit).vertices
        spline = RBFInterpolator(unit, heights, smoothing=SMOOTHING, kernel="thin_plate_spline")
    except (QhullError, np.linalg.LinAlgError):  # all on one slanted line
        return
    surface = spline(cells.reshape(-1, 2)).reshape(CELLS, CELLS)
    x, y = (low[which] + span[which] * cells[..., which] for which in (0, 1))
    steps = np.linspace(levels["vmin"], levels["vmax"], 13)
    filled = ax.contourf(x, y, surface, levels=steps, alpha=0.45, zorder=0, extend="both", **levels)
    filled.set_clip_path(Polygon(places[hull], transform=ax.transData))


def _legend(figure: "Figure", ax: "Axes") -> None:
    """Put the legend above the axes, each name once."""
    handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    figure.legend(list(handles.values()), list(handles), loc="outside upper left", ncols=4,
                  handletextpad=0.3, columnspacing=1.2)  # fmt: skip
