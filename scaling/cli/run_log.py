"""Prints the log of a run, and how far it is while it is followed."""

import contextlib
import time
from pathlib import Path
from typing import TextIO

from jobs.status import run_state
from scaling.cli.status_table import beat_words
from scaling.runs.folder import Run

FOLLOW_EVERY_S = 0.5
PROGRESS_EVERY_S = 10.0


def print_log(run: Run, out: TextIO, *, follow: bool = False) -> None:
    """Print a run's train.log; with `follow` go on until the run ends (or Ctrl-C).

    A run that trains well prints nothing, so `follow` says every 10 s how far it has come. Raises
    ValueError for a run that never started (without `follow`).
    """
    log = run.log_file
    if not log.exists() and not follow:
        state = run_state(run).state
        hint = "wait for its turn" if state == "queued" else "submit it first"
        raise ValueError(f"run {run.run_id} has no log, it is {state}; {hint}")
    with contextlib.suppress(KeyboardInterrupt):
        position, told, due = _print_from(log, 0, out), None, time.monotonic() + PROGRESS_EVERY_S
        while follow and run_state(run).state in ("queued", "running"):
            time.sleep(FOLLOW_EVERY_S)
            position = _print_from(log, position, out)
            if time.monotonic() > due:
                told, due = _say_progress(run, told, out), time.monotonic() + PROGRESS_EVERY_S
        _print_from(log, position, out)


def _print_from(log: Path, position: int, out: TextIO) -> int:
    try:
        with open(log, "rb") as stream:
            stream.seek(position)
            data = stream.read()
    except FileNotFoundError:
        return position
    out.write(data.decode(errors="replace"))
    out.flush()
    return position + len(data)


def _say_progress(run: Run, told: str | None, out: TextIO) -> str | None:
    """Print what the heartbeat says unless it was told before; return it."""
    beat = run.heartbeat()
    if not beat.num_steps:
        return told
    said = beat_words(beat)
    if said != told:
        out.write(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] step {said}\n")
        out.flush()
    return said
