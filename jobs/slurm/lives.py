"""The lives of a run in Slurm: one line for each time that a batch script began it."""

import json
from dataclasses import dataclass

from scaling.document import Document
from scaling.runs.files import json_lines, known
from scaling.runs.folder import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Life(Document):
    """When a job began to work on a run, and from where.

    `step`: of the checkpoint that it found; `log_start`, `out_start`: bytes in train.log and in the
    job's own output before it.
    """

    job_id: str = ""
    submission: str = ""
    restart: int = 0
    time: float = 0.0
    step: int = 0
    log_start: int = 0
    out_start: int = 0


def read_lives(run: Run) -> list[Life]:
    """Return the lives of a run's Slurm jobs, oldest first."""
    try:
        content = run.lives_file.read_bytes()
    except OSError:
        return []
    return [known(Life, line) for line in json_lines(content) if line]


def note_life(run: Run, life: Life) -> None:
    """Append a life."""
    with open(run.lives_file, "a") as stream:
        stream.write(json.dumps(life.to_dict()) + "\n")
