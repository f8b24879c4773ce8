"""One look at a search's running trials: report rungs, prune, tell those whose run has ended."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from scaling.search.propose import STARTUP_TRIALS
from scaling.spec import RunSpec

if TYPE_CHECKING:
    import optuna
    from optuna.trial import Trial

    from scaling.search.controller import Executor, Options, Score

OUT_OF_MEMORY = "out of memory"
CONSTRAINT = "memory"  # above 0: the point does not fit


def rung_steps(spec: RunSpec, rungs: Sequence[float]) -> list[int]:
    """Return the steps of a run's rungs, which are shares of its steps; never its last."""
    steps = {round(share * spec.num_steps) for share in rungs}
    return sorted(step for step in steps if 0 < step < spec.num_steps)


def keep_rungs(spec: RunSpec, rungs: Sequence[float]) -> RunSpec:
    """Return the run with the checkpoints of its rungs saved, and kept until they are looked at."""
    steps = sorted({*spec.engine.keep_steps, *rung_steps(spec, rungs)})
    return replace(spec, engine=replace(spec.engine, keep_steps=steps)) if steps else spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """What a look needs to know; `score(spec, step)` of a checkpoint, None where it is not."""

    study: "optuna.Study"
    rungs: Sequence[float]
    options: "Options"
    executor: "Executor"
    score: "Callable[[RunSpec, int], Score | None]"

    def at(self, number: int, trial_id: int, spec: RunSpec, state: tuple[str, str | None]) -> bool:
        """Tell the trial when its run has ended or is pruned; return whether it was."""
        from optuna.trial import Trial

        trial = Trial(self.study, trial_id)
        name, reason = state
        if name == "done":
            self._tell_score(trial, number, spec)
        elif name in ("failed", "cancelled"):
            self._tell_end(trial, number, spec, reason or name)
        elif name == "running" and self._report_rungs(trial, spec) and self._is_hopeless(trial):
            self._tell_pruned(trial, number, spec)
        else:
            return False
        return True

    def _tell_score(self, trial: "Trial", number: int, spec: RunSpec) -> None:
        self._report_rungs(trial, spec)
        found = self.score(spec, spec.num_steps)
        if found is None:
            raise RuntimeError(f"run {spec.run_id} is done but its last checkpoint is gone")
        if not math.isfinite(found.value):
            self._tell_end(trial, number, spec, "its score is not a number")
            return
        self._label(trial, spec, sem=found.sem)
        self.study.tell(number, found.value)
        best = self.study.best_trial.number == number
        self._say(number, spec, f"{found}{', the best so far' if best else ''}")

    def _tell_pruned(self, trial: "Trial", number: int, spec: RunSpec) -> None:
        from optuna.trial import TrialState

        self._label(trial, spec)
        trial.set_user_attr("pruned", True)
        self.executor.cancel([spec])
        self.study.tell(number, state=TrialState.PRUNED)
        seen = max(self.study.get_trials(deepcopy=False)[number].intermediate_values)
        self._say(number, spec, f"pruned after {seen:,} samples")

    def _tell_end(self, trial: "Trial", number: int, spec: RunSpec, reason: str) -> None:
        from optuna.trial import TrialState

        self._label(trial, spec, reason=reason)
        pruned = reason == "cancelled" and spec.run_id in self._pruned_runs()
        if OUT_OF_MEMORY in reason.lower():
            trial.set_constraint(CONSTRAINT, 1.0)
            pruned = True
        self.study.tell(number, state=TrialState.PRUNED if pruned else TrialState.FAIL)
        self._say(number, spec, reason)

    def _pruned_runs(self) -> set[str]:
        trials = self.study.get_trials(deepcopy=False)
        return {t.user_attrs.get("run_id", "") for t in trials if t.user_attrs.get("pruned")}

    def _report_rungs(self, trial: "Trial", spec: RunSpec) -> bool:
        """Report the score of every rung's checkpoint that is there; return whether one was."""
        known = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        new = False
        for step in rung_steps(spec, self.rungs):
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

    def _say(self, number: int, spec: RunSpec, what: str) -> None:
        trials = self.study.get_trials(deepcopy=False)
        settled = sum(trial.state.is_finished() for trial in trials)
        total = max(self.options.trials, settled)
        place = " ".join(f"{name}={value}" for name, value in trials[number].params.items())
        self.executor.say(f"[{settled}/{total}] trial {number}, {place}: {what} ({spec.run_id})")
