"""The search controller: asks Optuna for points, has them run as ordinary runs, tells the scores.

Jobs never touch Optuna. Everything a restart needs is in the storage and in the run folders: a
point's run follows from its parameters, so a controller killed at any moment goes on where it was.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isnan
from typing import TYPE_CHECKING, Any

from scaling.overrides import overrider
from scaling.search.budget import Budget, corners
from scaling.search.look import Looks, keep_rungs
from scaling.search.propose import SAMPLERS, Sampler, completed, next_fixed, point_of, propose
from scaling.spec import RunSpec
from scaling.study import Point, Search

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a point is judged by, smaller is better, with its standard error over episodes."""

    value: float
    sem: float

    def __str__(self) -> str:
        return f"{self.value:.5f}" + ("" if isnan(self.sem) else f" ± {self.sem:.5f}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Executor:
    """Where runs go, and who hears of it. `submit` returns at once and may be asked twice.

    `states(specs)` -> run id -> (state, reason), states as in `scaling status`; `idle_first`: hand
    over the next runs only when none is under way; `remember` is called with (point, seed) before
    their runs are started; `on_round` with the runs under way after every look; `say` with news.
    """

    submit: Callable[[Sequence[RunSpec]], None]
    states: Callable[[Sequence[RunSpec]], Mapping[str, tuple[str, str | None]]]
    cancel: Callable[[Sequence[RunSpec]], None]
    idle_first: bool = False
    on_round: Callable[[Sequence[RunSpec]], None] = lambda specs: None
    remember: Callable[[Sequence[tuple[Mapping[str, Any], int]]], None] = lambda points: None
    say: Callable[[str], None] = lambda text: None


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

    def spec(self, point: Mapping[str, Any], seed: int = 0) -> RunSpec:
        """Return the run of a point; it keeps the checkpoints of its rungs."""
        key = (seed, *sorted(point.items()))
        if key not in self._made:  # every look asks for every run
            made = self.search.run[self.scale](point, seed)
            axes = {**made.axes, "seed": seed} if seed else made.axes  # a repeat is told apart
            labelled = replace(made, study=self.study, scale=self.scale, axes=axes)
            made = self._override(labelled).validate()
            self._made[key] = keep_rungs(made, self.search.rungs)
        return self._made[key]

    def begun_with(self, score: str) -> dict[str, Any]:
        """Return what must not change between two controllers of one search."""
        return {
            "scale": self.scale,
            "overrides": sorted(self.overrides),
            "score": score,
            "space": {name: repr(axis) for name, axis in self.search.space.items()},
            "default_run": self.spec(self.search.defaults[self.scale]).run_id,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How many trials, how many at once, and who proposes them."""

    trials: int
    parallel: int = 1
    seed: int = 0
    sampler: Sampler = "tpe"
    prune: bool = True
    poll_s: float = 2.0


def check_task(task: Task, options: Options) -> None:
    """Raise ValueError for a search that cannot be run; nothing is written before."""
    if task.scale not in task.search.run:
        known = ", ".join(task.search.run)
        raise ValueError(f"{task.study} is not searched at scale {task.scale!r}; declared: {known}")
    if options.trials < 1 or options.parallel < 1:
        raise ValueError(f"trials={options.trials}, parallel={options.parallel}; give at least 1")
    if options.sampler not in SAMPLERS:
        allowed = ", ".join(SAMPLERS)
        raise ValueError(f"sampler {options.sampler!r} is unknown; allowed: {allowed}")
    points = task.search.fixed_points(task.scale)
    ids = {task.spec(point).run_id for point in points}
    if len(ids) < len(points):
        raise ValueError(
            f"{task.study}: {len(points)} fixed points are only {len(ids)} runs: an override fixes "
            "a parameter of the search; leave it out"
        )


def run_trials(
    study: "optuna.Study",
    task: Task,
    options: Options,
    *,
    executor: Executor,
    score: Callable[[RunSpec, int], Score | None],
    budget: Budget | None = None,
) -> str | None:
    """Go on until `options.trials` trials are settled; return why it stopped before, if it did.

    `score(spec, step)` of a checkpoint, None where it is not there. Trials that stand as running in
    the storage are taken up: their runs are looked at, started where they never were, and told.
    """
    for point in task.search.fixed_points(task.scale):
        study.enqueue_trial(point, skip_if_exists=True)
    executor.remember([(point, 0) for point in _points(study, task)])
    refusal = None
    while True:
        under_way = _settle(study, task, options, executor=executor, score=score)
        missing = 0 if refusal else options.trials - _num_asked(study)
        room = options.parallel - len(under_way)
        if executor.idle_first and under_way:
            room = 0
        if missing <= 0 and not under_way:
            return refusal
        for _ in range(min(missing, room)):
            refusal = budget.refusal([_next(study, task, budget)]) if budget else None
            if refusal:
                executor.say(f"no more trials: {refusal}")
                break
            executor.remember([(_ask(study, task, options), 0)])
        if missing <= 0 or room <= 0:
            executor.on_round(under_way)
            time.sleep(options.poll_s)


def wait_for(specs: Sequence[RunSpec], options: Options, *, executor: Executor) -> set[str]:
    """Have runs done, `options.parallel` at once; return the ids of those that are."""
    ended: set[str] | None = None
    while True:
        states = executor.states(specs)
        waiting = [s for s in specs if states[s.run_id][0] in ("planned", "preempted")]
        active = [s for s in specs if states[s.run_id][0] in ("queued", "running", "unknown")]
        over = [spec for spec in specs if spec not in waiting and spec not in active]
        ended = {spec.run_id for spec in over} if ended is None else ended  # before we came
        for spec in (spec for spec in over if spec.run_id not in ended):
            ended.add(spec.run_id)
            place, state = f"[{len(ended)}/{len(specs)}]", states[spec.run_id][0]
            executor.say(f"{place} repeat of {_words(spec)}: {state}")
        if not waiting and not active:
            return {key for key, (state, _) in states.items() if state == "done"}
        room = options.parallel - len(active)
        if waiting and room > 0 and not (executor.idle_first and active):
            executor.submit(waiting[:room])
        executor.on_round(active)
        time.sleep(options.poll_s)


def _words(spec: RunSpec) -> str:
    words = " ".join(f"{name}={value}" for name, value in spec.axes.items())
    return f"{words} ({spec.run_id})"


def _num_asked(study: "optuna.Study") -> int:
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    return sum(trial.state != TrialState.WAITING for trial in trials)


def _next(study: "optuna.Study", task: Task, budget: Budget) -> RunSpec:
    """Return the run of the next trial or, where the sampler is free, the dearest it may choose."""
    point = next_fixed(study)
    if point is not None:
        return task.spec(point)
    return budget.dearest([task.spec(point) for point in corners(task.search)])


def _ask(study: "optuna.Study", task: Task, options: Options) -> Point:
    """Ask for one point and return it; its run is handed over at the next look."""
    trial = propose(study, task.search, options)
    trial.set_user_attr("run_id", task.spec(trial.params).run_id)
    return trial.params


def _points(study: "optuna.Study", task: Task) -> list[Point]:
    found = (point_of(trial, task.search) for trial in study.get_trials(deepcopy=False))
    return [point for point in found if point]


def _settle(
    study: "optuna.Study",
    task: Task,
    options: Options,
    *,
    executor: Executor,
    score: Callable[[RunSpec, int], Score | None],
) -> list[RunSpec]:
    """Look at every running trial; tell those that ended; return the runs still under way."""
    from optuna.trial import TrialState

    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    points = [completed(study, trial, task.search, options) for trial in running]
    executor.remember([(point, 0) for point in points])
    pairs = [(trial, task.spec(point)) for trial, point in zip(running, points, strict=True)]
    unique = {spec.run_id: spec for _, spec in pairs}
    states = executor.states(list(unique.values())) if unique else {}
    lost = [s for key, s in unique.items() if states[key][0] in ("planned", "preempted")]
    if lost:
        executor.submit(lost)
    looks = Looks(
        study=study, rungs=task.search.rungs, options=options, executor=executor, score=score
    )
    open_ids = {
        spec.run_id
        for trial, spec in pairs
        if not looks.at(trial.number, trial._trial_id, spec, states[spec.run_id])
    }
    return [spec for key, spec in unique.items() if key in open_ids]
