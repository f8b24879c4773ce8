"""Acts on runs by hand: find, select, cancel, retry, and print their logs."""

import contextlib
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from jobs.executor import EXECUTORS
from jobs.queue import read_held
from jobs.status import beat_words, run_state
from scaling.runs.attempts import clear_failed
from scaling.runs.folder import CANCELLED, Run, is_run_id
from scaling.runs.state import Hold, RunStatus
from scaling.spec import RunSpec

FOLLOW_EVERY_S = 0.5
PROGRESS_EVERY_S = 10.0
LABELS = ("study", "scale", "stage", "size")


def find_run(prefix: str, runs_dir: str | Path) -> Run:
    """Return the one run whose id starts with `prefix`.

    Raises ValueError when there is none, or more than one.
    """
    found = sorted(
        path
        for path in Path(runs_dir).glob("*")
        if path.name.startswith(prefix) and is_run_id(path.name) and path.is_dir()
    )
    if not prefix or not found:
        raise ValueError(
            f"no run {prefix!r} in {runs_dir}; `scaling status STUDY` lists the ids of a study"
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:5]) + (", ..." if len(found) > 5 else "")
        raise ValueError(f"run {prefix!r} is ambiguous in {runs_dir}: {names}; give more digits")
    return Run(found[0])


def select(
    statuses: Sequence[dict[str, Any]], selector: str, specs: Iterable[RunSpec] = ()
) -> list[dict[str, Any]]:
    """Return the rows of `study_status(...)["runs"]` that match `key=value,key=value|value`.

    A key is a column of the status, an axis of the study or, where `specs` are given, one of
    study, scale, stage, size. Raises ValueError for another key or a broken selector.
    """
    labels = {spec.run_id: {name: getattr(spec, name) for name in LABELS} for spec in specs}
    rows = list(statuses)
    for part in filter(None, selector.split(",")):
        key, equals, wanted = (word.strip() for word in part.partition("="))
        if not equals or not key or not wanted:
            raise ValueError(f"selector {part!r} is not of the form key=value, e.g. state=failed")
        seen = [labels.get(row["run_id"], {}) | row | row["axes"] for row in statuses]
        known = sorted({name for row in seen for name in row if name != "axes"})
        if seen and key not in known:
            raise ValueError(f"selector key {key!r} is unknown; allowed: {', '.join(known)}")
        rows = [
            row
            for row in rows
            if _matches(labels.get(row["run_id"], {}) | row | row["axes"], key, wanted)
        ]
    return rows


def cancel(
    specs: Iterable[RunSpec], runs_dir: str | Path, *, wait_s: float = 30.0
) -> list[dict[str, Any]]:
    """Stop running runs (they save and leave) and take waiting ones out of the queue.

    Waits up to `wait_s` for the processes to end. Returns one `{"run_id", "was", "action"}` for
    each run; action is "stopped", "stopping", "removed from the queue", "nothing to cancel",
    "finished meanwhile", or says why a run cannot be reached.
    """
    runs_dir = Path(runs_dir)
    held = read_held(runs_dir)
    runs = [Run.of(runs_dir, spec.run_id) for spec in specs]
    before = [run_state(run, held) for run in runs]
    # The queue first: an executor starts the next run as soon as one ends.
    for run, status in zip(runs, before, strict=True):
        if status.state == "queued":
            run.write_failed(CANCELLED)
    live = [status for status in before if status.state in ("queued", "running")]
    actions: dict[str, str] = {}
    for name in dict.fromkeys(_executor(status, held) for status in live):
        theirs = [status for status in live if _executor(status, held) == name]
        actions |= EXECUTORS[name]().cancel(theirs, runs_dir, wait_s=wait_s)
    return [
        {
            "run_id": status.run_id,
            "was": status.state,
            "action": actions.get(status.run_id, "nothing to cancel"),
        }
        for status in before
    ]


def _executor(status: RunStatus, held: Mapping[str, Hold]) -> str:
    """Return the name of the executor that has a run; a process that nobody has is a local one."""
    hold = held.get(status.run_id)
    return hold.executor if hold is not None and hold.is_live else "local"


def retry(specs: Iterable[RunSpec], runs_dir: str | Path) -> list[str]:
    """Make failed and cancelled runs unfinished again; return their ids. Submit resumes them.

    So are runs whose DONE is damaged.
    """
    held, cleared = read_held(runs_dir), []
    for spec in specs:
        run = Run.of(runs_dir, spec.run_id)
        state = run_state(run, held).state
        if state in ("failed", "cancelled") or (state == "unknown" and run.damage()):
            clear_failed(run)
            cleared.append(spec.run_id)
    return cleared


def logs(
    spec_or_id: RunSpec | str,
    runs_dir: str | Path,
    *,
    follow: bool = False,
    stream: TextIO | None = None,
) -> None:
    """Print a run's train.log; with `follow` go on until the run ends (or Ctrl-C).

    A run that trains well prints nothing, so `follow` says every 10 s how far it has come. Raises
    ValueError for an unknown run, or one that never started (without `follow`).
    """
    run_id = spec_or_id.run_id if isinstance(spec_or_id, RunSpec) else spec_or_id
    run = find_run(run_id, runs_dir)
    out, log = stream or sys.stdout, run.log_file
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


def _matches(row: dict[str, Any], key: str, wanted: str) -> bool:
    value = row.get(key)
    if key == "run_id":
        return any(str(value).startswith(word) for word in wanted.split("|"))
    return any(_equal(value, word) for word in wanted.split("|"))


def _equal(value: Any, word: str) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(word) == float(value)
        except ValueError:
            return False
    return str(value).lower() == word.lower()


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
