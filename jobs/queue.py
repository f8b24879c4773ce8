"""Which runs are in other hands: the local executors' queue files, and Slurm's queue."""

import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.slurm.commands import Job
from jobs.slurm.queue import read_slurm
from scaling.runs.folder import birth, local_folder, process_alive, read_json, this_host, write_json

# An executor elsewhere rewrites its file this often at least, so an older file is abandoned.
REFRESH_S = 10.0
ABANDONED_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """Runs in other hands.

    Local executors: those waiting, and the process of each started one. `jobs`: the newest Slurm
    job of a run, waiting, live or ended, as known at `jobs_time` (unix s).
    """

    waiting: frozenset[str] = frozenset()
    active: dict[str, int] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    jobs_time: float = 0.0

    def __contains__(self, run_id: str) -> bool:
        return run_id in self.waiting or run_id in self.active


def read_queues(runs_dir: str | Path, *, but: Path | None = None, fresh: bool = False) -> Queued:
    """Return what is in other hands over `runs_dir`, leaving out the queue file `but`.

    `fresh`: ask Slurm now instead of using an answer of the last half minute; raises SlurmError
    where it does not answer.
    """
    waiting: set[str] = set()
    active: dict[str, int] = {}
    for path in _queue_folder(runs_dir).glob("*.json"):
        content = read_json(path)
        if path == but or content is None or not _executor_alive(content):
            continue
        waiting.update(content.get("waiting", []))
        active.update(content.get("active", {}))
    jobs, jobs_time = read_slurm(runs_dir, fresh=fresh)
    return Queued(waiting=frozenset(waiting), active=active, jobs=jobs, jobs_time=jobs_time)


def queue_path(runs_dir: str | Path, pid: int | None = None) -> Path:
    """Return the queue file of the executor with this process id (default: this process)."""
    return _queue_folder(runs_dir) / f"{this_host()}-{pid or os.getpid()}.json"


def write_queue(
    path: Path, waiting: Iterable[str], *, active: dict[str, int] | None = None, pid: int = 0
) -> None:
    """Publish what an executor holds."""
    content = {
        "pid": pid or os.getpid(),
        "host": this_host(),
        "born": birth(pid or os.getpid()),
        "time": time.time(),
        "waiting": list(waiting),
        "active": active or {},
    }
    write_json(path, content)


@contextmanager
def claiming(runs_dir: str | Path) -> Iterator[None]:
    """Hold the lock under which executors divide the runs among themselves."""
    folder = _queue_folder(runs_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        for path in folder.glob("*.json"):
            content = read_json(path)
            if content is not None and not _executor_alive(content):
                path.unlink(missing_ok=True)
        yield


def _queue_folder(runs_dir: str | Path) -> Path:
    return local_folder(runs_dir) / "queue"


def _executor_alive(content: dict[str, Any]) -> bool:
    written = float(content.get("time") or 0)
    if content.get("host") == this_host():
        return process_alive(content.get("pid"), seen_at=written, born=content.get("born"))
    return time.time() - written < ABANDONED_S
