"""Where a search's runs go, and what is said meanwhile."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.cli.arguments import publish

if TYPE_CHECKING:
    from jobs.cluster import Cluster
    from scaling.search.controller import Executor, Options, Task
    from scaling.spec import RunSpec

PUBLISH_EVERY_S = 60.0
REPORT_EVERY_S = 30.0
RETRY_S = 30.0


def make_executor(
    task: "Task", options: "Options", runs_dir: Path, cluster: "Cluster"
) -> "Executor":
    """Return a cluster's executor as the controller sees it."""
    from jobs.control import cancel
    from jobs.executor import executor_of
    from jobs.status import study_status
    from scaling.search.controller import Executor
    from scaling.search.runs import RUNS, RunList, search_folder

    def states(specs: "Sequence[RunSpec]") -> dict[str, tuple[str, str | None]]:
        rows = study_status(specs, runs_dir).runs
        return {row.run_id: (row.state, row.reason) for row in rows}

    def stop(specs: "Sequence[RunSpec]") -> None:
        cancel(specs, runs_dir)

    default = task.search.defaults[task.scale]
    on_gpus = bool(task.spec(default).resources.gpus_per_node)
    return Executor(
        submit=_Handover(cluster, runs_dir, options.parallel),
        states=states,
        cancel=stop,
        idle_first=on_gpus and executor_of(cluster).exclusive,
        on_round=_Live(task.study, runs_dir),
        remember=RunList(path=search_folder(runs_dir, task.study) / RUNS, task=task).add,
        say=say,
    )


class _Handover:
    """Submits runs; once that has worked, an outage is waited out; a refusal is an error."""

    def __init__(self, cluster: "Cluster", runs_dir: Path, parallel: int) -> None:
        self._cluster, self._runs_dir, self._parallel = cluster, runs_dir, parallel
        self._worked, self._not_before = False, 0.0

    def __call__(self, specs: "Sequence[RunSpec]") -> None:
        """Submit; runs that could not be handed over are asked for again at a later look."""
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


class _Live:
    """Between looks: says how far the runs under way are, and brings MLflow up to date."""

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
    from jobs.status import study_status
    from scaling.cli.status_table import clock

    parts = []
    for row in study_status(specs, runs_dir).runs:
        left = f", {clock(row.eta_s)} left" if row.eta_s else ""
        steps = f" {row.step or 0}/{row.num_steps}{left}"
        parts.append(f"{row.run_id} {row.state}{steps if row.state == 'running' else ''}")
    return f"under way: {'; '.join(parts)}"


def say(text: str) -> None:
    """Print news with the time of day on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
