"""The ledger of a study: what became of the hours that its runs took of GPUs (or CPU ranks)."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path

from jobs.executor import EXECUTORS, QueueingExecutor
from jobs.queue import read_held
from jobs.status import run_state
from scaling.document import Document
from scaling.runs.attempts import Attempt, read_attempts
from scaling.runs.folder import Heartbeat, Run
from scaling.runs.state import State
from scaling.spec import RunSpec
from scaling.study import is_ready


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours(Document):
    """Device-hours (or seconds) by account.

    `useful`: spent on steps that stand; `replayed`: on steps that a later attempt had (or will
    have) to repeat, and on attempts that made none; `failed`: all attempts of runs that failed or
    were cancelled; `queued`: waited for in Slurm's queue, times the devices asked for: from the
    end of a branch's trunk on, but behind the study's own arrays and ceilings too.
    """

    useful: float = 0.0
    replayed: float = 0.0
    failed: float = 0.0
    queued: float = 0.0

    def times(self, factor: float) -> "Hours":
        """Return every account multiplied."""
        return Hours(**{item.name: getattr(self, item.name) * factor for item in fields(Hours)})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHours(Document):
    """The hours of one run, by the accounts of `Hours`."""

    run_id: str
    state: State
    useful: float
    replayed: float
    failed: float
    queued: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger(Document):
    """What became of a study's hours, by the accounts of `Hours`; `total` is without those queued.

    The unit is "GPU-hours" or, for runs on CPU, "CPU-rank-hours" ("device-hours" where both occur).
    """

    unit: str
    useful: float
    replayed: float
    failed: float
    queued: float
    total: float
    runs: list[RunHours]


def ledger(specs: Iterable[RunSpec], runs_dir: str | Path) -> Ledger:
    """Return device-hours by account, from the attempt files of the runs."""
    runs_dir = Path(runs_dir)
    held = read_held(runs_dir)
    rows: list[RunHours] = []
    units: set[str] = set()
    for spec in specs:
        run, hold = Run.of(runs_dir, spec.run_id), held.get(spec.run_id)
        state = run_state(run, held).state
        if state == "planned":
            continue
        units.add("GPU-hours" if spec.resources.gpus_per_node else "CPU-rank-hours")
        pending_from = hold.since if hold and state == "queued" else None
        queued = _queued_seconds(spec, runs_dir, pending_from)
        hours = replace(_seconds(run, state), queued=queued).times(spec.resources.world_size / 3600)
        rows.append(RunHours(run_id=spec.run_id, state=state, **hours.to_dict()))
    sums = {item.name: sum(getattr(row, item.name) for row in rows) for item in fields(Hours)}
    return Ledger(
        unit=units.pop() if len(units) == 1 else "device-hours",
        **sums,
        total=sums["useful"] + sums["replayed"] + sums["failed"],
        runs=rows,
    )


def render_ledger(book: Ledger) -> str:
    """Return the ledger as one line for the end of a report."""
    if not book.runs:
        return "no hours spent yet"
    accounts = {"useful": book.useful, "replayed": book.replayed, "failed": book.failed}
    parts = []
    for name, hours in accounts.items():
        share = f" ({100 * hours / book.total:.0f} %)" if book.total else ""
        parts.append(f"{hours:,.3g} {name}{share}")
    waited = f"waited {book.queued:,.3g} in the queue, behind arrays of its own too"
    return f"{book.unit}: {', '.join(parts)}; {waited}"


def _seconds(run: Run, state: State) -> Hours:
    """Return the seconds of a run's attempts by account."""
    attempts, beat = read_attempts(run), run.heartbeat()
    useful, replayed, failed = 0.0, 0.0, 0.0
    for index, attempt in enumerate(attempts):
        is_last = index == len(attempts) - 1
        spent = _spent(attempt, beat, is_last=is_last)
        if state in ("failed", "cancelled"):
            failed += spent
            continue
        if is_last and attempt.last_step is None:  # killed without a word
            attempt = replace(attempt, last_step=beat.step)
        later = [item.first_step for item in attempts[index + 1 :]]
        resumed = [step for step in later if step is not None]
        if state != "done" and not (is_last and state == "running"):
            resumed.append(run.saved_step())  # where it will go on
        kept = _kept(attempt, min(resumed)) if resumed else 1.0
        useful += spent * kept
        replayed += spent * (1 - kept)
    return Hours(useful=useful, replayed=replayed, failed=failed)


def _kept(attempt: Attempt, resumed: int) -> float:
    """Return the share of an attempt's steps that stand where the run goes on at `resumed`."""
    first, last = attempt.first_step, attempt.last_step or 0
    if first is None:
        return 0.0
    if last <= first:  # only its start-up, or its steps were never reported
        return 1.0 if resumed > first else 0.0
    return min(1.0, max(0.0, (resumed - first) / (last - first)))


def _spent(attempt: Attempt, beat: Heartbeat, *, is_last: bool) -> float:
    """Return the seconds of an attempt, by its own clock where it was noted."""
    elapsed = attempt.seconds
    if elapsed is None and is_last and beat.born == attempt.born:
        elapsed = beat.elapsed_s
    if elapsed is not None:
        return float(elapsed)
    end = attempt.end
    if end is None and is_last:
        end = beat.time
    return max(0.0, (end or attempt.start) - attempt.start)


def _queued_seconds(spec: RunSpec, runs_dir: Path, pending_from: float | None) -> float:
    """Return how long a run has waited: before each life of its jobs, and now.

    A branch that waits for its trunk does not wait for the cluster.
    """
    before = [spec.run_id, spec.init.trunk] if spec.init.trunk else [spec.run_id]
    lives = [a for run_id in before for a in read_attempts(Run.of(runs_dir, run_id))]
    ends = [attempt.end for attempt in lives if attempt.end]
    waited = 0.0
    for asked, began in _waits(spec.run_id, runs_dir):
        waited += max(0.0, began - max([asked, *(end for end in ends if end <= began)]))
    if pending_from is not None and is_ready(spec, runs_dir):
        waited += max(0.0, time.time() - max([pending_from, *ends]))
    return waited


def _waits(run_id: str, runs_dir: Path) -> list[tuple[float, float]]:
    """Return when lives of a run were asked for and began, in the queues that are not ours."""
    executors = (make() for make in EXECUTORS.values())
    queueing = [e for e in executors if isinstance(e, QueueingExecutor)]
    return [wait for executor in queueing for wait in executor.waits(run_id, runs_dir)]
