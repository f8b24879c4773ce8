"""The seam between runs and machines: what an executor does, and which there are.

Nothing else knows of one by name: verbs ask for the executor of a cluster's `backend:`, and what
is held is asked of all. Another kind of machine is a module with these methods and a line in
`EXECUTORS`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from scaling.runs.state import Hold, RunStatus

if TYPE_CHECKING:
    from jobs.cluster import Cluster
    from jobs.pricing import Price
    from scaling.spec import RunSpec


class ExecutorAwayError(ValueError):
    """The executor does not answer now; asked again later it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a submission asks for beside its runs.

    `parallel`: ranks at once (0: as many as there is room for). `price`: GPU-hours of runs, refused
    above `max_gpu_hours`. `then`: commands of `scaling` behind all the runs. `dry_run`: say what
    would be done. `background`: where an executor works in this process, the command that does it
    in another instead (its own where it is empty, and None: wait here); `meanwhile` is entered
    while this process works on runs.
    """

    parallel: int = 0
    retry_failed: bool = True
    price: "Price | None" = None
    max_gpu_hours: float | None = None
    then: Sequence[Sequence[str]] = ()
    dry_run: bool = False
    progress: bool = True
    background: Sequence[str] | None = None
    meanwhile: Callable[[], AbstractContextManager[None]] = nullcontext


class Executor(Protocol):
    """Something that advances runs: this machine, a cluster's queue.

    `exclusive`: two submissions at once would take the same devices.
    """

    exclusive: bool

    def submit(
        self, specs: Sequence["RunSpec"], runs_dir: Path, cluster: "Cluster", order: Order
    ) -> dict[str, Any]:
        """Take on every run that is not done or in other hands; asking twice starts nothing twice.

        Returns "study", "submitted", "skipped_done", "skipped_running", "skipped_failed" and what
        else there is to say. Raises ValueError for what it cannot do, ExecutorAwayError where it
        does not answer; no marker is changed then.
        """
        ...

    def held(
        self, runs_dir: Path, *, fresh: bool = False, but: Path | None = None
    ) -> Mapping[str, Hold]:
        """Return what it has, or had and saw end, by run id.

        `fresh`: ask now instead of using an answer of the last half minute. `but`: the queue file
        of a caller that is an executor itself.
        """
        ...

    def cancel(
        self, before: Sequence[RunStatus], runs_dir: Path, *, wait_s: float
    ) -> dict[str, str]:
        """Let go of these runs, waiting up to `wait_s` for them to save; return what was done."""
        ...


@runtime_checkable
class QueueingExecutor(Protocol):
    """An executor whose runs wait in a queue that is not ours."""

    def links(self, runs_dir: Path, study: str) -> list[dict[str, Any]]:
        """Return the commands chained behind a study: job_id, command, state, reason, log."""
        ...

    def waits(self, run_id: str, runs_dir: Path) -> list[tuple[float, float]]:
        """Return when each life of a run was asked for and when it began, in unix s."""
        ...


def _local() -> Executor:
    from jobs.local.executor import LocalExecutor

    return LocalExecutor()


def _slurm() -> Executor:
    from jobs.slurm.executor import SlurmExecutor

    return SlurmExecutor()


# A cluster's `backend:` -> its executor; imported when it is asked for.
EXECUTORS: dict[str, Callable[[], Executor]] = {"local": _local, "slurm": _slurm}


def executor_of(cluster: "Cluster") -> Executor:
    """Return the executor that a cluster's `backend:` names."""
    return EXECUTORS[cluster.backend]()
