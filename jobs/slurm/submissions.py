"""The record of what was handed to Slurm: one folder a submission under runs/_slurm."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaling.runs.files import read_json_or_none, write_json
from scaling.runs.folder import Run

# Written anew after each sbatch: an array without a job id is one that was not seen to go out.
RECORD = "submission.json"
# A line for each task that goes on under another job than its array's.
EXTRA = "resubmitted.jsonl"
# Every run has a marker and no job is left: the folder is not read again.
CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One call of submit.

    `tasks`: run id -> "ARRAY_TASK", the newest where there are several. `waits_for`: the runs that
    have to be done before the chain goes on, those handed over earlier as well.
    """

    folder: Path
    study: str
    cluster: str
    time: float
    arrays: list[dict[str, Any]] = field(default_factory=list)
    chain: list[dict[str, Any]] = field(default_factory=list)
    tasks: dict[str, str] = field(default_factory=dict)
    waits_for: list[str] = field(default_factory=list)


def slurm_folder(runs_dir: str | Path) -> Path:
    """Return the folder of submissions and of the cached queue."""
    return Path(runs_dir) / "_slurm"


def new_folder(runs_dir: Path, study: str) -> Path:
    """Make and return the folder of a new submission, named by study and time."""
    stem = f"{study.rpartition('.')[2] or 'runs'}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in range(1, 1000):
        folder = slurm_folder(runs_dir) / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise RuntimeError(f"no free name for a submission like {stem} in {slurm_folder(runs_dir)}")


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write submission.json."""
    write_json(folder / RECORD, record)


def note_resubmitted(folder: Path, *, run_id: str, task: str) -> None:
    """Append that a run goes on under another job (a cancelled preemption, a time limit)."""
    line = json.dumps({"run_id": run_id, "task": task, "time": time.time()})
    with open(folder / EXTRA, "a") as stream:
        stream.write(line + "\n")


def resubmitted(folder: Path) -> list[tuple[str, str]]:
    """Return (run id, task) of the tasks that went on under other jobs, oldest first."""
    return [(line["run_id"], line["task"]) for line in _lines(folder / EXTRA)]


def read_submission(folder: Path) -> Submission | None:
    """Return a submission, or None where its record is absent or broken."""
    record = read_json_or_none(folder / RECORD)
    if record is None:
        return None
    tasks = {
        run_id: f"{array['job_id']}_{task}"
        for array in record.get("arrays", [])
        for task, run_id in enumerate(array["runs"])
        if array.get("job_id")
    }
    tasks |= dict(resubmitted(folder))
    return Submission(
        folder=folder,
        study=record.get("study", ""),
        cluster=record.get("cluster", ""),
        time=float(record.get("time") or 0),
        arrays=record.get("arrays", []),
        chain=record.get("chain", []),
        tasks=tasks,
        waits_for=record.get("waits_for") or list(tasks),
    )


def open_submissions(runs_dir: str | Path) -> list[Submission]:
    """Return the submissions with runs that have no marker yet, oldest first."""
    found = []
    for path in sorted(slurm_folder(runs_dir).glob(f"*/{RECORD}")):
        if (path.parent / CLOSED).exists():
            continue
        submission = read_submission(path.parent)
        if submission is not None:
            found.append(submission)
    return sorted(found, key=lambda submission: submission.time)


def close_finished(submissions: Iterable[Submission], runs_dir: Path, live: Iterable[str]) -> None:
    """Mark submissions whose runs all have a marker, so that they are not read again.

    Not those with an array that has no job id: it is going out, or to be adopted.
    """
    alive = set(live)
    for submission in submissions:
        if (
            all(array.get("job_id") for array in submission.arrays)
            and alive.isdisjoint(submission.tasks.values())
            and all(Run.of(runs_dir, run_id).has_marker() for run_id in submission.tasks)
        ):
            (submission.folder / CLOSED).touch()


def write_manifests(folder: Path, chunks: Sequence[Sequence[str]]) -> None:
    """Write array-N.txt: the run of each task, one a line."""
    for index, run_ids in enumerate(chunks):
        (folder / f"array-{index}.txt").write_text("".join(f"{run_id}\n" for run_id in run_ids))


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text()
    except OSError:
        return []
    return [
        json.loads(line) for line in text.splitlines() if line.startswith("{") and line[-1] == "}"
    ]
