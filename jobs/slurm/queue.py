"""Which run is in Slurm's hands: one batched squeue, sacct for the rest, cached half a minute."""

import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.slurm.commands import Job, SlurmError, sacct, squeue
from jobs.slurm.submissions import (
    Submission,
    close_finished,
    open_submissions,
    slurm_folder,
)
from scaling.runs.files import read_json_or_none, write_json
from scaling.runs.folder import Run
from scaling.runs.state import Hold, State

NAME = "slurm"
CACHE_S = 30.0
_POLLING = threading.Lock()  # threads of one process that ask at once get one answer
# A task that squeue leaves out once may only be between two states.
GONE_AFTER_S = 5.0
GONE, UNREACHABLE = "GONE", "UNREACHABLE"
ENDED = (
    "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL",
    "OUT_OF_MEMORY", "DEADLINE", "REVOKED",
)  # fmt: skip
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
WAITING = ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")


def read_slurm(runs_dir: str | Path, *, fresh: bool = False) -> tuple[dict[str, Job], float]:
    """Return (run id -> job, time of the answer) for runs of open submissions.

    A job's state is Slurm's word from squeue or, for a task that has left the queue, from sacct;
    GONE where neither knows it, UNREACHABLE where Slurm has never answered. Runs with a DONE or
    FAILED marker may be absent. `fresh`: ask now, twice where a task is missing, and raise
    SlurmError where squeue does not answer.
    """
    runs_dir = Path(runs_dir)
    if not slurm_folder(runs_dir).exists():
        return {}, 0.0
    submissions = open_submissions(runs_dir)
    tasks = {run_id: task for item in submissions for run_id, task in item.tasks().items()}
    if not tasks:
        return {}, 0.0
    newest = max(_changed(item) for item in submissions)
    with _POLLING:
        cache = _Cache(slurm_folder(runs_dir) / "queue.json")
        if fresh or cache.age() > CACHE_S or cache.time <= newest:
            _poll(cache, tasks, runs_dir, strict=fresh)
            if fresh and cache.undecided(tasks.values()):
                time.sleep(GONE_AFTER_S)
                _poll(cache, tasks, runs_dir, strict=fresh)
            if cache.reachable:
                close_finished(submissions, runs_dir, cache.live)
    return {run_id: cache.job(task) for run_id, task in tasks.items()}, cache.time


def read_holds(runs_dir: str | Path, *, fresh: bool = False) -> dict[str, Hold]:
    """Return what Slurm has, or had, by run id; `fresh` as in `read_slurm`."""
    jobs, asked = read_slurm(runs_dir, fresh=fresh)
    if not jobs:
        return {}
    since = {run_id: item.time for item in open_submissions(runs_dir) for run_id in item.tasks()}
    return {
        run_id: replace(_hold(job), job_id=job.id, asked=asked, since=since.get(run_id))
        for run_id, job in jobs.items()
    }


def job_of(hold: Hold | None) -> str | None:
    """Return the job that Slurm will start for a run, or runs; None where it has none."""
    live = hold is not None and hold.is_live and hold.executor == NAME
    return hold.job_id if hold is not None and live else None


def in_queue(job: Job | None) -> bool:
    """Return whether Slurm will start the job, or runs it (an odd state counts as alive)."""
    return job is not None and job.state not in (*ENDED, GONE, UNREACHABLE)


def _hold(job: Job) -> Hold:
    """Return a job in words that are not Slurm's; without a known end the run's files decide."""
    if job.state == UNREACHABLE:
        return Hold(executor=NAME, state="unreachable", reason=job.reason)
    if job.state in WAITING:
        return Hold(executor=NAME, state="queued", reason=job.reason)
    if job.state in JOB_ENDS:
        became, why = JOB_ENDS[job.state]
        reason = why if job.reason in ("", job.state, why) else f"{why} ({job.reason})"
        return Hold(executor=NAME, state="ended", became=became, reason=reason)
    if job.state in (GONE, "COMPLETED"):
        return Hold(executor=NAME, state="ended")
    return Hold(executor=NAME, state="running", reason=job.reason)


class _Cache:
    """runs/_slurm/queue.json: the last answers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        content: dict[str, Any] = read_json_or_none(path) or {}
        self.time = float(content.get("time") or 0.0)
        self.reachable = bool(content.get("reachable"))
        self.live: dict[str, list[str]] = content.get("live", {})
        self.ended: dict[str, list[str]] = content.get("ended", {})
        self.missing: dict[str, float] = content.get("missing", {})

    def age(self) -> float:
        return time.time() - self.time

    def undecided(self, tasks: Iterable[str]) -> bool:
        """Return whether a task left the queue a moment ago and nothing says how."""
        return any(
            task in self.missing and self.time - self.missing[task] < GONE_AFTER_S for task in tasks
        )

    def job(self, task: str) -> Job:
        for known in (self.live, self.ended):
            if task in known:
                return Job(id=task, state=known[task][0], reason=known[task][1])
        since = self.missing.get(task)
        if since is not None and self.time - since >= GONE_AFTER_S:
            return Job(id=task, state=GONE, reason="it left the queue without a trace")
        if not self.reachable:
            return Job(id=task, state="PENDING", reason="accepted; Slurm does not answer now")
        return Job(id=task, state=UNREACHABLE, reason="Slurm has not said anything about it yet")

    def save(self) -> None:
        content = {name: getattr(self, name) for name in
                   ("time", "reachable", "live", "ended", "missing")}  # fmt: skip
        write_json(self.path, content)


def _poll(cache: _Cache, tasks: dict[str, str], runs_dir: Path, *, strict: bool) -> None:
    """Ask squeue for all tasks, and sacct for those that left without a marker."""
    now = time.time()
    try:
        live = squeue()
    except SlurmError:
        if strict:
            raise
        cache.time, cache.reachable = now, False  # keep what was known; ask again later
        cache.save()
        return
    cache.time, cache.reachable = now, True
    cache.live = {task: [live[task].state, live[task].reason] for task in tasks.values()
                  if task in live}  # fmt: skip
    absent = {
        task: run_id
        for run_id, task in tasks.items()
        if task not in live and not Run.of(runs_dir, run_id).has_marker()
    }
    cache.ended = {task: end for task, end in cache.ended.items() if task in absent}
    unknown = [task for task in absent if task not in cache.ended]
    cache.ended |= _ends(unknown)
    cache.missing = {
        task: cache.missing.get(task, now) for task in unknown if task not in cache.ended
    }
    cache.save()


def _ends(tasks: list[str]) -> dict[str, list[str]]:
    """Return the ends that accounting knows; it trails squeue by a second or two."""
    if not tasks:
        return {}
    month = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() - 31 * 86400))
    try:
        known = sacct(tasks, since=month)
    except SlurmError:
        return {}
    return {
        task: [known[task].state, known[task].reason]
        for task in tasks
        if task in known and known[task].state in ENDED
    }


def _changed(submission: Submission) -> float:
    """Return when a submission was last written to."""
    files = [submission.path / name for name in ("submission.json", "resubmitted.jsonl")]
    return max(path.stat().st_mtime for path in files if path.exists())
