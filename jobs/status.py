"""The state of runs: marker, then heartbeat, then Slurm's word, then attempts."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from jobs.queue import Queued, read_queues
from jobs.slurm.commands import Job
from jobs.slurm.queue import GONE, UNREACHABLE, WAITING, in_queue
from scaling.runs.folder import (
    CANCELLED,
    DONE,
    FAILED,
    KILLED,
    last_attempt,
    process_alive,
    read_json,
    run_folder,
    this_host,
)
from scaling.spec import RunSpec

State = Literal[
    "planned", "queued", "running", "preempted", "done", "failed", "cancelled", "unknown"
]
STATES: tuple[State, ...] = (
    "planned",
    "queued",
    "running",
    "preempted",
    "done",
    "failed",
    "cancelled",
    "unknown",
)
URGENT: tuple[State, ...] = (
    "running",
    "failed",
    "unknown",
    "preempted",
    "queued",
    "cancelled",
    "planned",
    "done",
)
COLOURS = {
    "running": "cyan",
    "done": "green",
    "failed": "red",
    "preempted": "yellow",
    "unknown": "magenta",
}
# A heartbeat comes every 2 s, but an evaluation or a busy file server may hold it up.
STALE_S = 60.0
# How Slurm says that a job ended -> what that makes of its run.
JOB_ENDS: dict[str, tuple[State, str]] = {
    "TIMEOUT": ("preempted", "time limit"),
    "PREEMPTED": ("preempted", "preempted by another job"),
    "NODE_FAIL": ("preempted", "a node failed"),
    "BOOT_FAIL": ("preempted", "a node did not start"),
    "CANCELLED": ("cancelled", "cancelled in Slurm"),
    "OUT_OF_MEMORY": ("failed", "out of memory"),
    "DEADLINE": ("failed", "past its deadline"),
    "FAILED": ("failed", "the job failed"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """Where a run stands. Times in seconds; None where nothing is known."""

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


def run_state(run_dir: str | Path, *, queued: Queued | None = None) -> RunStatus:
    """Read the state of one run folder (which need not exist).

    `queued`: what the executors hold, read once by a caller that asks for many runs.
    """
    run_dir = Path(run_dir)
    if queued is None:
        queued = read_queues(run_dir.parent)
    if not run_dir.exists():
        state: State = "queued" if run_dir.name in queued else "planned"
        return RunStatus(run_id=run_dir.name, state=state)
    count, path = last_attempt(run_dir)
    attempt = (read_json(path) if path else None) or {}
    heartbeat = read_json(run_dir / "heartbeat.json") or {}
    facts = _known_facts(heartbeat, attempt) | {"run_id": run_dir.name, "attempts": count}
    marked = _from_markers(run_dir, facts)
    if marked is not None and marked.state == "failed" and in_queue(queued.jobs.get(run_dir.name)):
        return _ending(marked, queued.jobs[run_dir.name])
    return marked or _from_processes(facts, heartbeat, attempt, queued)


def study_status(specs: Iterable[RunSpec], runs_dir: str | Path) -> dict[str, Any]:
    """Return the `status --json` document: counts of states and one row a run."""
    queued = read_queues(runs_dir)
    rows: list[dict[str, Any]] = []
    study = ""
    for spec in specs:
        study = study or spec.study
        status = run_state(run_folder(runs_dir, spec.run_id), queued=queued)
        row = asdict(status)
        for name in ("pid", "host", "phase"):
            del row[name]
        row["num_steps"] = spec.num_steps
        rows.append({"run_id": row.pop("run_id"), "axes": dict(spec.axes), **row})
    return {"study": study, "counts": dict(Counter(row["state"] for row in rows)), "runs": rows}


def render_status(document: dict[str, Any], *, max_rows: int | None = None) -> Table:
    """Return the table that `scaling status` prints.

    Above `max_rows` those that need a look stay: running first, then what failed or stopped.
    """
    counts, rows = document["counts"], document["runs"]
    parts = [f"{counts[state]} {state}" for state in STATES if counts.get(state)]
    if max_rows is not None and len(rows) > max_rows:
        parts.append(f"{len(rows) - max_rows} not shown")
        rows = sorted(rows, key=lambda row: URGENT.index(row["state"]))[:max_rows]
    table = Table(title=document["study"] or None, caption=", ".join(parts) or "no runs")
    for name in ("run", "axes", "state"):
        table.add_column(name, no_wrap=name != "axes")
    for name in ("step", "samples/s", "left", "val l1", "tries"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("reason", overflow="fold")
    for row in rows:
        state = row["state"]
        colour = COLOURS.get(state)
        table.add_row(
            row["run_id"],
            _escaped(" ".join(f"{key}={value}" for key, value in row["axes"].items())),
            f"[{colour}]{state}[/]" if colour else state,
            _progress(row["step"] or 0, row["num_steps"]),
            _number(row["samples_per_s"], ".1f"),
            clock(row["eta_s"]),
            _number(row["val_l1"], ".4f"),
            str(row["attempts"]),
            _escaped(row["reason"]),
        )
    return table


def clock(seconds: float | None) -> str:
    """Return a duration as h:mm:ss or m:ss, "" for None."""
    if seconds is None:
        return ""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def _known_facts(heartbeat: dict[str, Any], attempt: dict[str, Any]) -> dict[str, Any]:
    job_id = attempt.get("job_id")
    return {
        "step": heartbeat.get("step", attempt.get("last_step")),
        "num_steps": heartbeat.get("num_steps"),
        "val_l1": heartbeat.get("val_l1"),
        "job_id": None if job_id in (None, "") else str(job_id),
        "pid": heartbeat.get("pid") or attempt.get("pid"),
        "host": heartbeat.get("host") or attempt.get("host"),
        "phase": heartbeat.get("phase"),
    }


def _from_markers(run_dir: Path, facts: dict[str, Any]) -> RunStatus | None:
    if (run_dir / DONE).exists():
        done = read_json(run_dir / DONE) or {}
        value = (done.get("metrics") or {}).get("val/l1", facts["val_l1"])
        step = done.get("step", facts["step"])
        return RunStatus(**(facts | {"state": "done", "val_l1": value, "step": step}))
    if (run_dir / FAILED).exists():
        failed = read_json(run_dir / FAILED) or {}
        reason = str(failed.get("reason") or "no reason was written")
        state = "cancelled" if reason == CANCELLED else "failed"
        return RunStatus(**(facts | {"state": state, "reason": reason}))
    return None


def _ending(marked: RunStatus, job: Job) -> RunStatus:
    """Return the state of a run that failed while its job is there: the job has the last word.

    A rank that lost its peer writes FAILED; the batch script then puts the run back into the queue.
    """
    state: State = "queued" if job.state in WAITING else "running"
    return replace(marked, state=state, job_id=job.id, reason=f"ending: {marked.reason}")


def _from_processes(
    facts: dict[str, Any], heartbeat: dict[str, Any], attempt: dict[str, Any], queued: Queued
) -> RunStatus:
    run_id = facts["run_id"]
    job = queued.jobs.get(run_id)
    if job is not None:
        facts = facts | {"job_id": job.id}
        if job.state in WAITING and float(heartbeat.get("time") or 0) < queued.jobs_time:
            return RunStatus(**(facts | {"state": "queued", "reason": job.reason or None}))
    if _attempt_is_open(heartbeat, attempt) and _beats(facts, heartbeat, attempt):
        late = time.time() - float(heartbeat.get("time") or time.time())
        speed = {
            "samples_per_s": heartbeat.get("samples_per_s"),
            "eta_s": heartbeat.get("eta_s"),
            "reason": f"no heartbeat for {late:.0f} s" if late > STALE_S else None,
        }
        return RunStatus(**(facts | speed | {"state": "running"}))
    if run_id in queued.active:
        owner = {"pid": queued.active[run_id], "host": this_host(), "phase": "start"}
        return RunStatus(**(facts | owner | {"state": "running"}))
    if run_id in queued.waiting:
        return RunStatus(**(facts | {"state": "queued"}))
    state, reason = _from_attempt(facts, heartbeat, attempt)
    if job is not None:
        state, reason = _from_job(job, state, reason)
    return RunStatus(**(facts | {"state": state, "reason": reason}))


def _from_job(job: Job, state: State, reason: str | None) -> tuple[State, str | None]:
    """Return what Slurm says of a run without marker and heartbeat; `state`: what its files say."""
    if job.state in JOB_ENDS:
        if job.state == "FAILED" and state == "preempted" and reason == "signal":
            return state, reason  # it saved, but could not be put back into the queue
        named, why = JOB_ENDS[job.state]
        return named, why if job.reason in ("", job.state, why) else f"{why} ({job.reason})"
    if job.state == UNREACHABLE:
        return ("unknown" if state == "planned" else state), job.reason
    if job.state in (GONE, "COMPLETED"):
        if state == "unknown":
            return "preempted", f"job {job.id} has ended, {reason}"
        return state, reason or f"job {job.id} has ended without starting the run"
    if job.state in WAITING:
        return "queued", job.reason or None
    return "running", reason if state == "unknown" else None


def _attempt_is_open(heartbeat: dict[str, Any], attempt: dict[str, Any]) -> bool:
    """Return whether the newest attempt has no end; a newer heartbeat than it counts as open."""
    if not attempt:
        return bool(heartbeat)
    if attempt.get("end") is None:
        return True
    return float(heartbeat.get("time") or 0) > float(attempt["end"]) + 2.0


def _beats(facts: dict[str, Any], heartbeat: dict[str, Any], attempt: dict[str, Any]) -> bool:
    """Return whether the process lives: by its pid on this host, else by a fresh heartbeat."""
    if float(heartbeat.get("time") or 0) < float(attempt.get("start") or 0):
        heartbeat = {}  # left by an earlier attempt
        facts |= {"pid": attempt.get("pid"), "host": attempt.get("host"), "phase": "start"}
    seen_at = float(heartbeat.get("time") or attempt.get("start") or 0)
    if facts["host"] == this_host():
        born = heartbeat.get("born") or attempt.get("born")
        return process_alive(facts["pid"], seen_at=seen_at, born=born)
    return time.time() - seen_at < STALE_S


def _from_attempt(
    facts: dict[str, Any], heartbeat: dict[str, Any], attempt: dict[str, Any]
) -> tuple[State, str | None]:
    if not attempt and not heartbeat:
        return "planned", None
    if not attempt or attempt.get("end") is None:
        if facts["host"] == this_host():
            return "preempted", KILLED
        late = time.time() - float(heartbeat.get("time") or attempt.get("start") or 0)
        return "unknown", f"no heartbeat from host {facts['host']} for {late:.0f} s"
    reason = str(attempt.get("reason") or "")
    if reason == KILLED and attempt.get("signal"):
        return "preempted", f"killed by signal {attempt['signal']}"
    if reason.startswith("error"):
        return ("preempted" if attempt.get("retried") else "failed"), reason
    if reason in ("signal", KILLED):
        return "preempted", reason
    return "unknown", f"attempt ended ({reason or 'no reason'}) without a marker"


def _progress(step: int, num_steps: int) -> str:
    return f"{step}/{num_steps} {100 * step // num_steps:>3}%"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _escaped(text: str | None) -> str:
    return (text or "").replace("[", "\\[")
