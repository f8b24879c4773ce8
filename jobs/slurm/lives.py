"""The lives of a run in Slurm: one line for each time that a batch script began it."""

import json
from typing import Any

from scaling.runs.files import json_lines
from scaling.runs.folder import Run


def read_lives(run: Run) -> list[dict[str, Any]]:
    """Return the lives of a run's Slurm jobs, oldest first."""
    try:
        content = run.lives_file.read_bytes()
    except OSError:
        return []
    return [line for line in json_lines(content) if line]


def note_life(run: Run, life: dict[str, Any]) -> None:
    """Append a life."""
    with open(run.lives_file, "a") as stream:
        stream.write(json.dumps(life) + "\n")
