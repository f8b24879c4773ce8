"""The record of what was handed to Slurm: one folder a submission under runs/_slurm."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jobs.executor import ChainedJob
from scaling.document import Document
from scaling.runs.files import json_lines, known, read_json_or_none, write_json
from scaling.runs.folder import Run

# Written anew after each sbatch: an array without a job id is one that was not seen to go out.
RECORD = "submission.json"
# A line for each task that goes on under another job than its array's.
EXTRA = "resubmitted.jsonl"
# Every run has a marker and no job is left: the folder is not read again.
CLOSED = "closed"


@dataclass(slots=True, kw_only=True)
class ArrayJob(Document):
    """An array of runs; without a job id it was not seen to go out."""

    job_id: str | None = None
    name: str = ""
    runs: list[str] = field(default_factory=list)
    nodes: int = 1
    gpus_per_node: int = 0
    limit: int = 0


@dataclass(slots=True, kw_only=True)
class Submission(Document):
    """One call of submit, as its record has it: it grows by a job id with each sbatch.

    `waits_for`: the runs before the chain, those handed over earlier as well.
    """

    study: str = ""
    cluster: str = ""
    time: float = 0.0
    folder: str = ""
    waits_for: list[str] = field(default_factory=list)
    arrays: list[ArrayJob] = field(default_factory=list)
    chain: list[ChainedJob] = field(default_factory=list)

    @property
    def path(self) -> Path:
        """Its folder."""
        return Path(self.folder)

    @property
    def job_ids(self) -> list[str]:
        """What Slurm has of it, as far as it is known."""
        arrays = [array.job_id for array in self.arrays if array.job_id]
        return arrays + [link.job_id for link in self.chain]

    @property
    def is_half_known(self) -> bool:
        """Whether an array was not seen to go out."""
        return any(not array.job_id for array in self.arrays)

    def tasks(self) -> dict[str, str]:
        """Return run id -> "ARRAY_TASK", the newest where there are several."""
        found = {
            run_id: f"{array.job_id}_{task}"
            for array in self.arrays
            for task, run_id in enumerate(array.runs)
            if array.job_id
        }
        return found | dict(resubmitted(self.path))

    def before_chain(self) -> list[str]:
        """Return the runs that have to be done before the chain goes on."""
        return self.waits_for or list(self.tasks())

    def write(self) -> None:
        """Write submission.json."""
        write_json(self.path / RECORD, self.to_dict())


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


def note_resubmitted(folder: Path, *, run_id: str, task: str) -> None:
    """Append that a run goes on under another job (a cancelled preemption, a time limit)."""
    line = json.dumps({"run_id": run_id, "task": task, "time": time.time()})
    with open(folder / EXTRA, "a") as stream:
        stream.write(line + "\n")


def resubmitted(folder: Path) -> list[tuple[str, str]]:
    """Return (run id, task) of the tasks that went on under other jobs, oldest first."""
    try:
        content = (folder / EXTRA).read_bytes()
    except OSError:
        return []
    return [(line["run_id"], line["task"]) for line in json_lines(content) if line]


def read_submission(folder: Path) -> Submission | None:
    """Return a submission, or None where its record is absent or broken."""
    record = read_json_or_none(folder / RECORD)
    if record is None:
        return None
    found = known(Submission, record)
    found.folder = str(folder)  # the folder of runs may have moved
    found.arrays = [known(ArrayJob, item) for item in record.get("arrays", [])]
    found.chain = [known(ChainedJob, item) for item in record.get("chain", [])]
    return found


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

    Not those with an array that has no job id: it is going out, or an orphan (orphans.py).
    """
    alive = set(live)
    for submission in submissions:
        if (
            not submission.is_half_known
            and alive.isdisjoint((tasks := submission.tasks()).values())
            and all(Run.of(runs_dir, run_id).has_marker() for run_id in tasks)
        ):
            (submission.path / CLOSED).touch()


def write_manifests(folder: Path, chunks: Sequence[Sequence[str]]) -> None:
    """Write array-N.txt: the run of each task, one a line."""
    for index, run_ids in enumerate(chunks):
        (folder / f"array-{index}.txt").write_text("".join(f"{run_id}\n" for run_id in run_ids))
