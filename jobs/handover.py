"""Runs change hands: prepared as folders, claimed by an executor, settled when a process ends."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TypedDict

from jobs.queue import read_held
from jobs.status import run_state
from scaling.config import write_atomic
from scaling.runs.attempts import clear_failed, close_attempt
from scaling.runs.files import DamagedFileError
from scaling.runs.folder import KILLED, Run
from scaling.runs.logs import last_line
from scaling.runs.state import Hold, RunStatus
from scaling.spec import SCIENTIFIC_DATA_FIELDS, RunSpec

# A file that is safely on disk waits for the disk; several wait together.
WRITERS = 16
RESUMABLE_CODE = 85
NOT_HELD: Mapping[str, Hold] = {}  # the executor's own queue file still lists the run


def prepare(specs: Iterable[RunSpec], runs_dir: str | Path) -> None:
    """Write runs/<id>/run.yaml for each spec; asking twice changes nothing.

    An existing run.yaml keeps its labels and science; engine and resources are taken from the spec
    unless the run is done or running. A damaged one is written again: the folder's name says whose
    it is. Raises ValueError when run.yaml does not belong to its folder (somebody edited the
    science of an existing run).
    """
    runs = {Run.of(runs_dir, spec.run_id): spec for spec in specs}
    with ThreadPoolExecutor(WRITERS) as pool:
        for _ in pool.map(_prepare_one, runs.values(), runs):
            pass  # raises what went wrong


def _prepare_one(spec: RunSpec, run: Run) -> None:
    path = run.spec_file
    if not path.exists() or _is_damaged(run):
        spec.save(path)
        return
    if run.done_file.exists():
        return
    text = path.read_text()
    if text == spec.to_yaml() or run_state(run).state == "running":
        return
    old = run.spec()
    if old.run_id != run.run_id:
        raise ValueError(
            f"{path} describes run {old.run_id}, not {run.run_id}: its science was edited; "
            "declare the change as a study or an override, and delete or move this folder"
        )
    refreshed = _with_engine_of(old, spec).to_yaml()
    if refreshed != text:
        write_atomic(path, refreshed)


def _is_damaged(run: Run) -> bool:
    try:
        run.check_spec()
    except DamagedFileError:
        return True
    return False


def _with_engine_of(old: RunSpec, new: RunSpec) -> RunSpec:
    speed = {
        item.name: getattr(new.data, item.name)
        for item in fields(new.data)
        if item.name not in SCIENTIFIC_DATA_FIELDS
    }
    return replace(
        old,
        data=replace(old.data, **speed),
        init=replace(old.init, checkpoint=new.init.checkpoint),
        engine=new.engine,
        resources=new.resources,
    )


class Skipped(TypedDict):
    """How many runs were left, by why."""

    skipped_done: int
    skipped_running: int
    skipped_failed: int


@dataclass(slots=True, kw_only=True)
class Chosen:
    """The runs to start, and how many were skipped for which reason."""

    todo: list[RunSpec] = field(default_factory=list)
    skipped_done: int = 0
    skipped_running: int = 0
    skipped_failed: int = 0

    def skipped(self) -> Skipped:
        """Return the counts under their names in a summary."""
        return {
            "skipped_done": self.skipped_done,
            "skipped_running": self.skipped_running,
            "skipped_failed": self.skipped_failed,
        }


def choose_runs(
    specs: Iterable[RunSpec],
    runs_dir: str | Path,
    *,
    retry_failed: bool,
    own_queue: Path | None = None,
    held: Mapping[str, Hold] | None = None,
    dry_run: bool = False,
) -> Chosen:
    """Choose the runs to start and clear their FAILED markers; hold `submission_lock` meanwhile.

    `own_queue`: the queue file of the caller, whose runs are not in other hands. `held`: what
    the caller has read already. A dry run leaves the markers. A damaged DONE is cleared like a
    failure: its run goes on from the newest checkpoint.
    """
    held = read_held(runs_dir, but=own_queue) if held is None else held
    result = Chosen()
    for spec in specs:
        run = Run.of(runs_dir, spec.run_id)
        state = run_state(run, held).state
        has_failed = state in ("failed", "cancelled") or (state == "unknown" and run.damage())
        if state == "done":
            result.skipped_done += 1
        elif state in ("running", "queued"):
            result.skipped_running += 1
        elif has_failed and not retry_failed:
            result.skipped_failed += 1
        else:
            if has_failed and not dry_run:
                clear_failed(run)
            result.todo.append(spec)
    return result


def record_end(spec: RunSpec, run: Run, code: int, *, pid: int, log_start: int) -> RunStatus:
    """Write into the run's folder what its process could not write itself; return its state.

    `code`: exit code, negative for the signal that killed it. `log_start`: where in train.log the
    words of this attempt begin; the last of them become the reason of a failure.
    """
    try:
        return _record_end(spec, run, code, pid=pid, log_start=log_start)
    except OSError as error:  # a full disk, most often
        status = run_state(run, NOT_HELD)
        said = last_line(run.log_file, start=log_start)
        reason = f"cannot write into {run.folder}: {error.strerror}; {said}".strip("; ")
        return replace(status, state="failed", reason=reason)


def _record_end(spec: RunSpec, run: Run, code: int, *, pid: int, log_start: int) -> RunStatus:
    gpus = spec.resources.nodes * spec.resources.gpus_per_node
    if code < 0:
        close_attempt(run, reason=KILLED, num_gpus=gpus, signal=-code)
    status = run_state(run, NOT_HELD)
    if run.has_marker() or code < 0:
        return status
    if status.state == "running" and status.pid not in (None, pid):
        return status  # another process holds the run, and ours was turned away
    if code != RESUMABLE_CODE and not _stopped_by_signal(status):
        said = last_line(run.log_file, start=log_start) or "it said nothing"
        close_attempt(run, reason=f"error: {said}", num_gpus=gpus)
        run.write_failed(said if code else f"exit code 0 without DONE: {said}")
    return run_state(run, NOT_HELD)


def _stopped_by_signal(status: RunStatus) -> bool:
    """Return whether the attempt says so itself: torchrun turns its ranks' code 85 into 1."""
    return status.state == "preempted" and status.reason == "signal"
