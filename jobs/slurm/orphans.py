"""Finds the jobs of a submission whose process was killed before it could write their ids.

sbatch goes on when its caller is killed, so a job may be in the queue that no record knows, and a
later submission would start its runs a second time. The path of its script tells whose it is.
"""

from pathlib import Path

from jobs.queue import submission_lock
from jobs.slurm.commands import jobs_by_script
from jobs.slurm.submissions import CLOSED, RECORD, read_submission, resubmitted, slurm_folder


def recover_ids(runs_dir: str | Path) -> list[str]:
    """Write the ids of such jobs into their submissions and return them.

    Jobs that have left the queue are not looked for: what they did stands in the run folders.
    Raises SlurmError where squeue does not answer and a submission is without an id.
    """
    runs_dir = Path(runs_dir).absolute()
    found = []
    with submission_lock(runs_dir):  # a submission that is being made is no orphan
        every = [read_submission(p.parent) for p in slurm_folder(runs_dir).glob(f"*/{RECORD}")]
        half = [submission for submission in every if submission and submission.is_half_known]
        jobs = jobs_by_script() if half else {}
        for submission in half:
            for index, array in enumerate(submission.arrays):
                if not array.job_id and (job_id := _array_id(submission.path, index, jobs)):
                    array.job_id = job_id
                    found.append(job_id)
            (submission.path / CLOSED).unlink(missing_ok=True)
            submission.write()
    return found


def _array_id(folder: Path, index: int, jobs: dict[Path, set[str]]) -> str | None:
    """Return the id of an array by its script; tasks sent anew from it have later ids."""
    others = {task.partition("_")[0] for _, task in resubmitted(folder)}
    ids = jobs.get((folder / f"array-{index}.sbatch").resolve(), set()) - others
    return min(ids, key=int, default=None)
