"""Calls sbatch, squeue, sacct, scancel and scontrol, and reads what they print."""

import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.executor import ExecutorAwayError

TIMEOUT_S = 60.0
DEFAULT_MAX_ARRAY_SIZE = 1001
IDS_A_CALL = 500
OUT_OF_MEMORY = "OUT_OF_MEMORY"
# What a command says whose controller is away or busy; it may have been heard all the same.
SILENCE = re.compile(
    r"controller|communication|connect|socket timed out|zero bytes|message (send|receive) failure|"
    r"standby|temporarily unable", re.IGNORECASE
)  # fmt: skip


class SlurmError(RuntimeError):
    """A Slurm command failed or did not answer; the message is what it said."""


class SlurmSilenceError(SlurmError):
    """Slurm did not answer: asked again later it may, and it may have done what it was told."""


class SlurmUnreachableError(ExecutorAwayError):
    """What a caller of `submit` is told while Slurm does not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One array task as Slurm sees it. `id`: "ARRAY_TASK"; `state`: Slurm's word."""

    id: str
    state: str
    reason: str = ""


def run(words: Sequence[str], *, timeout_s: float = TIMEOUT_S) -> str:
    """Return a command's output; raise SlurmError with its words where it fails."""
    try:
        done = subprocess.run(list(words), capture_output=True, text=True, timeout=timeout_s)
    except FileNotFoundError:
        raise SlurmError(
            f"no {words[0]} on PATH; submit from a login node of the cluster"
        ) from None
    except subprocess.TimeoutExpired:
        raise SlurmSilenceError(f"{words[0]} did not answer within {timeout_s:.0f} s") from None
    if done.returncode:
        said = _complaint(words[0], done.stderr)
        kind = SlurmSilenceError if SILENCE.search(said) else SlurmError
        raise kind(f"{words[0]}: {said or f'exit code {done.returncode}'}")
    return done.stdout


def _complaint(command: str, stderr: str) -> str:
    """Return what a command complains of in one line: the cause comes before the summary."""
    lines = [
        re.sub(rf"^{re.escape(command)}: (error: |fatal: )?", "", line.strip())
        for line in stderr.splitlines()
        if line.strip() and "--help" not in line
    ]
    return "; ".join(dict.fromkeys(lines[-3:]))


def sbatch(script: str, *options: str) -> str:
    """Submit a script file; return the job id. Raises SlurmError with Slurm's reason."""
    output = run(["sbatch", "--parsable", *options, script])
    job_id = output.strip().splitlines()[-1].split(";")[0] if output.strip() else ""
    if not job_id.isdigit():
        raise SlurmError(f"sbatch printed {output.strip()!r} instead of a job id")
    return job_id


def squeue() -> dict[str, Job]:
    """Return our tasks that are pending or live, by "ARRAY_TASK"; one call for all."""
    output = run(["squeue", "-h", "-r", "-u", str(os.getuid()), "-o", "%F|%K|%T|%r"])
    return parse_squeue(output)


def jobs_by_script() -> dict[Path, set[str]]:
    """Return batch script -> ids of our jobs in the queue (of an array: the array's)."""
    output = run(["squeue", "-h", "-r", "-u", str(os.getuid()), "-o", "%F|%o"])
    rows = [line.strip().split("|", 1) for line in output.splitlines() if "|" in line]
    found: dict[Path, set[str]] = {}
    for job_id, script in rows:
        found.setdefault(Path(script).resolve(), set()).add(job_id)
    return found


def parse_squeue(output: str) -> dict[str, Job]:
    """Read `%F|%K|%T|%r` lines; a task listed twice (an old and a new life) counts as live."""
    jobs: dict[str, Job] = {}
    for line in output.splitlines():
        fields = line.strip().split("|")
        if len(fields) != 4 or not fields[0].isdigit():
            continue
        array, tasks, state, reason = fields
        for task in expand_tasks(tasks):
            key = f"{array}_{task}" if task else array
            known = jobs.get(key)
            if known is None or known.state == "COMPLETING":
                jobs[key] = Job(id=key, state=state, reason="" if reason == "None" else reason)
    return jobs


