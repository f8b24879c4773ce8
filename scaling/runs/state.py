"""Where a run stands: marker, then processes, then what holds it, then its attempts.

`status`, `sync`, `export`, `report`, `best`, `lineage` and `train` all ask here. What an executor
or a cluster knows beyond the files comes in as a `Hold`; without one the files decide.
"""

import time
from dataclasses import dataclass, replace
from typing import Literal, get_args

from scaling.runs.attempts import Attempt, attempt_files, read_attempt
from scaling.runs.files import DamagedFileError
from scaling.runs.folder import CANCELLED, KILLED, Done, Heartbeat, Run
from scaling.runs.process import process_alive, this_host

State = Literal[
    "planned", "queued", "running", "preempted", "done", "failed", "cancelled", "unknown"
]
STATES: tuple[State, ...] = get_args(State)
# A heartbeat comes every 2 s, but an evaluation or a busy file server may hold it up.
STALE_S = 60.0
# A process closes its attempt, then beats no more; a beat so much later is another life's.
NEXT_LIFE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What an executor, by its name, says of a run that it has, or had.

    `state`: it waits there, is worked on, has left (with `became`: as what, where that is known),
    or the executor cannot be asked. `asked` is unix s of the answer: a heartbeat since then counts
    for more than "queued". `pid` is of a process on this host. `since`: when it was asked for.
    """

    executor: str
    state: Literal["queued", "running", "ended", "unreachable"]
    reason: str = ""
    became: State | None = None
    job_id: str | None = None
    pid: int | None = None
    asked: float = 0.0
    since: float | None = None

    @property
    def is_live(self) -> bool:
        """Whether the executor will start the run, or works on it."""
        return self.state in ("queued", "running")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """Where a run stands. Times in seconds; None where nothing is known.

    `damaged`: a file cannot be read, and `reason` is what is wrong with it and what to do.
    """

    run_id: str
    state: State
    step: int | None = None
    num_steps: int | None = None
    samples_per_s: float | None = None
    eta_s: float | None = None
    val_l1: float | None = None
    attempts: int = 0
    job_id: str | None = None
    reason: str | None = None
    pid: int | None = None
    host: str | None = None
    phase: str | None = None
    damaged: bool = False


def run_status(run: Run, hold: Hold | None = None) -> RunStatus:
    """Return the state of a run and what its files tell of it; `hold`: what its executor says.

    A damaged file makes a run "unknown" with the line that says what to do, unless a process
    works on it.
    """
    if not run.exists():
        if hold is None or not hold.is_live:
            return RunStatus(run_id=run.run_id, state="planned")
        return RunStatus(run_id=run.run_id, state="queued", job_id=hold.job_id)
    try:
        return _from_files(run, hold)
    except OSError as error:  # another user's folder, a file server that is away
        why = f"cannot read {error.filename or run.folder}: {error.strerror}"
        return RunStatus(run_id=run.run_id, state="unknown", reason=why)


def _from_files(run: Run, hold: Hold | None) -> RunStatus:
    beat, files = run.heartbeat(), attempt_files(run)
    done, attempt, damage, torn = None, None, None, None
    try:
        done = run.done()
        run.check_spec()
    except DamagedFileError as error:
        damage = str(error)
    try:
        attempt = read_attempt(files[-1]) if files else None
    except DamagedFileError as error:
        torn = str(error)
    known = _known(run, beat, attempt, count=len(files))
    marked = None if damage else _from_markers(run, known, done)
    if marked is None:
        found = _from_processes(known, beat, attempt, hold)
        problem = damage or torn
        if problem is None or found.state in ("running", "queued"):
            return found
        return replace(found, state="unknown", reason=problem, damaged=True)
    if marked.state == "failed" and hold is not None and hold.is_live:
        return _ending(marked, hold)
    return marked


def _known(run: Run, beat: Heartbeat, attempt: Attempt | None, *, count: int) -> RunStatus:
    """Return what stands in the files, whatever the state turns out to be."""
    attempt = attempt or Attempt()
    return RunStatus(
        run_id=run.run_id,
        state="unknown",
        attempts=count,
        step=attempt.last_step if beat.step is None else beat.step,
        num_steps=beat.num_steps,
        val_l1=beat.val_l1,
        job_id=None if attempt.job_id in (None, "") else str(attempt.job_id),
        pid=beat.pid or attempt.pid,
        host=beat.host or attempt.host,
        phase=beat.phase,
    )


def _from_markers(run: Run, known: RunStatus, done: Done | None) -> RunStatus | None:
    """Return the state that DONE or FAILED gives; DONE counts for more."""
    if done is not None:
        value = done.metrics.get("val/l1", known.val_l1)
        return replace(known, state="done", step=done.step, val_l1=value)
    failed = run.failed()
    if failed is None:
        return None
    state: State = "cancelled" if failed.reason == CANCELLED else "failed"
    return replace(known, state=state, reason=failed.reason)


def _ending(marked: RunStatus, hold: Hold) -> RunStatus:
    """Return the state of a run that failed while its job is there: the job has the last word.

    A rank that lost its peer writes FAILED; the batch script then puts the run back into the queue.
    """
    state: State = "queued" if hold.state == "queued" else "running"
    return replace(marked, state=state, job_id=hold.job_id, reason=f"ending: {marked.reason}")


def _from_processes(
    known: RunStatus, beat: Heartbeat, attempt: Attempt | None, hold: Hold | None
) -> RunStatus:
    if hold is not None and hold.job_id is not None:
        known = replace(known, job_id=hold.job_id)
        if hold.state == "queued" and beat.time < hold.asked:
            return replace(known, state="queued", reason=hold.reason or None)
    known = _of_this_life(known, beat, attempt)
    if _attempt_is_open(beat, attempt) and _beats(known, beat, attempt):
        late = time.time() - (beat.time or time.time())
        return replace(
            known,
            state="running",
            samples_per_s=beat.samples_per_s,
            eta_s=beat.eta_s,
            reason=f"no heartbeat for {late:.0f} s" if late > STALE_S else None,
        )
    if hold is not None and hold.state == "running" and hold.pid is not None:
        return replace(known, state="running", pid=hold.pid, host=this_host(), phase="start")
    state, reason = _from_attempt(known, beat, attempt)
    if hold is not None:
        state, reason = _from_hold(hold, state, reason)
    return replace(known, state=state, reason=reason)


def _from_hold(hold: Hold, state: State, reason: str | None) -> tuple[State, str | None]:
    """Return what an executor makes of a run without marker and sign of life.

    `state`, `reason`: what its files say.
    """
    if hold.state == "queued":
        return "queued", hold.reason or None
    if hold.state == "running":
        return "running", reason if state == "unknown" else None
    if hold.state == "unreachable":
        return ("unknown" if state == "planned" else state), hold.reason
    if hold.became == "failed" and (state, reason) == ("preempted", "signal"):
        return state, reason  # it saved, but could not be put back into the queue
    if hold.became is not None:
        return hold.became, hold.reason
    if state == "unknown":
        return "preempted", f"job {hold.job_id} has ended, {reason}"
    return state, reason or f"job {hold.job_id} has ended without starting the run"


def _attempt_is_open(beat: Heartbeat, attempt: Attempt | None) -> bool:
    """Return whether the newest attempt has no end; a newer heartbeat than it counts as open."""
    if attempt is None:
        return beat.time > 0
    return attempt.end is None or beat.time > attempt.end + NEXT_LIFE_S


def _of_this_life(known: RunStatus, beat: Heartbeat, attempt: Attempt | None) -> RunStatus:
    """Leave out what a heartbeat says that an earlier attempt has left."""
    if attempt is None or beat.time >= attempt.start or not _attempt_is_open(beat, attempt):
        return known
    return replace(known, pid=attempt.pid, host=attempt.host, phase="start")


def _beats(known: RunStatus, beat: Heartbeat, attempt: Attempt | None) -> bool:
    """Return whether the process lives: by its pid on this host, else by a fresh heartbeat."""
    start, born = (attempt.start, attempt.born) if attempt else (0.0, None)
    if beat.time < start:
        beat = Heartbeat()  # left by an earlier attempt
    seen_at = beat.time or start
    if known.host == this_host():
        return process_alive(known.pid, seen_at=seen_at, born=beat.born or born)
    return time.time() - seen_at < STALE_S


def _from_attempt(
    known: RunStatus, beat: Heartbeat, attempt: Attempt | None
) -> tuple[State, str | None]:
    if attempt is None and not beat.time:
        return "planned", None
    if attempt is None or attempt.end is None:
        if known.host == this_host():
            return "preempted", KILLED
        late = time.time() - (beat.time or (attempt.start if attempt else 0) or time.time())
        return "unknown", f"no heartbeat from host {known.host} for {late:.0f} s"
    reason = attempt.reason or ""
    if reason == KILLED and attempt.signal:
        return "preempted", f"killed by signal {attempt.signal}"
    if reason.startswith("error"):
        return ("preempted" if attempt.retried else "failed"), reason
    if reason in ("signal", KILLED):
        return "preempted", reason
    return "unknown", f"attempt ended ({reason or 'no reason'}) without a marker"
