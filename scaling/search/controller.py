"""The search controller: asks Optuna for points, has them run as ordinary runs, tells the scores.

Jobs never touch Optuna. Everything a restart needs is in the storage and in the run folders: a
point's run follows from its parameters, so a controller killed at any moment goes on where it was.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scaling.runs.state import RunStatus, State
from scaling.search.budget import Budget, corners
from scaling.search.propose import (
    STARTUP_TRIALS,
    complete,
    enqueue,
    next_fixed,
    point_of,
    propose,
)
from scaling.search.runs import RunList
from scaling.search.storage import restore
from scaling.search.task import Scorer, Settings, Task, rung_steps
from scaling.spec import RunSpec

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage
    from optuna.trial import Trial

OUT_OF_MEMORY = "out of memory"
CONSTRAINT = "memory"  # above 0: the point does not fit
WAITING: tuple[State, ...] = ("planned", "preempted")  # nobody has the run
ACTIVE: tuple[State, ...] = ("queued", "running", "unknown")
RUN_ID, SEM, REASON, PRUNED = "run_id", "sem", "reason", "pruned"  # attributes of a trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """One search: its trials in Optuna, and what has their runs done; hold `sole_controller`.

    `submit` returns at once and may be asked twice; `states(specs)` -> run id -> where it stands.
    `exclusive`: hand over the next runs only when none is under way. `on_round` is called with the
    runs under way after every look at them; `say` with news.
    """

    study: "optuna.Study"
    storage: "BaseStorage"
    task: Task
    settings: Settings
    runs: RunList
    score: Scorer
    submit: Callable[[Sequence[RunSpec]], None]
    states: Callable[[Sequence[RunSpec]], Mapping[str, RunStatus]]
    cancel: Callable[[Sequence[RunSpec]], None]
    budget: Budget | None = None
    exclusive: bool = False
    on_round: Callable[[Sequence[RunSpec]], None] = lambda specs: None
    say: Callable[[str], None] = lambda text: None

    def run_trials(self) -> str | None:
        """Go on until `settings.trials` trials have ended; return why it stopped before, if so.

        Trials that stand as running in the storage are taken up: their runs are asked after,
        started where they never were, and told.
        """
        for point in self.task.fixed_points:
            enqueue(self.study, point)
        trials = self.study.get_trials(deepcopy=False)
        known = (point_of(trial, self.task.search) for trial in trials)
        self.runs.add((point, 0) for point in known if point)
        refusal = None
        while True:
            under_way = self._tell_ended()
            missing = 0 if refusal else self.settings.trials - self._num_asked()
            room = self._room(under_way)
            if missing <= 0 and not under_way:
                return refusal
            for _ in range(min(missing, room)):
                refusal = self._refusal()
                if refusal:
                    self.say(f"no more trials: {refusal}")
                    break
                self._ask()
            if missing <= 0 or room <= 0:
                self.on_round(under_way)
                time.sleep(self.settings.poll_s)

    def run_all(self, specs: Sequence[RunSpec]) -> set[str]:
        """Have runs done, `settings.parallel` at once; return the ids of those that are."""
        ended: set[str] | None = None  # not yet known: what ended earlier is no news
        while True:
            states = self.states(specs)
            waiting = [s for s in specs if states[s.run_id].state in ("planned", "preempted")]
            active = [
                s for s in specs if states[s.run_id].state in ("queued", "running", "unknown")
            ]
            over = [spec for spec in specs if spec not in waiting and spec not in active]
            ended = {spec.run_id for spec in over} if ended is None else ended  # before we came
            for spec in (spec for spec in over if spec.run_id not in ended):
                ended.add(spec.run_id)
                place, state = f"[{len(ended)}/{len(specs)}]", states[spec.run_id].state
                self.say(f"{place} repeat of {_axes(spec)}: {state}")
            if not waiting and not active:
                return {key for key, status in states.items() if status.state == "done"}
            room = self._room(active)
            if waiting and room > 0:
                self.submit(waiting[:room])
            self.on_round(active)
            time.sleep(self.settings.poll_s)

    def _room(self, under_way: Sequence[RunSpec]) -> int:
        """Return how many runs more may be under way."""
        if self.exclusive and under_way:
            return 0
        return self.settings.parallel - len(under_way)

    def _num_asked(self) -> int:
        from optuna.trial import TrialState

        trials = self.study.get_trials(deepcopy=False)
        return sum(trial.state != TrialState.WAITING for trial in trials)

    def _refusal(self) -> str | None:
        """Return why the next trial may not be asked for, None when it may.

        Its point is known only when the sampler has drawn it, and then the trial is stored: where
        the sampler is free, the dearest point that it may choose has to fit.
        """
        if self.budget is None:
            return None
        point = next_fixed(self.study)
        points = corners(self.task.search) if point is None else [point]
        return self.budget.refusal([self.budget.dearest([self.task.spec(p) for p in points])])

    def _ask(self) -> None:
        """Ask for one point; its run is handed over in the next round."""
        trial = propose(self.study, self.task.search, self.settings)
        # Stored before it is listed or started: a kill in between leaves a running trial, which
        # the next round takes up.
        trial.set_user_attr(RUN_ID, self.task.spec(trial.params).run_id)
        self.runs.add([(trial.params, 0)])

    def _tell_ended(self) -> list[RunSpec]:
        """Tell the running trials that have ended; return the runs still under way.

        Runs that nobody has are handed over: new ones, and those of a controller that was killed
        between asking and submitting. Trials of one point share a run.
        """
        from optuna.trial import TrialState

        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        trials = [restore(self.study, self.storage, frozen.number) for frozen in running]
        points = [complete(trial, self.task.search, self.settings) for trial in trials]
        self.runs.add((point, 0) for point in points)  # before they start: others find them there
        pairs = [(t, self.task.spec(point)) for t, point in zip(trials, points, strict=True)]
        unique = {spec.run_id: spec for _, spec in pairs}
        states = self.states(list(unique.values())) if unique else {}
        lost = [s for key, s in unique.items() if states[key].state in WAITING]
        if lost:
            self.submit(lost)
        under_way = {s.run_id for t, s in pairs if not self._tell(t, s, states[s.run_id])}
        return [spec for key, spec in unique.items() if key in under_way]

    def _tell(self, trial: "Trial", spec: RunSpec, status: RunStatus) -> bool:
        """Tell the trial when its run has ended or is pruned; return whether it was told."""
        if status.state == "done":
            self._tell_score(trial, spec)
        elif status.state in ("failed", "cancelled"):
            self._tell_end(trial, spec, status.reason or status.state)
        elif status.state == "running" and self._is_hopeless(trial, spec):
            self._tell_pruned(trial, spec)
        else:
            return False
        return True

    def _tell_score(self, trial: "Trial", spec: RunSpec) -> None:
        self._report_rungs(trial, spec)
        found = self.score(spec, spec.num_steps)
        if found is None:  # DONE is written after the checkpoint, so someone removed it since
            raise RuntimeError(f"run {spec.run_id} is done but its last checkpoint is gone")
        if not math.isfinite(found.value):  # told as a value, nan would fail the trial unnamed
            self._tell_end(trial, spec, "its score is not a number")
            return
        trial.set_user_attr(RUN_ID, spec.run_id)
        trial.set_user_attr(SEM, found.sem)
        self.study.tell(trial, found.value)
        best = self.study.best_trial.number == trial.number
        self._say(trial, spec, f"{found}{', the best so far' if best else ''}")

    def _tell_pruned(self, trial: "Trial", spec: RunSpec) -> None:
        from optuna.trial import TrialState

        trial.set_user_attr(RUN_ID, spec.run_id)
        # Before the run is cancelled: a controller killed between the two finds a cancelled run,
        # and by this mark that it was pruned and not stopped by hand.
        trial.set_user_attr(PRUNED, True)
        self.cancel([spec])
        told = self.study.tell(trial, state=TrialState.PRUNED)
        self._say(trial, spec, f"pruned after {told.last_step:,} samples")

    def _tell_end(self, trial: "Trial", spec: RunSpec, reason: str) -> None:
        from optuna.trial import TrialState

        trial.set_user_attr(RUN_ID, spec.run_id)
        trial.set_user_attr(REASON, reason)
        pruned = reason == "cancelled" and spec.run_id in self._pruned_runs()
        if OUT_OF_MEMORY in reason.lower():
            trial.set_constraint(CONSTRAINT, 1.0)
            pruned = True  # samplers leave out failed trials, with what they say of the space
        self.study.tell(trial, state=TrialState.PRUNED if pruned else TrialState.FAIL)
        self._say(trial, spec, reason)

    def _pruned_runs(self) -> set[str]:
        trials = self.study.get_trials(deepcopy=False)
        return {t.user_attrs.get(RUN_ID, "") for t in trials if t.user_attrs.get(PRUNED)}

    def _report_rungs(self, trial: "Trial", spec: RunSpec) -> bool:
        """Report the score of every rung's checkpoint that is there; return whether one was."""
        known = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        new = False
        for step in rung_steps(spec, self.task.search.rungs):
            seen = step * spec.global_batch_size
            # Optuna keeps the first value of a step and warns of a second one.
            found = None if seen in known else self.score(spec, step)
            if found is not None:
                trial.report(found.value, seen)
                new = True
        return new

    def _is_hopeless(self, trial: "Trial", spec: RunSpec) -> bool:
        """Return whether a rung reached just now is worse than the median there."""
        from optuna.pruners import MedianPruner

        if not self._report_rungs(trial, spec):
            return False
        # Half of what the sampler waits for: a median of four is rough, but each run is dear.
        self.study.pruner = MedianPruner(n_startup_trials=STARTUP_TRIALS // 2)
        return self.settings.prune and trial.should_prune()

    def _say(self, trial: "Trial", spec: RunSpec, news: str) -> None:
        trials = self.study.get_trials(deepcopy=False)
        ended = sum(each.state.is_finished() for each in trials)
        place = f"[{ended}/{max(self.settings.trials, ended)}]"
        point = " ".join(f"{name}={value}" for name, value in trials[trial.number].params.items())
        self.say(f"{place} trial {trial.number}, {point}: {news} ({spec.run_id})")


def _axes(spec: RunSpec) -> str:
    axes = " ".join(f"{name}={value}" for name, value in spec.axes.items())
    return f"{axes} ({spec.run_id})"
