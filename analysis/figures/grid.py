"""The grid that a plan spans: axes and levels, and what stands and costs where; no drawing."""

import json
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from analysis.document import Scalar

MOST_LEVELS = 40  # of an axis: more are taken together
SEED = "seed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """An axis of the grid; `labels` of its levels, in order."""

    name: str
    labels: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class Cell:
    """The runs in one state at one point. `at`: the index of each axis's level; costs are sums."""

    at: tuple[int, ...]
    state: str
    cost: float = 0.0
    low: float = 0.0
    high: float = 0.0
    run_ids: list[str] = field(default_factory=list)

    @property
    def mean_cost(self) -> float:
        """Cost of one run."""
        return self.cost / len(self.run_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Runs that have the same axes. `fixed`: axes with one value; `unit`: what cells cost."""

    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]
    fixed: Mapping[str, str]
    unit: Literal["GPU-hours", "FLOPs"]

    @property
    def num_runs(self) -> int:
        """Number of runs in all cells."""
        return sum(len(cell.run_ids) for cell in self.cells)


class Hours(Protocol):
    """GPU-hours: likely, low and high; None on CPU."""

    @property
    def gpu_hours(self) -> float | None: ...
    @property
    def gpu_hours_low(self) -> float | None: ...
    @property
    def gpu_hours_high(self) -> float | None: ...


class PlannedRun(Hours, Protocol):
    """A run before it starts, as a plan has it."""

    @property
    def run_id(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def axes(self) -> Mapping[str, Scalar]: ...
    @property
    def seed(self) -> int: ...
    @property
    def compute_flops(self) -> float: ...


def make_grids(rows: Sequence[PlannedRun]) -> list[Grid]:
    """Return the grids of a plan's rows, the largest first: one for each set of axis names.

    An axis with more than 40 levels is cut into 40 ranges. Seeds are an axis of their own where a
    grid has fewer than two others; elsewhere they share a cell.
    """
    groups: dict[tuple[str, ...], list[PlannedRun]] = defaultdict(list)
    for row in rows:
        groups[tuple(sorted(row.axes))].append(row)
    priced = bool(rows) and all(row.gpu_hours is not None for row in rows)
    unit: Literal["GPU-hours", "FLOPs"] = "GPU-hours" if priced else "FLOPs"
    return [_grid(group, unit) for group in sorted(groups.values(), key=len, reverse=True)]


def levels(points: Iterable[Mapping[str, Scalar]]) -> dict[str, list[Any]]:
    """Return each axis with its different values: numbers by size, others as they come."""
    found: dict[str, dict[Hashable, Any]] = {}
    for point in points:
        for name, value in point.items():
            found.setdefault(name, {}).setdefault(_key(value), value)
    return {name: _in_order(list(values.values())) for name, values in found.items()}


def label(value: Any) -> str:
    """Return a level as a reader wants it: 45k, 1.8M, 0.5, tiny."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * (10 if size == 1e3 else 1):
            return f"{value / size:.3g}{letter}"
    return f"{value:.4g}"


def _grid(rows: Sequence[PlannedRun], unit: Literal["GPU-hours", "FLOPs"]) -> Grid:
    points = [dict(row.axes) for row in rows]
    found = levels(points)
    seeds = _in_order(list({row.seed for row in rows}))
    if SEED not in found and len(seeds) > 1 and sum(len(v) > 1 for v in found.values()) < 2:
        points = [{**point, SEED: row.seed} for point, row in zip(points, rows, strict=True)]
        found[SEED] = seeds
    fixed = {name: label(values[0]) for name, values in found.items() if len(values) == 1}
    varied = {name: values for name, values in found.items() if len(values) > 1}
    if not varied:  # one point: its first axis places it
        varied = {name: found[name] for name in list(found)[:1]}
    axes, places = [], []
    for name, values in varied.items():
        axis, place = _axis(name, values)
        axes.append(axis)
        places.append((name, place))
    cells: dict[tuple[tuple[int, ...], str], Cell] = {}
    for row, point in zip(rows, points, strict=True):
        at = tuple(place[_key(point[name])] for name, place in places)
        cell = cells.setdefault((at, row.state), Cell(at=at, state=row.state))
        _add(cell, row, unit)
    return Grid(axes=tuple(axes), cells=tuple(cells.values()), fixed=fixed, unit=unit)


def _add(cell: Cell, row: PlannedRun, unit: str) -> None:
    costs = (row.compute_flops,) * 3
    if unit == "GPU-hours":
        hours = (row.gpu_hours, row.gpu_hours_low, row.gpu_hours_high)
        costs = tuple(value or 0.0 for value in hours)  # type: ignore[assignment]
    cost, low, high = costs
    cell.cost, cell.low, cell.high = cell.cost + cost, cell.low + low, cell.high + high
    cell.run_ids.append(row.run_id)


def _axis(name: str, values: Sequence[Any]) -> tuple[Axis, dict[Hashable, int]]:
    """Return the axis and the index of each value's key; neighbours share one above MOST_LEVELS."""
    least = -(-len(values) // MOST_LEVELS)
    # As many values in each range where that takes at most twice the least.
    size = next((n for n in range(least, 2 * least) if len(values) % n == 0), least)
    place = {_key(value): index // size for index, value in enumerate(values)}
    groups = [values[first : first + size] for first in range(0, len(values), size)]
    labels = (
        label(group[0]) if len(group) == 1 else f"{label(group[0])}\N{EN DASH}{label(group[-1])}"
        for group in groups
    )
    return Axis(name=name, labels=tuple(labels)), place


def _key(value: Any) -> Hashable:
    """Return what tells a level from others: a list or mapping stands for itself as JSON."""
    return (json.dumps(value, sort_keys=True),) if isinstance(value, list | tuple | dict) else value


def _in_order(values: list[Any]) -> list[Any]:
    numbers = all(isinstance(value, int | float) for value in values)
    return sorted(values) if numbers else values
