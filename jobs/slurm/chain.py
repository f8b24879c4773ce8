"""Where the commands chained behind a study stand: Slurm's word, else their output files."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jobs.slurm.commands import Job, SlurmError, sacct, squeue
from jobs.slurm.queue import CACHE_S, ENDED, WAITING
from jobs.slurm.submissions import RECORD, Submission, read_submission, slurm_folder
from scaling.runs.files import read_json_or_none, write_json
from scaling.runs.logs import last_line

STATE = "chain.json"
PENDING = ("waiting", "running")


def chain_state(runs_dir: str | Path, study: str, *, fresh: bool = False) -> list[dict[str, Any]]:
    """Return the links of a study's newest chain, [] where it has none.

    A link is `{"job_id", "command", "state", "reason", "log"}`; state: waiting, running, done,
    failed, cancelled, or unknown where Slurm has forgotten it. Answers are kept half a minute
    unless `fresh`, and for good once nothing is pending.
    """
    submission = _newest_with_chain(Path(runs_dir), study)
    if submission is None:
        return []
    known = read_json_or_none(submission.folder / STATE) or {}
    links: list[dict[str, Any]] = known.get("links", [])
    settled = links and not any(link["state"] in (*PENDING, "unknown") for link in links)
    if settled or (links and not fresh and time.time() - known["time"] < CACHE_S):
        return links
    try:
        jobs = _ask([link["job_id"] for link in submission.chain])
    except SlurmError:
        jobs = None
    links = _links(submission, jobs)
    write_json(submission.folder / STATE, {"time": time.time(), "links": links})
    return links


def chain_is_pending(
    runs_dir: str | Path, study: str, then: Sequence[Sequence[str]], run_ids: Iterable[str]
) -> bool:
    """Return whether the same commands wait or run behind these runs of a study already."""
    submission = _newest_with_chain(Path(runs_dir), study)
    if submission is None or not set(run_ids) <= set(submission.waits_for):
        return False
    links = chain_state(runs_dir, study, fresh=True)
    same = [link["command"] for link in links] == [" ".join(words) for words in then]
    return same and any(link["state"] in PENDING for link in links)


def _newest_with_chain(runs_dir: Path, study: str) -> Submission | None:
    found = [
        submission
        for path in slurm_folder(runs_dir).glob(f"*/{RECORD}")
        if (submission := read_submission(path.parent)) is not None
        and submission.chain
        and submission.study == study
    ]
    return max(found, key=lambda submission: submission.time, default=None)


def _ask(job_ids: list[str]) -> dict[str, Job]:
    """Return what squeue and, for those that left the queue, accounting know."""
    live = squeue()
    jobs = {job_id: live[job_id] for job_id in job_ids if job_id in live}
    gone = [job_id for job_id in job_ids if job_id not in jobs]
    if gone:
        month = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() - 31 * 86400))
        try:
            jobs |= sacct(gone, since=month)
        except SlurmError:
            return jobs  # no accounting: the files decide
    return jobs


def _links(submission: Submission, jobs: dict[str, Job] | None) -> list[dict[str, Any]]:
    """Return the links' states; `jobs` is None where Slurm does not answer."""
    logs = [_log(submission, index) for index in range(len(submission.chain))]
    links: list[dict[str, Any]] = []
    for index, link in enumerate(submission.chain):
        job = (jobs or {}).get(link["job_id"])
        if job is not None:
            state = _state(job)
        elif any(log.exists() for log in logs[index + 1 :]):
            state = "done"  # or the next would not have started
        else:
            state = "waiting" if jobs is None and not logs[index].exists() else "unknown"
        failed = next((item["command"] for item in links if item["state"] == "failed"), "")
        reason = _reason(state, job, logs[index], failed=failed)
        links.append(link | {"state": state, "reason": reason, "log": str(logs[index])})
    return links


def _state(job: Job) -> str:
    if job.state in WAITING:
        return "waiting"
    if job.state not in ENDED:
        return "running"
    return {"COMPLETED": "done", "CANCELLED": "cancelled"}.get(job.state, "failed")


def _reason(state: str, job: Job | None, log: Path, *, failed: str) -> str | None:
    if state == "failed":
        return last_line(log) or (job.reason if job else None)
    if state == "cancelled":
        return f"{failed.split()[0]} failed before it" if failed else "cancelled in Slurm"
    return f"see {log}" if state == "unknown" else None


def _log(submission: Submission, index: int) -> Path:
    verb = submission.chain[index]["command"].split()[0]
    return submission.folder / f"then-{index}-{verb}.out"
