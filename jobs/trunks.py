"""What a branch waits for: its trunk's checkpoint, or the reason why that will not come."""

import os
import sys
import time
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from jobs.queue import Queued, read_queues
from jobs.slurm.commands import SlurmError, sbatch
from jobs.slurm.queue import in_queue
from jobs.slurm.submissions import note_resubmitted
from jobs.slurm.task import FAILURE, GO, NOTHING, saved_step, say
from jobs.status import RunStatus, run_state
from scaling.config import write_atomic
from scaling.runs.folder import DONE, FAILED, last_attempt, run_folder, write_failed
from scaling.spec import RunSpec, load_spec
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


def outlook(spec: RunSpec, runs_dir: Path, *, queued: Queued, held: Container[str] = ()) -> Outlook:
    """Return whether a run can start, has to wait for its trunk, or waits in vain.

    `held`: ids of runs that the caller itself has under way or will start; `queued`: what is in
    other hands.
    """
    trunk = spec.init.trunk
    if not trunk or trunk_point(spec, runs_dir).exists():
        return Outlook(state="ready")
    passed = saved_step(run_folder(runs_dir, trunk)) > spec.init.trunk_step
    if trunk in held and not passed:
        return Outlook(state="waiting")
    status = run_state(run_folder(runs_dir, trunk), queued=queued)
    if is_ready(spec, runs_dir):  # asked last: the trunk may just have saved, or ended
        return Outlook(state="ready")
    if passed:
        return Outlook(state="lost", reason=_why_lost(spec, replace(status, state="done")))
    if status.state in ("running", "queued"):
        return Outlook(state="waiting", reason=status.job_id or "")
    if status.state in ("done", "failed", "cancelled"):
        return Outlook(state="lost", reason=_why_lost(spec, status))
    if status.state == "unknown" and _silent_s(run_folder(runs_dir, trunk)) < SILENT_S:
        return Outlook(state="waiting")  # its host or file server may only be busy
    said = f" ({status.reason})" if status.reason else ""
    return Outlook(state="left", reason=f"trunk {trunk} is {status.state}{said}; submit both again")


def _silent_s(run_dir: Path) -> float:
    """Return the seconds since a run last wrote; 0 for one of which only Slurm could tell."""
    written = [run_dir / "heartbeat.json", last_attempt(run_dir)[1]]
    times = [path.stat().st_mtime for path in written if path is not None and path.exists()]
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


def dependency(
    specs: Iterable[RunSpec],
    runs_dir: Path,
    *,
    within: Container[str],
    arrays: Iterable[str] = (),
) -> str:
    """Return Slurm's dependency of an array on trunks that still train, "" for none.

    `arrays`: jobs of the same submission that hold the trunks `within` it. All have to end, well
    or badly: a job never waits for what cannot come, and `main` looks once more when it starts.
    Raises ValueError for a trunk that nobody advances.
    """
    jobs = dict.fromkeys(arrays)
    others = [spec for spec in specs if spec.init.trunk and spec.init.trunk not in within]
    queued = read_queues(runs_dir) if others else Queued()
    for spec in others:
        found = outlook(spec, runs_dir, queued=queued)
        if found.state in ("lost", "left"):
            raise ValueError(f"run {spec.run_id} cannot start: {found.reason}")
        if found.state == "waiting" and in_queue(queued.jobs.get(spec.init.trunk)):
            jobs[queued.jobs[spec.init.trunk].id] = None
    return f"afterany:{':'.join(jobs)}" if jobs else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Answer a batch script: `RUN_DIR SUBMISSION ARRAY` -> 0 to start, 3 for nothing to do.

    A trunk that goes on, or may, is waited for anew; after one that has ended without the
    checkpoint, the branch gets a FAILED marker that says so. Behind one that nobody advances it
    is left as it is, for a later submission.
    """
    words = sys.argv[1:] if argv is None else argv
    run_dir, submission = Path(words[0]), Path(words[1])
    script = submission / f"array-{words[2]}.sbatch"
    if (run_dir / DONE).exists() or (run_dir / FAILED).exists():
        return GO  # what follows knows what to do
    spec, runs_dir = load_spec(run_dir / "run.yaml"), run_dir.parent
    try:
        queued = read_queues(runs_dir, fresh=True)
    except SlurmError:
        queued = read_queues(runs_dir)
    found = outlook(spec, runs_dir, queued=queued)
    if found.state == "ready":
        _forget_dependency(script)
        return GO
    if found.state == "waiting":
        return _wait_again(spec, queued, script)
    if found.state == "lost":
        write_failed(run_dir, found.reason)
    say(found.reason)
    return NOTHING


def _wait_again(spec: RunSpec, queued: Queued, script: Path) -> int:
    """Submit this one task anew behind the job that has the trunk now."""
    index, job = os.environ["SLURM_ARRAY_TASK_ID"], queued.jobs.get(spec.init.trunk)
    behind = f"--dependency=afterany:{job.id}" if job and in_queue(job) else "--begin=now+300"
    try:
        job_id = sbatch(str(script), f"--array={index}", behind)
    except SlurmError as error:
        say(f"trunk {spec.init.trunk} is not so far, and {error}; submit again later")
        return FAILURE
    note_resubmitted(script.parent, run_id=spec.run_id, task=f"{job_id}_{index}")
    say(f"trunk {spec.init.trunk} is not so far; resubmitted as {job_id}_{index}, {behind}")
    return NOTHING


def _forget_dependency(script: Path) -> None:
    """Leave out what has been waited for, should a task be submitted anew: that job is gone."""
    lines = script.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("#SBATCH --dependency=")]
    if kept != lines:
        write_atomic(script, "".join(kept))


if __name__ == "__main__":
    sys.exit(main())
