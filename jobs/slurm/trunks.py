"""Branches in Slurm: what an array depends on, and the look at its trunk when a task begins."""

import contextlib
import os
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path

from jobs.queue import read_held
from jobs.slurm.commands import SlurmError, sbatch
from jobs.slurm.queue import job_of, read_slurm
from jobs.slurm.submissions import note_resubmitted
from jobs.slurm.task import FAILURE, GO, NOTHING, say
from jobs.trunks import outlook
from scaling.config import write_atomic
from scaling.runs.folder import Run
from scaling.runs.state import Hold
from scaling.spec import RunSpec


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
    held = read_held(runs_dir) if others else {}
    for spec in others:
        found = outlook(spec, runs_dir, held=held)
        if found.state in ("lost", "left"):
            raise ValueError(f"run {spec.run_id} cannot start: {found.reason}")
        job_id = job_of(held.get(spec.init.trunk))
        if found.state == "waiting" and job_id:
            jobs[job_id] = None
    return f"afterany:{':'.join(jobs)}" if jobs else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Answer a batch script: `RUN_DIR SUBMISSION ARRAY` -> 0 to start, 3 for nothing to do.

    A trunk that goes on, or may, is waited for anew; after one that has ended without the
    checkpoint, the branch gets a FAILED marker that says so. Behind one that nobody advances it
    is left as it is, for a later submission.
    """
    words = sys.argv[1:] if argv is None else argv
    run, submission = Run(Path(words[0])), Path(words[1])
    script = submission / f"array-{words[2]}.sbatch"
    if run.has_marker():
        return GO  # what follows knows what to do
    spec, runs_dir = run.spec(), run.folder.parent
    with contextlib.suppress(SlurmError):  # an older answer has to do
        read_slurm(runs_dir, fresh=True)
    held = read_held(runs_dir)
    found = outlook(spec, runs_dir, held=held)
    if found.state == "ready":
        _forget_dependency(script)
        return GO
    if found.state == "waiting":
        return _wait_again(spec, held, script)
    if found.state == "lost":
        run.write_failed(found.reason)
    say(found.reason)
    return NOTHING


def _wait_again(spec: RunSpec, held: Mapping[str, Hold], script: Path) -> int:
    """Submit this one task anew behind the job that has the trunk now."""
    index, before = os.environ["SLURM_ARRAY_TASK_ID"], job_of(held.get(spec.init.trunk))
    behind = f"--dependency=afterany:{before}" if before else "--begin=now+300"
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
