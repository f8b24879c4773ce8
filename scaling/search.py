"""The search controller: asks Optuna for points, has them run as ordinary runs, tells the scores.

Jobs never touch Optuna. Everything a restart needs is in the storage and in the run folders: a
point's run follows from its parameters, so a controller killed at any moment goes on where it was.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from scaling.config import with_overrides
from scaling.spec import RunSpec
from scaling.study import Choice, IntRange, Point, Search

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial, Trial

Sampler = Literal["tpe", "gp", "random"]
SAMPLERS: tuple[Sampler, ...] = ("tpe", "gp", "random")
STARTUP_TRIALS = 8
OUT_OF_MEMORY = "out of memory"
CONSTRAINT = "memory"  # above 0: the point does not fit


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a point is judged by, smaller is better, with its standard error over episodes."""

    value: float
    sem: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Executor:
    """Where runs go. `submit` returns at once and may be asked twice for a run.

    `states(specs)` -> run id -> (state, reason), states as in `scaling status`; `idle_first`: hand
    over the next runs only when none is under way; `on_round` is called after every look;
    `remember((point, seed)s)` before their runs are started.
    """

    submit: Callable[[Sequence[RunSpec]], None]
    states: Callable[[Sequence[RunSpec]], Mapping[str, tuple[str, str | None]]]
    cancel: Callable[[Sequence[RunSpec]], None]
    idle_first: bool = False
    on_round: Callable[[Sequence[RunSpec]], None] = lambda specs: None
    remember: Callable[[Sequence[tuple[Mapping[str, Any], int]]], None] = lambda points: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is searched: the study's name and scale, its space, and overrides of every run."""

    study: str
    scale: str
    search: Search
    overrides: tuple[str, ...] = ()
    _made: dict[tuple[Any, ...], RunSpec] = field(default_factory=dict, repr=False, compare=False)

    def spec(self, point: Mapping[str, Any], seed: int = 0) -> RunSpec:
        """Return the run of a point."""
        key = (seed, *sorted(point.items()))
        if key not in self._made:  # an override costs 40 ms, and every look asks for every run
            made = self.search.run[self.scale](point, seed)
            labelled = replace(made, study=self.study, scale=self.scale)
            self._made[key] = with_overrides(labelled, self.overrides).validate()
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
    rungs: tuple[float, ...] = ()
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
) -> None:
    """Go on until `options.trials` trials are settled.

    `score(spec, step)` of a checkpoint, None where it is not there. Trials that stand as running in
    the storage are taken up: their runs are looked at, started where they never were, and told.
    """
    for point in task.search.fixed_points(task.scale):
        study.enqueue_trial(point, skip_if_exists=True)
    while True:
        executor.remember([(point, 0) for point in _points(study, task)])
        under_way = _settle(study, task, options, executor=executor, score=score)
        missing = options.trials - _num_asked(study)
        room = options.parallel - len(under_way)
        if executor.idle_first and under_way:
            room = 0
        if missing <= 0 and not under_way:
            return
        for _ in range(min(missing, room)):
            _ask(study, task, options)
        if missing <= 0 or room <= 0:
            executor.on_round(_specs(study, task))
            time.sleep(options.poll_s)


def wait_for(specs: Sequence[RunSpec], options: Options, *, executor: Executor) -> set[str]:
    """Have runs done, `options.parallel` at once; return the ids of those that are."""
    while True:
        states = executor.states(specs)
        waiting = [s for s in specs if states[s.run_id][0] in ("planned", "preempted")]
        active = [s for s in specs if states[s.run_id][0] in ("queued", "running", "unknown")]
        if not waiting and not active:
            return {key for key, (state, _) in states.items() if state == "done"}
        room = options.parallel - len(active)
        if waiting and room > 0 and not (executor.idle_first and active):
            executor.submit(waiting[:room])
            continue
        executor.on_round(specs)
        time.sleep(options.poll_s)


def distributions(search: Search) -> dict[str, Any]:
    """Return the space as Optuna's distributions."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    made: dict[str, Any] = {}
    for name, axis in search.space.items():
        if isinstance(axis, IntRange):
            made[name] = IntDistribution(axis.low, axis.high, log=True)
        elif isinstance(axis, Choice):
            made[name] = CategoricalDistribution(axis.values)
    return made


def propose(study: "optuna.Study", search: Search, options: Options) -> "Trial":
    """Return a new trial with all its parameters.

    The sampler is made anew from (seed, number of trials): a restart goes on with the draws that
    would have come, instead of repeating the first ones.
    """
    study.sampler = make_sampler(options.sampler, seed=_trial_seed(study, options))
    return study.ask(fixed_distributions=distributions(search))


def make_sampler(name: Sampler, *, seed: int) -> Any:
    """Return one of Optuna's samplers; a point that did not fit into memory is avoided."""
    import warnings

    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import GPSampler, RandomSampler, TPESampler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if name == "random":
            return RandomSampler(seed=seed)
        if name == "gp":
            return GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
        return TPESampler(
            seed=seed,
            n_startup_trials=STARTUP_TRIALS,
            multivariate=True,
            constant_liar=True,
        )


