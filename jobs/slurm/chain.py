"""Where the commands chained behind a study stand: Slurm's word, else their output files."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from jobs.executor import Link, LinkState
from jobs.slurm.commands import Job, SlurmError, sacct, squeue
from jobs.slurm.queue import CACHE_S, ENDED, WAITING
from jobs.slurm.submissions import RECORD, Submission, read_submission, slurm_folder
from scaling.document import plain
from scaling.runs.files import known, read_json_or_none, write_json
from scaling.runs.logs import last_line

STATE = "chain.json"
PENDING = ("waiting", "running")


def chain_state(runs_dir: str | Path, study: str, *, fresh: bool = False) -> list[Link]:
    """Return the links of a study's newest chain, [] where it has none.

    A link is "unknown" where Slurm has forgotten it. Answers are kept half a minute unless `fresh`,
    and for good once nothing is pending.
    """
    submission = _newest_with_chain(Path(runs_dir), study)
    if submission is None:
        return []
    kept = read_json_or_none(submission.path / STATE) or {}
    links = [known(Link, link) for link in kept.get("links", [])]
    is_over = links and not any(link.state in (*PENDING, "unknown") for link in links)
    if is_over or (links and not fresh and time.time() - kept["time"] < CACHE_S):
        return links
    try:
        jobs = _ask([link.job_id for link in submission.chain])
    except SlurmError:
        jobs = None
    links = _links(submission, jobs)
    write_json(submission.path / STATE, {"time": time.time(), "links": plain(links)})
    return links


def chain_is_pending(
    runs_dir: str | Path, study: str, then: Sequence[Sequence[str]], run_ids: Iterable[str]
) -> bool:
    """Return whether the same commands wait or run behind these runs of a study already."""
    submission = _newest_with_chain(Path(runs_dir), study)
    if submission is None or not set(run_ids) <= set(submission.before_chain()):
        return False
    links = chain_state(runs_dir, study, fresh=True)
    same = [link.command for link in links] == [" ".join(words) for words in then]
    return same and any(link.state in PENDING for link in links)


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


def _links(submission: Submission, jobs: dict[str, Job] | None) -> list[Link]:
    """Return the links' states; `jobs` is None where Slurm does not answer."""
    logs = [_log(submission, index) for index in range(len(submission.chain))]
    links: list[Link] = []
    for index, link in enumerate(submission.chain):
        job = (jobs or {}).get(link.job_id)
        if job is not None:
            state: LinkState = _state(job)
        elif any(log.exists() for log in logs[index + 1 :]):
            state = "done"  # or the next would not have started
        else:
            state = "waiting" if jobs is None and not logs[index].exists() else "unknown"
        failed = next((item.command for item in links if item.state == "failed"), "")
        reason = _reason(state, job, logs[index], failed=failed)
        links.append(
            Link(
                job_id=link.job_id,
                command=link.command,
                state=state,
                reason=reason,
                log=str(logs[index]),
            )
        )
    return links


def _state(job: Job) -> LinkState:
    if job.state in WAITING:
        return "waiting"
    if job.state not in ENDED:
        return "running"
    if job.state == "COMPLETED":
        return "done"
    return "cancelled" if job.state == "CANCELLED" else "failed"


def _reason(state: LinkState, job: Job | None, log: Path, *, failed: str) -> str | None:
    if state == "failed":
        return last_line(log) or (job.reason if job else None)
    if state == "cancelled":
        return f"{failed.split()[0]} failed before it" if failed else "cancelled in Slurm"
    return f"see {log}" if state == "unknown" else None


def _log(submission: Submission, index: int) -> Path:
    verb = submission.chain[index].command.split()[0]
    return submission.path / f"then-{index}-{verb}.out"
