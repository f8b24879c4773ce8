"""What a branch waits for: its trunk's checkpoint, or the reason why that will not come."""

import runpy
import time
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from jobs.status import run_state
from scaling.runs.attempts import attempt_files
from scaling.runs.folder import Run
from scaling.runs.state import Hold, RunStatus
from scaling.spec import RunSpec
from scaling.study import is_ready, trunk_point

# Nothing heard from another host for so long: nobody advances the run there.
SILENT_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """`lost`: the trunk has ended without the checkpoint; `left`: nobody advances the trunk now.

    Only `lost` is for good; a branch that was left starts with the next submission.
    """

    state: Literal["ready", "waiting", "lost", "left"]
    reason: str = ""


def outlook(
    spec: RunSpec, runs_dir: Path, *, held: Mapping[str, Hold], ours: Container[str] = ()
) -> Outlook:
    """Return whether a run can start, has to wait for its trunk, or waits in vain.

    `ours`: ids of runs that the caller itself has under way or will start; `held`: what is in
    other hands.
    """
    trunk = spec.init.trunk
    if not trunk or trunk_point(spec, runs_dir).exists():
        return Outlook(state="ready")
    run = Run.of(runs_dir, trunk)
    passed = run.saved_step() > spec.init.trunk_step
    if trunk in ours and not passed:
        return Outlook(state="waiting")
    status = run_state(run, held)
    if is_ready(spec, runs_dir):  # asked last: the trunk may just have saved, or ended
        return Outlook(state="ready")
    if passed:
        return Outlook(state="lost", reason=_why_lost(spec, replace(status, state="done")))
    if status.state in ("running", "queued"):
        return Outlook(state="waiting", reason=status.job_id or "")
    if status.state in ("done", "failed", "cancelled"):
        return Outlook(state="lost", reason=_why_lost(spec, status))
    if status.state == "unknown" and not run.damage() and _silent_s(run) < SILENT_S:
        return Outlook(state="waiting")  # its host or file server may only be busy
    said = f" ({status.reason})" if status.reason else ""
    return Outlook(state="left", reason=f"trunk {trunk} is {status.state}{said}; submit both again")


def _silent_s(run: Run) -> float:
    """Return the seconds since a run last wrote; 0 for one of which only Slurm could tell."""
    written = [run.heartbeat_file, *attempt_files(run)[-1:]]
    times = [path.stat().st_mtime for path in written if path.exists()]
    return time.time() - max(times) if times else 0.0


def _why_lost(spec: RunSpec, status: RunStatus) -> str:
    trunk, step = spec.init.trunk, spec.init.trunk_step
    if status.state == "done":
        return (
            f"trunk {trunk} is past step {step} and did not keep it; delete its folder to train it "
            "again"
        )
    if status.state == "cancelled":
        return f"trunk {trunk} was cancelled before step {step}; submit both again"
    return f"trunk {trunk} failed before step {step}: {status.reason}; submit to retry both"


if __name__ == "__main__":  # batch scripts ask here, those in a queue as well as new ones
    runpy.run_module("jobs.slurm.trunks", run_name="__main__", alter_sys=True)
