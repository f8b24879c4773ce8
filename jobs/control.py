"""Acts on runs by hand: find, select, cancel, retry, and print their logs."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from jobs.local.progress import beat_words
from jobs.queue import Queued, read_queues
from jobs.slurm.commands import SlurmError, scancel
from jobs.slurm.queue import in_queue
from jobs.status import RunStatus, run_state
from scaling.runs.folder import (
    CANCELLED,
    DONE,
    FAILED,
    clear_failed,
    process_alive,
    read_json,
    run_folder,
    this_host,
    write_failed,
)
from scaling.spec import RunSpec

FOLLOW_EVERY_S = 0.5
PROGRESS_EVERY_S = 10.0
LABELS = ("study", "scale", "stage", "size")


def find_run(prefix: str, runs_dir: str | Path) -> Path:
    """Return the folder of the one run whose id starts with `prefix`.

    Raises ValueError when there is none, or more than one.
    """
    found = sorted(
        path
        for path in Path(runs_dir).glob("*")
        if path.name.startswith(prefix) and _is_run_id(path.name) and path.is_dir()
    )
    if not prefix or not found:
        raise ValueError(
            f"no run {prefix!r} in {runs_dir}; `scaling status STUDY` lists the ids of a study"
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:5]) + (", ..." if len(found) > 5 else "")
        raise ValueError(f"run {prefix!r} is ambiguous in {runs_dir}: {names}; give more digits")
    return found[0]


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
    queued = read_queues(runs_dir)
    folders = [run_folder(runs_dir, spec.run_id) for spec in specs]
    # The queue first: an executor starts the next run as soon as one ends.
    before = [run_state(folder, queued=queued) for folder in folders]
    for folder, status in zip(folders, before, strict=True):
        if status.state == "queued":
            write_failed(folder, CANCELLED)
    in_slurm = _cancel_in_slurm(before, runs_dir, queued)
    results = [
        in_slurm.get(folder.name) or _cancel_one(folder, status)
        for folder, status in zip(folders, before, strict=True)
    ]
    deadline = time.monotonic() + wait_s
    for folder, result in zip(folders, results, strict=True):
        pid = result.pop("pid", None)
        if pid:
            result["action"] = _await_end(folder, pid, deadline)
    return results


def retry(specs: Iterable[RunSpec], runs_dir: str | Path) -> list[str]:
    """Make failed and cancelled runs unfinished again; return their ids. Submit resumes them."""
    cleared = []
    for spec in specs:
        run_dir = run_folder(runs_dir, spec.run_id)
        if run_state(run_dir).state in ("failed", "cancelled"):
            clear_failed(run_dir)
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
    run_dir = find_run(run_id, runs_dir)
    out = stream or sys.stdout
    log = run_dir / "train.log"
    if not log.exists() and not follow:
        state = run_state(run_dir).state
        hint = "wait for its turn" if state == "queued" else "submit it first"
        raise ValueError(f"run {run_dir.name} has no log, it is {state}; {hint}")
    with contextlib.suppress(KeyboardInterrupt):
        position, told, due = _print_from(log, 0, out), None, time.monotonic() + PROGRESS_EVERY_S
        while follow and run_state(run_dir).state in ("queued", "running"):
            time.sleep(FOLLOW_EVERY_S)
            position = _print_from(log, position, out)
            if time.monotonic() > due:
                told, due = _say_progress(run_dir, told, out), time.monotonic() + PROGRESS_EVERY_S
        _print_from(log, position, out)


def _cancel_in_slurm(
    before: Iterable[RunStatus], runs_dir: Path, queued: Queued
) -> dict[str, dict[str, Any]]:
    """Cancel what Slurm holds with one scancel; return the results by run id."""
    held = {
        status.run_id: status
        for status in before
        if status.state in ("queued", "running") and in_queue(queued.jobs.get(status.run_id))
    }
    for run_id, status in held.items():
        if status.state == "running":  # before the signal, as below
            write_failed(run_folder(runs_dir, run_id), CANCELLED)
    actions = {"queued": "removed from the queue", "running": "stopping"}
    try:
        if held:
            scancel([queued.jobs[run_id].id for run_id in held])
    except SlurmError as error:  # a task that starts nevertheless finds its marker
        actions = dict.fromkeys(actions, f"marked cancelled, but {error}")
    return {
        run_id: {"run_id": run_id, "was": status.state, "action": actions[status.state]}
        for run_id, status in held.items()
    }


def _cancel_one(run_dir: Path, before: RunStatus) -> dict[str, Any]:
    result = {"run_id": run_dir.name, "was": before.state}
    pid = before.pid
    if before.state == "queued":
        pid = read_queues(run_dir.parent).active.get(run_dir.name)
        if pid is None:  # else it started in this very moment
            return result | {"action": "removed from the queue"}
    elif before.state != "running":
        return result | {"action": "nothing to cancel"}
    elif before.host != this_host() or not pid:
        return result | {"action": f"not reachable: cancel it on host {before.host}"}
    # Mark first, then signal: an executor that sees the end must find the reason already.
    write_failed(run_dir, CANCELLED)
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return result | {"action": "stopped"}
    except PermissionError:
        (run_dir / FAILED).unlink(missing_ok=True)
        return result | {"action": f"not allowed: process {pid} is another user's"}
    return result | {"action": "stopping", "pid": pid}


def _await_end(run_dir: Path, pid: int, deadline: float) -> str:
    """Wait for a signalled process, then make sure that the marker says how it ended."""
    while process_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    if (run_dir / DONE).exists():
        (run_dir / FAILED).unlink(missing_ok=True)
        return "finished meanwhile"
    if not (run_dir / FAILED).exists():  # a run that was just starting clears old markers
        write_failed(run_dir, CANCELLED)
    return "stopping" if process_alive(pid) else "stopped"


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


def _say_progress(run_dir: Path, told: str | None, out: TextIO) -> str | None:
    """Print what the heartbeat says unless it was told before; return it."""
    beat = read_json(run_dir / "heartbeat.json")
    if not beat or not beat.get("num_steps"):
        return told
    said = beat_words(beat)
    if said != told:
        out.write(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] step {said}\n")
        out.flush()
    return said


def _is_run_id(name: str) -> bool:
    return len(name) == 12 and set(name) <= set("0123456789abcdef")
