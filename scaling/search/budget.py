"""Keeps what a search plans under a number of GPU-hours."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from scaling.spec import RunSpec, Value
from scaling.study import Choice, IntRange, Point, Search

Price = Callable[[Sequence[RunSpec]], Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """At most `cap` GPU-hours over all runs that stand in the search's list, and those to come.

    `price(specs)` -> run id -> GPU-hours (0 on CPU); `planned()` -> the runs listed so far.
    """

    cap: float
    price: Price
    planned: Callable[[], Sequence[RunSpec]]

    def refusal(self, more: Sequence[RunSpec]) -> str | None:
        """Return why these runs may not be added to the planned ones, None when they may."""
        before = {spec.run_id: spec for spec in self.planned()}
        new = {spec.run_id: spec for spec in more if spec.run_id not in before}
        hours = self.price([*before.values(), *new.values()])
        planned, added = (sum(hours[run_id] for run_id in ids) for ids in (before, new))
        if not added or planned + added <= self.cap:
            return None
        return (
            f"{planned:,.1f} GPU-hours are planned and {added:,.1f} more would pass "
            f"--max-gpu-hours {self.cap:,.1f}"
        )

    def dearest(self, specs: Sequence[RunSpec]) -> RunSpec:
        """Return the run that takes the most GPU-hours."""
        hours = self.price(specs)
        return max(specs, key=lambda spec: hours[spec.run_id])


def corners(search: Search) -> list[Point]:
    """Return the points at the ends of every range with every choice: a run's cost lies within."""
    ends = {name: _ends(axis) for name, axis in search.space.items()}
    return [dict(zip(ends, values, strict=True)) for values in itertools.product(*ends.values())]


def _ends(axis: IntRange | Choice) -> tuple[Value, ...]:
    return (axis.low, axis.high) if isinstance(axis, IntRange) else tuple(axis.values)
