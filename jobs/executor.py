"""The seam between runs and machines: what an executor does, and which there are.

Nothing else knows of one by name: verbs ask for the executor of a cluster's `backend:`, and what
is held is asked of all. Another kind of machine is a module with these methods and a line in
`EXECUTORS`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from scaling.document import Document, optional
from scaling.runs.folder import Heartbeat
from scaling.runs.state import Hold, RunStatus, State

if TYPE_CHECKING:
    from jobs.cluster import Cluster
    from jobs.pricing import Price
    from scaling.spec import RunSpec


class ExecutorAwayError(ValueError):
    """The executor does not answer now; asked again later it may."""


class Progress(Protocol):
    """Told of every end and, a few times a second, of the heartbeats of the runs under way."""

    def finished(self, run_id: str, state: str, reason: str | None) -> None:
        """Note the end of a run."""

    def update(self, beats: Mapping[str, Heartbeat]) -> None:
        """Show the heartbeats (with num_steps, by run id) of the active runs."""


# Opened with the number of runs and how many of them need nothing (any more).
OpenProgress = Callable[[int, int], AbstractContextManager[Progress]]


class _Silent:
    def finished(self, run_id: str, state: str, reason: str | None) -> None:
        pass

    def update(self, beats: Mapping[str, Heartbeat]) -> None:
        pass


def silent(num_runs: int, num_before: int) -> AbstractContextManager[Progress]:
    """Return a progress that shows nothing."""
    return nullcontext(_Silent())


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a submission asks for beside its runs.

    `parallel`: ranks at once (0: as many as there is room for). `price`: GPU-hours of runs, refused
    above `max_gpu_hours`. `then`: commands of `scaling` behind all the runs. `dry_run`: say what
    would be done. `background`: where an executor works in this process, the command that does it
    in another instead (its own where it is empty, and None: wait here); `meanwhile` is entered
    while this process works on runs, and `progress` shows how far they are.
    """

    parallel: int = 0
    retry_failed: bool = True
    price: "Price | None" = None
    max_gpu_hours: float | None = None
    then: Sequence[Sequence[str]] = ()
    dry_run: bool = False
    progress: OpenProgress = silent
    background: Sequence[str] | None = None
    meanwhile: Callable[[], AbstractContextManager[None]] = nullcontext


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted(Document):
    """What became of a submission: runs taken on; those left as done, held, or failed before."""

    study: str
    cluster: str | None = optional()
    submitted: int
    skipped_done: int
    skipped_running: int
    skipped_failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Document):
    """How a run ended that was worked on here."""

    run_id: str
    state: State
    reason: str | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Worked(Submitted):
    """A submission worked through before it returned; counts are of the runs taken on."""

    done: int
    failed: int
    preempted: int
    cancelled: int
    interrupted: bool
    runs: list[Outcome]
    seconds: float

    @property
    def is_through(self) -> bool:
        """Whether all of its runs are done."""
        return self.done == self.submitted and not self.interrupted


@dataclass(frozen=True, slots=True, kw_only=True)
class Detached(Submitted):
    """A submission that a process in the background works through (`pid` None: nothing to do)."""

    pid: int | None
    host: str
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobArray(Document):
    """Runs that a queue has as one job; `script` is what a dry run would hand over."""

    job_id: str | None
    name: str
    runs: int
    nodes: int
    gpus_per_node: int
    limit: int
    script: str | None = optional()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainedJob(Document):
    """A command of `scaling` that a queue has behind the runs."""

    job_id: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedOver(Submitted):
    """A submission that lies in a queue, or would: `gpu_hours` are None on CPU."""

    gpu_hours: float | None
    arrays: list[JobArray]
    chain: list[ChainedJob]
    submission: str | None
    dry_run: bool


LinkState = Literal["waiting", "running", "done", "failed", "cancelled", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Link(ChainedJob):
    """Where a chained command stands, and why; `log` is its output."""

    state: LinkState
    reason: str | None
    log: str


class Executor(Protocol):
    """Something that advances runs: this machine, a cluster's queue.

    `exclusive`: two submissions at once would take the same devices.
    """

    exclusive: bool

    def submit(
        self, specs: Sequence["RunSpec"], runs_dir: Path, cluster: "Cluster", order: Order
    ) -> Submitted:
        """Take on every run that is not done or in other hands; asking twice starts nothing twice.

        Raises ValueError for what it cannot do, ExecutorAwayError where it
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

    def links(self, runs_dir: Path, study: str) -> list[Link]:
        """Return the commands chained behind a study."""
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
