"""What is searched, and how: the task, its settings, and the score that trials are told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import isnan
from typing import Any, Literal, get_args

from scaling.overrides import overrider
from scaling.spec import RunSpec
from scaling.study import Point, Search

Sampler = Literal["tpe", "gp", "random"]
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a point is judged by, smaller is better, with its standard error over episodes."""

    value: float
    sem: float

    def __str__(self) -> str:
        return f"{self.value:.5f}" + ("" if isnan(self.sem) else f" ± {self.sem:.5f}")


# The score of the checkpoint of (run, step), None where that checkpoint is not there.
Scorer = Callable[[RunSpec, int], Score | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How many trials, how many at once, and who proposes them."""

    trials: int
    parallel: int = 1
    seed: int = 0
    sampler: Sampler = "tpe"
    prune: bool = True
    poll_s: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """What must not change between two controllers of one search; kept with its trials."""

    scale: str
    overrides: list[str]
    score: str
    space: dict[str, str]
    default_run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is searched: the study's name and scale, its space, and overrides of every run."""

    study: str
    scale: str
    search: Search
    overrides: tuple[str, ...] = ()
    _override: Callable[[RunSpec], RunSpec] = field(init=False, repr=False, compare=False)
    _made: dict[tuple[Any, ...], RunSpec] = field(
        init=False, default_factory=dict, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "_override", overrider(self.overrides))

    @property
    def default(self) -> Point:
        """The point that the answer is compared with."""
        return self.search.defaults[self.scale]

    @property
    def fixed_points(self) -> list[Point]:
        """The points tried first: the default, then the corners."""
        return self.search.fixed_points(self.scale)

    def spec(self, point: Point, seed: int = 0) -> RunSpec:
        """Return the run of a point; it keeps the checkpoints of its rungs."""
        key = (seed, *sorted(point.items()))
        if key not in self._made:  # every round asks for every run
            made = self.search.run[self.scale](point, seed)
            axes = {**made.axes, "seed": seed} if seed else made.axes  # a repeat is told apart
            labelled = replace(made, study=self.study, scale=self.scale, axes=axes)
            made = self._override(labelled).validate()
            self._made[key] = keep_rungs(made, self.search.rungs)
        return self._made[key]

    def begun_with(self, score: str) -> Beginning:
        """Return what another controller must have in common to go on with this search."""
        return Beginning(
            scale=self.scale,
            overrides=sorted(self.overrides),
            score=score,
            space={name: repr(axis) for name, axis in self.search.space.items()},
            default_run=self.spec(self.default).run_id,
        )


def validate(task: Task, settings: Settings) -> None:
    """Raise ValueError for a search that cannot be run; nothing is written before."""
    if task.scale not in task.search.run:
        known = ", ".join(task.search.run)
        raise ValueError(f"{task.study} is not searched at scale {task.scale!r}; declared: {known}")
    if settings.trials < 1 or settings.parallel < 1:
        given = f"trials={settings.trials}, parallel={settings.parallel}"
        raise ValueError(f"{given}; give at least 1")
    if settings.sampler not in SAMPLERS:
        allowed = ", ".join(SAMPLERS)
        raise ValueError(f"sampler {settings.sampler!r} is unknown; allowed: {allowed}")
    points = task.fixed_points
    ids = {task.spec(point).run_id for point in points}
    if len(ids) < len(points):
        raise ValueError(
            f"{task.study}: {len(points)} fixed points are only {len(ids)} runs: an override fixes "
            "a parameter of the search; leave it out"
        )


def rung_steps(spec: RunSpec, rungs: Sequence[float]) -> list[int]:
    """Return the steps of a run's rungs, which are shares of its steps; never its last."""
    steps = {round(share * spec.num_steps) for share in rungs}
    # Not the last one: its score is the trial's value.
    return sorted(step for step in steps if 0 < step < spec.num_steps)


def keep_rungs(spec: RunSpec, rungs: Sequence[float]) -> RunSpec:
    """Return the run with the checkpoints of its rungs saved, and kept until they are scored."""
    steps = sorted({*spec.engine.keep_steps, *rung_steps(spec, rungs)})
    return replace(spec, engine=replace(spec.engine, keep_steps=steps)) if steps else spec
