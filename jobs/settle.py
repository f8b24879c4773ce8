"""What is left to write when a run's process has ended: its attempt's end, its FAILED marker."""

from dataclasses import replace
from pathlib import Path

from jobs.queue import Queued
from jobs.status import RunStatus, run_state
from scaling.runs.folder import DONE, FAILED, KILLED, close_attempt, last_line, write_failed
from scaling.spec import RunSpec

RESUMABLE_CODE = 85
NOT_QUEUED = Queued()  # the executor's own queue file still lists the run


def settle(spec: RunSpec, run_dir: Path, code: int, *, pid: int, log_start: int) -> RunStatus:
    """Write into the run's folder what its process could not write itself; return its state.

    `code`: exit code, negative for the signal that killed it. `log_start`: where in train.log the
    words of this attempt begin; the last of them become the reason of a failure.
    """
    try:
        return _settle(spec, run_dir, code, pid=pid, log_start=log_start)
    except OSError as error:  # a full disk, most often
        status = run_state(run_dir, queued=NOT_QUEUED)
        said = last_line(run_dir / "train.log", start=log_start)
        reason = f"cannot write into {run_dir}: {error.strerror}; {said}".strip("; ")
        return replace(status, state="failed", reason=reason)


def _settle(spec: RunSpec, run_dir: Path, code: int, *, pid: int, log_start: int) -> RunStatus:
    gpus = spec.resources.nodes * spec.resources.gpus_per_node
    if code < 0:
        close_attempt(run_dir, reason=KILLED, num_gpus=gpus, signal=-code)
    status = run_state(run_dir, queued=NOT_QUEUED)
    if (run_dir / DONE).exists() or (run_dir / FAILED).exists() or code < 0:
        return status
    if status.state == "running" and status.pid not in (None, pid):
        return status  # another process holds the run, and ours was turned away
    if code != RESUMABLE_CODE and not _stopped_by_signal(status):
        said = last_line(run_dir / "train.log", start=log_start) or "it said nothing"
        close_attempt(run_dir, reason=f"error: {said}", num_gpus=gpus)
        write_failed(run_dir, said if code else f"exit code 0 without DONE: {said}")
    return run_state(run_dir, queued=NOT_QUEUED)


def _stopped_by_signal(status: RunStatus) -> bool:
    """Return whether the attempt says so itself: torchrun turns its ranks' code 85 into 1."""
    return status.state == "preempted" and status.reason == "signal"
