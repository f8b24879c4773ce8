"""Acts on runs by hand: find, select, cancel, retry."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from jobs.executor import EXECUTORS
from jobs.queue import read_held
from jobs.status import StatusRow, run_state
from scaling.document import Document
from scaling.runs.attempts import clear_failed
from scaling.runs.folder import CANCELLED, Run, is_run_id
from scaling.runs.state import Hold, RunStatus, State
from scaling.spec import RunSpec

LABELS = ("study", "scale", "stage", "size")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled(Document):
    """What was done about a run.

    `action`: "stopped", "stopping", "removed from the queue", "nothing to cancel", "finished
    meanwhile", or why it cannot be reached.
    """

    run_id: str
    was: State
    action: str


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
    rows: Sequence[StatusRow], selector: str, specs: Iterable[RunSpec] = ()
) -> list[StatusRow]:
    """Return the rows that match `key=value,key=value|value`.

    A key is a column of the status, an axis of the study or, where `specs` are given, one of
    study, scale, stage, size. Raises ValueError for another key or a broken selector.
    """
    found, parts = list(rows), [part for part in selector.split(",") if part]
    by_id = {spec.run_id: spec for spec in specs} if parts else {}  # an id takes .3 ms
    for part in parts:
        key, equals, wanted = (word.strip() for word in part.partition("="))
        if not equals or not key or not wanted:
            raise ValueError(f"selector {part!r} is not of the form key=value, e.g. state=failed")
        known = selector_keys(rows, labelled=bool(by_id))
        if rows and key not in known:
            raise ValueError(f"selector key {key!r} is unknown; allowed: {', '.join(known)}")
        found = [row for row in found if _matches(row, by_id.get(row.run_id), key, wanted)]
    return found


def selector_keys(rows: Iterable[StatusRow], *, labelled: bool = True) -> list[str]:
    """Return what a selector may name of these rows."""
    axes = {name for row in rows for name in row.axes}
    columns = {item.name for item in fields(StatusRow)} - {"axes"}
    return sorted(axes | columns | (set(LABELS) if labelled else set()))


def cancel(
    specs: Iterable[RunSpec], runs_dir: str | Path, *, wait_s: float = 30.0
) -> list[Cancelled]:
    """Stop running runs (they save and leave) and take waiting ones out of the queue.

    Waits up to `wait_s` for the processes to end.
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
        Cancelled(
            run_id=status.run_id,
            was=status.state,
            action=actions.get(status.run_id, "nothing to cancel"),
        )
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


def _matches(row: StatusRow, spec: RunSpec | None, key: str, wanted: str) -> bool:
    words = wanted.split("|")
    if key == "run_id":
        return any(row.run_id.startswith(word) for word in words)
    value = row.axes.get(key, getattr(row, key, getattr(spec, key, None)))
    return any(_equal(value, word) for word in words)


def _equal(value: Any, word: str) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(word) == float(value)
        except ValueError:
            return False
    return str(value).lower() == word.lower()
