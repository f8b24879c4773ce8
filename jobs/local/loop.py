"""The loop of the local executor: keeps N runs going on this machine until the study is through."""

import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from jobs.executor import OpenProgress, Outcome, Worked, silent
from jobs.handover import NOT_HELD, choose_runs, prepare, record_end
from jobs.local.launch import (
    Child,
    Command,
    ForkServer,
    child_environment,
    local_slots,
    start_command,
    train_command,
)
from jobs.local.queue import REFRESH_S, forget_dead, queue_path, write_queue
from jobs.local.signals import send, stop_signals
from jobs.queue import read_held, submission_lock
from jobs.status import run_state
from jobs.trunks import Outlook, outlook
from scaling.runs.folder import Heartbeat, Run
from scaling.runs.state import Hold, RunStatus, State
from scaling.spec import RunSpec

LOGGER = logging.getLogger(__name__)
POLL_S = 0.2
RESUMABLE: tuple[State, ...] = ("preempted", "running", "unknown", "planned", "queued")


@dataclass(slots=True, kw_only=True)
class _Active:
    """A run under way."""

    spec: RunSpec
    run: Run
    child: Child
    slots: list[int]
    log_start: int
    started: float


@dataclass(slots=True, kw_only=True)
class _Work:
    """What one call of `submit` holds: runs waiting, runs under way, outcomes."""

    runs_dir: Path
    waiting: list[RunSpec]
    ids: frozenset[str]
    free: list[int]
    command: Command | None
    server: ForkServer | None = None
    active: list[_Active] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    stops: list[int] = field(default_factory=list)
    published: float = 0.0


def submit(
    specs: Sequence[RunSpec],
    runs_dir: str | Path,
    *,
    parallel: int = 2,
    progress: OpenProgress = silent,
    retry_failed: bool = True,
    on_finished: Callable[[str, str], None] | None = None,
    command: Command | None = None,
) -> Worked:
    """Run every unfinished spec on this machine, `parallel` ranks at once; block until through.

    Done runs and runs in other hands are skipped; all others start or resume, failed and cancelled
    ones too unless `retry_failed` is False. A branch starts as soon as its trunk has saved the
    step it branches from, and fails with a trunk that ends without it. SIGINT, SIGTERM or SIGHUP
    lets every run save and leave (a second one kills). `on_finished(run_id, state)` is called
    after each run. `command(spec, run_yaml)` replaces the training command.

    Raises ValueError for a run that this machine cannot hold.
    """
    began = time.monotonic()
    specs = list(specs)
    runs_dir = Path(runs_dir).absolute()
    slots = local_slots(specs, parallel)
    prepare(specs, runs_dir)
    with stop_signals() as stops:
        own = queue_path(runs_dir)
        with submission_lock(runs_dir):
            forget_dead(runs_dir)
            # Where who started us has claimed for us already, failures were cleared then, and one
            # that stands now is a cancellation since.
            retry = retry_failed and not own.exists()
            ours = choose_runs(specs, runs_dir, retry_failed=retry, own_queue=own)
            ids = [spec.run_id for spec in ours.todo]
            write_queue(own, ids)
        work = _Work(runs_dir=runs_dir, waiting=list(ours.todo), ids=frozenset(ids), free=slots,
                     command=command, stops=stops)  # fmt: skip
        try:
            _run_all(work, len(specs), progress=progress, on_finished=on_finished)
        finally:
            for item in work.active:  # only after an error of ours
                send(item.child.pid, signal.SIGTERM)
            own.unlink(missing_ok=True)
            if work.server is not None:
                work.server.close()
    states = [outcome.state for outcome in work.outcomes]
    return Worked(
        study=specs[0].study if specs else "",
        submitted=len(ours.todo),
        **ours.skipped(),
        done=states.count("done"),
        failed=states.count("failed"),
        preempted=sum(states.count(state) for state in RESUMABLE),
        cancelled=states.count("cancelled"),
        interrupted=bool(work.stops),
        runs=work.outcomes,
        seconds=round(time.monotonic() - began, 2),
    )