def expand_tasks(text: str) -> list[str]:
    """Return the tasks of "7", "[0-3,8%2]" or "N/A" (no array: one empty name)."""
    if text in ("N/A", ""):
        return [""]
    tasks: list[str] = []
    for part in text.strip("[]").partition("%")[0].split(","):
        first, _, last = part.partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            continue  # "..." of a shortened list
        tasks += [str(number) for number in range(int(first), int(last or first) + 1)]
    return tasks


def sacct(task_ids: Iterable[str], *, since: str) -> dict[str, Job]:
    """Return how tasks ended, by "ARRAY_TASK"; absent where accounting knows nothing.

    `since`: a time before the first of them, YYYY-MM-DDTHH:MM:SS; without it sacct starts at
    midnight. Raises SlurmError where there is no accounting.
    """
    arrays = sorted({task.partition("_")[0] for task in task_ids})
    jobs: dict[str, Job] = {}
    for first in range(0, len(arrays), IDS_A_CALL):
        ids = ",".join(arrays[first : first + IDS_A_CALL])
        words = ["sacct", "-n", "-P", "-D", "-S", since, "-j", ids, "-o", "JobID,State,ExitCode"]
        jobs |= parse_sacct(run(words))
    return jobs


def parse_sacct(output: str) -> dict[str, Job]:
    """Read `JobID|State|ExitCode` lines: of several lives the last one counts.

    A step that ran out of memory leaves its job FAILED, so steps are looked at too.
    """
    jobs: dict[str, Job] = {}
    for line in output.splitlines():
        fields = line.strip().split("|")
        if len(fields) < 3 or not fields[1]:
            continue
        full, state, code = fields[0], _whole(fields[1].split()[0]), fields[2]
        name, _, step = full.partition(".")
        if not step:
            for key in _sacct_keys(name):
                jobs[key] = Job(id=key, state=state, reason=_ended(fields[1], code))
        elif state == OUT_OF_MEMORY and name in jobs and jobs[name].state != "COMPLETED":
            jobs[name] = Job(id=name, state=state, reason="out of memory")
    return jobs


def scancel(ids: Sequence[str]) -> None:
    """Cancel jobs or array tasks; those that ended already do not matter."""
    for first in range(0, len(ids), IDS_A_CALL):
        run(["scancel", "--quiet", *ids[first : first + IDS_A_CALL]])


def max_array_size() -> int:
    """Return the cluster's MaxArraySize (indices end one below it), or Slurm's default."""
    try:
        found = re.search(r"^MaxArraySize\s*=\s*(\d+)", run(["scontrol", "show", "config"]), re.M)
    except SlurmError:
        found = None
    return int(found.group(1)) if found else DEFAULT_MAX_ARRAY_SIZE


def job_state(job_id: str) -> tuple[str, bool]:
    """Return (state, whether Slurm will start it again) of a job that is just ending.

    ("", False) where Slurm does not answer.
    """
    try:
        text = run(["scontrol", "show", "job", "-o", job_id], timeout_s=30.0)
    except SlurmError:
        return "", False
    state = re.search(r"JobState=(\S+)", text)
    return (state.group(1) if state else ""), "Requeue=1" in text


def _sacct_keys(name: str) -> list[str]:
    array, underscore, tasks = name.partition("_")
    if not underscore:
        return [name]
    return [f"{array}_{task}" for task in expand_tasks(tasks)]


def _whole(state: str) -> str:
    """Return a state that a narrow column may have cut, as in OUT_OF_ME+."""
    return OUT_OF_MEMORY if state == "OUT_OF_ME+" else state.rstrip("+")


def _ended(state: str, code: str) -> str:
    return state if code in ("", "0:0") else f"{state}, exit code {code}"
