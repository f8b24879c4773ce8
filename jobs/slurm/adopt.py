"""Finds the jobs of a submission whose process was killed before it could write their ids.

sbatch goes on when its caller is killed, so a job may be in the queue that no record knows, and a
later submission would start its runs a second time. The path of its script tells whose it is.
"""

from pathlib import Path

from jobs.queue import claiming
from jobs.slurm.commands import jobs_by_script
from jobs.slurm.submissions import CLOSED, RECORD, resubmitted, slurm_folder, write_record
from scaling.runs.files import read_json_or_none


def adopt(runs_dir: str | Path) -> list[str]:
    """Write the ids of such jobs into their submissions and return them.

    Jobs that have left the queue are not looked for: what they did stands in the run folders.
    Raises SlurmError where squeue does not answer and a submission is without an id.
    """
    runs_dir = Path(runs_dir).absolute()
    found = []
    with claiming(runs_dir):  # a submission that is being made is no orphan
        half = [path for path in slurm_folder(runs_dir).glob(f"*/{RECORD}") if _is_half(path)]
        jobs = jobs_by_script() if half else {}
        for path in half:
            record = read_json_or_none(path) or {}
            for index, array in enumerate(record["arrays"]):
                if not array["job_id"] and (job_id := _array_id(path.parent, index, jobs)):
                    array["job_id"] = job_id
                    found.append(job_id)
            (path.parent / CLOSED).unlink(missing_ok=True)
            write_record(path.parent, record)
    return found


def _is_half(path: Path) -> bool:
    record = read_json_or_none(path) or {}
    return any(not array.get("job_id") for array in record.get("arrays", []))


def _array_id(folder: Path, index: int, jobs: dict[Path, set[str]]) -> str | None:
    """Return the id of an array by its script; tasks sent anew from it have later ids."""
    others = {task.partition("_")[0] for _, task in resubmitted(folder)}
    ids = jobs.get((folder / f"array-{index}.sbatch").resolve(), set()) - others
    return min(ids, key=int, default=None)