def _run_all(
    work: _Work,
    num_runs: int,
    *,
    progress: OpenProgress,
    on_finished: Callable[[str, str], None] | None,
) -> None:
    num_before = num_runs - len(work.waiting)
    _open_server(work)
    with progress(num_runs, num_before) as show:
        signalled = 0
        while work.active or (work.waiting and not work.stops):
            if not work.stops:
                _start_waiting(work)
            if len(work.stops) > signalled:
                signalled = len(work.stops)
                _stop_children(work, kill=signalled > 1)
            _publish(work)
            finished = _collect(work)
            if finished and not work.stops:
                _start_waiting(work)  # before the callback, so that no slot idles meanwhile
            for outcome in finished:
                show.finished(outcome.run_id, outcome.state, outcome.reason)
                _call(on_finished, outcome)
            show.update({item.spec.run_id: _beat(item) for item in work.active})
            time.sleep(POLL_S)


def _open_server(work: _Work) -> None:
    """Start the fork server when at least two runs gain by it."""
    eligible = [spec for spec in work.waiting if _forkable(spec)]
    if work.command is not None or len(eligible) < 2:
        return
    try:
        work.server = ForkServer(work.runs_dir)
    except RuntimeError as error:
        LOGGER.warning(f"{error}; each run imports the training stack itself")


def _forkable(spec: RunSpec) -> bool:
    return spec.resources.world_size == 1 and not spec.resources.gpus_per_node


def _start_waiting(work: _Work) -> None:
    """Start runs in their order while there is room for the next that waits for no trunk."""
    while (spec := _next_to_start(work)) is not None:
        work.waiting.remove(spec)
        run = Run.of(work.runs_dir, spec.run_id)
        if run.failed_file.exists():  # cancelled while it waited
            work.outcomes.append(_outcome(run_state(run), seconds=0.0))
            continue
        slots = [work.free.pop(0) for _ in range(_need(spec, work))]
        try:
            started = _start(work, spec, slots)
        except OSError as error:
            work.free = sorted([*work.free, *slots])
            why = f"cannot start: {error.strerror} ({error.filename or run.folder})"
            status = RunStatus(run_id=spec.run_id, state="failed", reason=why)
            work.outcomes.append(_outcome(status, seconds=0.0))
            LOGGER.warning(f"run {spec.run_id} {why}")
            continue
        work.active.append(started)
        _publish(work, now=True)
        if run.failed_file.exists():  # cancelled between our look and our publishing
            send(started.child.pid, signal.SIGTERM)


def _next_to_start(work: _Work) -> RunSpec | None:
    """Return the next run that can start; None where there is none, or no room for it."""
    if not work.free:
        return None
    ours = work.ids - {outcome.run_id for outcome in work.outcomes}
    held: Mapping[str, Hold] | None = None
    for spec in list(work.waiting):
        if spec.init.trunk:
            if held is None:
                held = read_held(work.runs_dir, but=queue_path(work.runs_dir))
            found = outlook(spec, work.runs_dir, held=held, ours=ours)
            if found.state == "waiting":
                continue
            if found.state != "ready":
                _give_up(work, spec, found)
                continue
        return spec if len(work.free) >= _need(spec, work) else None
    return None


def _give_up(work: _Work, spec: RunSpec, found: Outlook) -> None:
    """Take a branch off the list whose trunk will not come as far as its start."""
    work.waiting.remove(spec)
    run = Run.of(work.runs_dir, spec.run_id)
    if found.state == "lost" and not run.failed_file.exists():
        run.write_failed(found.reason)
    status = run_state(run, NOT_HELD)
    work.outcomes.append(_outcome(replace(status, reason=found.reason), seconds=0.0))
    _publish(work, now=True)
    LOGGER.warning(f"run {spec.run_id} does not start: {found.reason}")


