"""Finds the jobs of a submission whose process was killed before it could write their ids.

sbatch goes on when its caller is killed, so a job may be in the queue that no record knows, and a
later submission would start its runs a second time. The path of its script tells whose it is.
"""

import os
from pathlib import Path

from jobs.folder import read_json
from jobs.queue import claiming
from jobs.slurm.commands import run
from jobs.slurm.submissions import CLOSED, RECORD, slurm_folder, write_record


def adopt(runs_dir: str | Path) -> list[str]:
    """Write the ids of such jobs into their submissions and return them.

    Jobs that have left the queue are not looked for: what they did stands in the run folders.
    Raises SlurmError where squeue does not answer and a submission is without an id.
    """
    runs_dir = Path(runs_dir).absolute()
    found = []
    with claiming(runs_dir):  # a submission that is being made is no orphan
        half = [path for path in slurm_folder(runs_dir).glob(f"*/{RECORD}") if _is_half(path)]
        jobs = _jobs_by_script() if half else {}
        for path in half:
            record = read_json(path) or {}
            for index, array in enumerate(record["arrays"]):
                script = (path.parent / f"array-{index}.sbatch").resolve()
                if not array["job_id"] and script in jobs:
                    array["job_id"] = jobs[script]
                    found.append(jobs[script])
            (path.parent / CLOSED).unlink(missing_ok=True)
            write_record(path.parent, record)
    return found


def _is_half(path: Path) -> bool:
    record = read_json(path) or {}
    return any(not array.get("job_id") for array in record.get("arrays", []))


def _jobs_by_script() -> dict[Path, str]:
    """Return batch script -> array id of our jobs in the queue."""
    output = run(["squeue", "-h", "-r", "-u", str(os.getuid()), "-o", "%F|%o"])
    rows = [line.strip().split("|", 1) for line in output.splitlines() if "|" in line]
    return {Path(script).resolve(): job_id for job_id, script in rows}
