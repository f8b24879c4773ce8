"""Divides the runs of a submission into those to start and those done or in other hands."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from jobs.queue import Queued, read_queues
from jobs.status import run_state
from scaling.runs.folder import clear_failed, run_folder
from scaling.spec import RunSpec


@dataclass(slots=True, kw_only=True)
class Claim:
    """The runs to start, and how many were skipped for which reason."""

    todo: list[RunSpec] = field(default_factory=list)
    skipped_done: int = 0
    skipped_running: int = 0
    skipped_failed: int = 0

    def skipped(self) -> dict[str, int]:
        """Return the counts under their names in a summary."""
        return {
            "skipped_done": self.skipped_done,
            "skipped_running": self.skipped_running,
            "skipped_failed": self.skipped_failed,
        }


def claim(
    specs: Iterable[RunSpec],
    runs_dir: Path,
    *,
    retry_failed: bool,
    own_queue: Path | None = None,
    queued: Queued | None = None,
) -> Claim:
    """Choose the runs to start and clear their FAILED markers; hold `queue.claiming` meanwhile.

    `own_queue`: the queue file of the caller, whose runs are not in other hands. `queued`: what
    the caller has read already.
    """
    queued = queued or read_queues(runs_dir, but=own_queue)
    result = Claim()
    for spec in specs:
        run_dir = run_folder(runs_dir, spec.run_id)
        state = run_state(run_dir, queued=queued).state
        if state == "done":
            result.skipped_done += 1
        elif state in ("running", "queued"):
            result.skipped_running += 1
        elif state in ("failed", "cancelled") and not retry_failed:
            result.skipped_failed += 1
        else:
            if state in ("failed", "cancelled"):
                clear_failed(run_dir)
            result.todo.append(spec)
    return result


def would_claim(
    specs: Iterable[RunSpec], runs_dir: Path, *, retry_failed: bool, queued: Queued
) -> Claim:
    """Choose as `claim` does, and leave the FAILED markers."""
    ours = Claim()
    for spec in specs:
        one = claim([spec], runs_dir, retry_failed=False, queued=queued)
        again = retry_failed and one.skipped_failed
        ours.todo += [spec] if again else one.todo
        ours.skipped_done += one.skipped_done
        ours.skipped_running += one.skipped_running
        ours.skipped_failed += 0 if again else one.skipped_failed
    return ours