def point_of(trial: "FrozenTrial", search: Search) -> Point | None:
    """Return a trial's point, or None while parameters are missing."""
    return dict(trial.params) if search.space.keys() <= trial.params.keys() else None


def _trial_seed(study: "optuna.Study", options: Options) -> int:
    return (options.seed * 1_000_003 + len(study.get_trials(deepcopy=False))) % 2**32


def _num_asked(study: "optuna.Study") -> int:
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    return sum(trial.state != TrialState.WAITING for trial in trials)


def _ask(study: "optuna.Study", task: Task, options: Options) -> None:
    """Ask for one point; its run is handed over at the next look."""
    trial = propose(study, task.search, options)
    trial.set_user_attr("run_id", task.spec(trial.params).run_id)


def _specs(study: "optuna.Study", task: Task) -> list[RunSpec]:
    specs = {spec.run_id: spec for spec in map(task.spec, _points(study, task))}
    return list(specs.values())


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
    pairs = [(trial, task.spec(_completed(study, trial, task, options))) for trial in running]
    unique = {spec.run_id: spec for _, spec in pairs}
    states = executor.states(list(unique.values())) if unique else {}
    lost = [s for key, s in unique.items() if states[key][0] in ("planned", "preempted")]
    if lost:
        executor.submit(lost)
    looks = _Looks(study=study, options=options, executor=executor, score=score)
    open_ids = {
        spec.run_id
        for trial, spec in pairs
        if not looks.at(trial.number, trial._trial_id, spec, states[spec.run_id])
    }
    return [unique[key] for key in open_ids]


def _completed(
    study: "optuna.Study", trial: "FrozenTrial", task: Task, options: Options
) -> Mapping[str, Any]:
    """Return a trial's parameters, drawing those that a killed controller left out."""
    point = point_of(trial, task.search)
    if point is not None:
        return point
    from optuna.trial import Trial

    study.sampler = make_sampler(options.sampler, seed=_trial_seed(study, options))
    live = Trial(study, trial._trial_id)
    for name, axis in task.search.space.items():
        if isinstance(axis, IntRange):
            live.suggest_int(name, axis.low, axis.high, log=True)
        else:
            live.suggest_categorical(name, axis.values)
    return live.params


@dataclass(frozen=True, slots=True, kw_only=True)
class _Looks:
    """One look at running trials."""

    study: "optuna.Study"
    options: Options
    executor: Executor
    score: Callable[[RunSpec, int], Score | None]

    def at(self, number: int, trial_id: int, spec: RunSpec, state: tuple[str, str | None]) -> bool:
        """Tell the trial when its run has ended or is pruned; return whether it was."""
        from optuna.trial import Trial, TrialState

        trial = Trial(self.study, trial_id)
        name, reason = state
        if name == "done":
            self._report_rungs(trial, spec)
            found = self.score(spec, spec.num_steps)
            if found is None:
                raise RuntimeError(f"run {spec.run_id} is done but its last checkpoint is gone")
            self._label(trial, spec, sem=found.sem)
            self.study.tell(number, found.value)
        elif name in ("failed", "cancelled"):
            self._tell_end(trial, number, spec, reason or name)
        elif name == "running" and self._report_rungs(trial, spec) and self._is_hopeless(trial):
            self._label(trial, spec)
            trial.set_user_attr("pruned", True)
            self.executor.cancel([spec])
            self.study.tell(number, state=TrialState.PRUNED)
        else:
            return False
        return True

    def _tell_end(self, trial: "Trial", number: int, spec: RunSpec, reason: str) -> None:
        from optuna.trial import TrialState

        self._label(trial, spec, reason=reason)
        pruned = reason == "cancelled" and spec.run_id in self._pruned_runs()
        if OUT_OF_MEMORY in reason.lower():
            trial.set_constraint(CONSTRAINT, 1.0)
            pruned = True
        self.study.tell(number, state=TrialState.PRUNED if pruned else TrialState.FAIL)

    def _pruned_runs(self) -> set[str]:
        trials = self.study.get_trials(deepcopy=False)
        return {t.user_attrs.get("run_id", "") for t in trials if t.user_attrs.get("pruned")}

    def _report_rungs(self, trial: "Trial", spec: RunSpec) -> bool:
        """Report the score of every rung's checkpoint that is there; return whether one was."""
        known = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        new = False
        for step in (round(share * spec.num_steps) for share in self.options.rungs):
            seen = step * spec.global_batch_size
            found = None if seen in known else self.score(spec, step)
            if found is not None:
                trial.report(found.value, seen)
                new = True
        return new

    def _is_hopeless(self, trial: "Trial") -> bool:
        from optuna.pruners import MedianPruner

        self.study.pruner = MedianPruner(n_startup_trials=STARTUP_TRIALS // 2)
        return self.options.prune and trial.should_prune()

    def _label(self, trial: "Trial", spec: RunSpec, **more: Any) -> None:
        """Keep the run's id and what is known of it with the trial."""
        for name, value in {"run_id": spec.run_id, **more}.items():
            trial.set_user_attr(name, value)
