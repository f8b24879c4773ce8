"""What a branch waits for: its trunk's checkpoint, or the reason why that will not come."""

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jobs.folder import run_folder
from jobs.queue import Queued
from jobs.status import RunStatus, run_state
from scaling.spec import RunSpec
from scaling.study import is_ready, trunk_point


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """`lost`: the trunk has ended without the checkpoint; `left`: nobody advances the trunk."""

    state: Literal["ready", "waiting", "lost", "left"]
    reason: str = ""


def outlook(spec: RunSpec, runs_dir: Path, *, queued: Queued, held: Container[str] = ()) -> Outlook:
    """Return whether a run can start, has to wait for its trunk, or waits in vain.

    `held`: ids of runs that the caller itself has under way or will start; `queued`: what is in
    other hands.
    """
    trunk = spec.init.trunk
    if not trunk or trunk_point(spec, runs_dir).exists():
        return Outlook(state="ready")
    if trunk in held:
        return Outlook(state="waiting")
    status = run_state(run_folder(runs_dir, trunk), queued=queued)
    if is_ready(spec, runs_dir):  # asked after the state: the trunk may just have ended
        return Outlook(state="ready")
    if status.state in ("running", "queued"):
        return Outlook(state="waiting", reason=status.job_id or "")
    if status.state in ("done", "failed", "cancelled"):
        return Outlook(state="lost", reason=_why_lost(spec, status))
    said = f" ({status.reason})" if status.reason else ""
    return Outlook(state="left", reason=f"trunk {trunk} is {status.state}{said}; submit both again")


def _why_lost(spec: RunSpec, status: RunStatus) -> str:
    trunk, step = spec.init.trunk, spec.init.trunk_step
    if status.state == "done":
        return (
            f"trunk {trunk} is done but did not keep step {step}; delete its folder to train it "
            "again"
        )
    if status.state == "cancelled":
        return f"trunk {trunk} was cancelled before step {step}; submit both again"
    return f"trunk {trunk} failed before step {step}: {status.reason}; submit to retry both"