def _start(work: _Work, spec: RunSpec, slots: list[int]) -> _Active:
    run = Run.of(work.runs_dir, spec.run_id)
    log, run_yaml = run.log_file, run.spec_file
    environment = child_environment(spec, slots)
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    with open(log, "a") as stream:
        stream.write(f"[{stamp}] the local executor starts run {spec.run_id}\n")
    start = log.stat().st_size
    child = None
    if work.server is not None and _forkable(spec):
        try:
            child = work.server.start(run_yaml, log, environment)
        except RuntimeError as error:
            LOGGER.warning(f"{error}; the next runs import the training stack themselves")
            work.server = None
    if child is None:
        make = work.command or train_command
        child = start_command(make(spec, run_yaml), log, environment)
    return _Active(
        spec=spec,
        run=run,
        child=child,
        slots=slots,
        log_start=start,
        started=time.monotonic(),
    )


def _collect(work: _Work) -> list[Outcome]:
    """Take the ended runs out of `work.active` and return their outcomes."""
    ended = [(item, code) for item in work.active if (code := item.child.poll()) is not None]
    outcomes = []
    for item, code in ended:
        work.active.remove(item)
        work.free = sorted([*work.free, *item.slots])
        pid, start = item.child.pid, item.log_start
        status = record_end(item.spec, item.run, code, pid=pid, log_start=start)
        outcomes.append(_outcome(status, seconds=time.monotonic() - item.started))
    work.outcomes.extend(outcomes)
    if ended:
        _publish(work, now=True)
    return outcomes


def _stop_children(work: _Work, *, kill: bool) -> None:
    for item in work.active:
        pid, number = item.child.pid, signal.SIGKILL if kill else signal.SIGTERM
        if item.spec.resources.world_size > 1:
            number = signal.SIGTERM  # torchrun, when killed, leaves its ranks behind
            if not kill:  # rank 0 lets all ranks save; torchrun would only end them
                pid = run_state(item.run).pid or pid
        send(pid, number)
    if work.active:
        what = "killing them" if kill else "they save and leave (a second signal kills)"
        LOGGER.warning(f"stopping {len(work.active)} runs: {what}")


def _publish(work: _Work, *, now: bool = False) -> None:
    if now or time.monotonic() - work.published > REFRESH_S:
        active = {item.spec.run_id: item.child.pid for item in work.active}
        waiting = [spec.run_id for spec in work.waiting]
        try:
            write_queue(queue_path(work.runs_dir), waiting, active=active)
        except OSError as error:  # only the status of waiting runs suffers
            LOGGER.warning(f"cannot write {queue_path(work.runs_dir)}: {error.strerror}")
        work.published = time.monotonic()


def _need(spec: RunSpec, work: _Work) -> int:
    """Return the slots of a run; one with more ranks than slots gets the machine to itself."""
    held = sum(len(item.slots) for item in work.active)
    return min(spec.resources.world_size, len(work.free) + held)


def _beat(item: _Active) -> Heartbeat:
    beat = item.run.heartbeat()
    if beat.time < time.time() - (time.monotonic() - item.started):
        beat = Heartbeat(step=beat.step)  # of an earlier attempt
    return replace(beat, num_steps=beat.num_steps or item.spec.num_steps)


def _outcome(status: RunStatus, *, seconds: float) -> Outcome:
    return Outcome(
        run_id=status.run_id,
        state=status.state,
        reason=status.reason,
        seconds=round(seconds, 2),
    )


def _call(on_finished: Callable[[str, str], None] | None, outcome: Outcome) -> None:
    if on_finished is None:
        return
    try:
        on_finished(outcome.run_id, outcome.state)
    except Exception as error:  # a tracker's outage must not stop the training
        LOGGER.warning(f"after run {outcome.run_id}: {type(error).__name__}: {error}")
