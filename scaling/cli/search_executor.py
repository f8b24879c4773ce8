"""What a search's controller works with: a cluster's executor, MLflow, news on stderr."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.cli.arguments import publish

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage

    from jobs.cluster import Cluster
    from scaling.runs.state import RunStatus
    from scaling.search.budget import Budget
    from scaling.search.controller import Controller
    from scaling.search.task import Scorer, Settings, Task
    from scaling.spec import RunSpec

PUBLISH_EVERY_S = 60.0
REPORT_EVERY_S = 30.0
RETRY_S = 30.0


def make_controller(
    study: "optuna.Study",
    storage: "BaseStorage",
    *,
    task: "Task",
    settings: "Settings",
    score: "Scorer",
    budget: "Budget | None",
    runs_dir: Path,
    cluster: "Cluster",
) -> "Controller":
    """Return the controller of a search whose runs go to a cluster's executor."""
    from jobs.control import cancel
    from jobs.executor import executor_of
    from scaling.search.controller import Controller
    from scaling.search.runs import RUNS, RunList, search_folder

    def stop(specs: "Sequence[RunSpec]") -> None:
        cancel(specs, runs_dir)

    on_gpus = bool(task.spec(task.default).resources.gpus_per_node)
    return Controller(
        study=study,
        storage=storage,
        task=task,
        settings=settings,
        runs=RunList(path=search_folder(runs_dir, task.study) / RUNS, task=task),
        score=score,
        submit=_Handover(cluster, runs_dir, settings.parallel),
        states=lambda specs: _states(specs, runs_dir),
        cancel=stop,
        budget=budget,
        exclusive=on_gpus and executor_of(cluster).exclusive,
        on_round=_Progress(task.study, runs_dir),
        say=say,
    )


def _states(specs: "Sequence[RunSpec]", runs_dir: Path) -> "Mapping[str, RunStatus]":
    from jobs.queue import read_held
    from jobs.status import run_state
    from scaling.runs.folder import Run

    held = read_held(runs_dir)  # once: a cluster is asked
    return {spec.run_id: run_state(Run.of(runs_dir, spec.run_id), held) for spec in specs}


class _Handover:
    """Submits runs; once that has worked, an outage is waited out; a refusal is an error."""

    def __init__(self, cluster: "Cluster", runs_dir: Path, parallel: int) -> None:
        self._cluster, self._runs_dir, self._parallel = cluster, runs_dir, parallel
        self._worked, self._not_before = False, 0.0

    def __call__(self, specs: "Sequence[RunSpec]") -> None:
        """Submit; runs that could not be handed over are asked for again in a later round."""
        from jobs.executor import ExecutorAwayError, Order, executor_of

        if time.monotonic() < self._not_before:
            return
        order = Order(parallel=self._parallel, background=())
        try:
            executor_of(self._cluster).submit(specs, self._runs_dir, self._cluster, order)
            self._worked = True
        except ExecutorAwayError as error:
            if not self._worked:
                raise
            say(f"warning: {error}; trying again in {RETRY_S:.0f} s")
            self._not_before = time.monotonic() + RETRY_S


class _Progress:
    """Between rounds: says how far the runs under way are, and brings MLflow up to date."""

    def __init__(self, study: str, runs_dir: Path) -> None:
        self._study, self._runs_dir = study, runs_dir
        self._published = self._reported = time.monotonic()

    def __call__(self, specs: "Sequence[RunSpec]") -> None:
        """Report on the runs under way and publish when it is time; no runs: publish now."""
        now = time.monotonic()
        if specs and now - self._reported > REPORT_EVERY_S:
            self._reported = now
            say(_under_way(specs, self._runs_dir))
        if not specs or now - self._published > PUBLISH_EVERY_S:
            self._publish()
            self._published = time.monotonic()

    def _publish(self) -> None:
        from scaling.search.runs import search_specs

        publish(search_specs(self._study, self._runs_dir), self._runs_dir, quiet=True)


def _under_way(specs: "Sequence[RunSpec]", runs_dir: Path) -> str:
    from scaling.cli.status_table import clock

    states, parts = _states(specs, runs_dir), []
    for spec in specs:
        found = states[spec.run_id]
        left = f", {clock(found.eta_s)} left" if found.eta_s else ""
        steps = f" {found.step or 0}/{spec.num_steps}{left}" if found.state == "running" else ""
        parts.append(f"{spec.run_id} {found.state}{steps}")
    return f"under way: {'; '.join(parts)}"


def say(text: str) -> None:
    """Print news with the time of day on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
