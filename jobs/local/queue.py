"""The queue files of local executors: which runs each has, as long as it lives."""

import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from scaling.runs.files import known, read_json_or_none, write_json
from scaling.runs.process import birth, process_alive, this_host
from scaling.runs.state import Hold

NAME = "local"
# An executor elsewhere rewrites its file this often at least, so an older file is abandoned.
REFRESH_S = 10.0
ABANDONED_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Queue:
    """The content of a queue file: the executor, when it wrote (unix s), and which runs it has."""

    pid: int | None = None
    host: str | None = None
    born: str | None = None
    time: float = 0.0
    waiting: list[str] = field(default_factory=list)
    active: dict[str, int] = field(default_factory=dict)

    def is_alive(self) -> bool:
        """Return whether the executor lives: elsewhere, whether it wrote lately."""
        if self.host == this_host():
            return process_alive(self.pid, seen_at=self.time, born=self.born)
        return time.time() - self.time < ABANDONED_S


def local_folder(runs_dir: str | Path) -> Path:
    """Return the folder of the local executors' own files: queues, logs, requests."""
    return Path(runs_dir) / "_local"


def queue_path(runs_dir: str | Path, pid: int | None = None) -> Path:
    """Return the queue file of the executor with this process id (default: this process)."""
    return _queue_folder(runs_dir) / f"{this_host()}-{pid or os.getpid()}.json"


def read_queues(runs_dir: str | Path, *, but: Path | None = None) -> dict[str, Hold]:
    """Return what living executors have: runs that wait, and the process of each started one."""
    found: dict[str, Hold] = {}
    for path in _queue_folder(runs_dir).glob("*.json"):
        queue = _read(path)
        if path == but or queue is None or not queue.is_alive():
            continue
        found |= dict.fromkeys(queue.waiting, Hold(executor=NAME, state="queued"))
        for run_id, pid in queue.active.items():
            found[run_id] = Hold(executor=NAME, state="running", pid=pid)
    return found


def write_queue(
    path: Path, waiting: Iterable[str], *, active: dict[str, int] | None = None, pid: int = 0
) -> None:
    """Publish what an executor has."""
    queue = _Queue(
        pid=pid or os.getpid(),
        host=this_host(),
        born=birth(pid or os.getpid()),
        time=time.time(),
        waiting=list(waiting),
        active=active or {},
    )
    write_json(path, asdict(queue))


def forget_dead(runs_dir: str | Path) -> None:
    """Remove the queue files of executors that have died; call it under `submission_lock`."""
    for path in _queue_folder(runs_dir).glob("*.json"):
        queue = _read(path)
        if queue is not None and not queue.is_alive():
            path.unlink(missing_ok=True)


def _queue_folder(runs_dir: str | Path) -> Path:
    return local_folder(runs_dir) / "queue"


def _read(path: Path) -> _Queue | None:
    content = read_json_or_none(path)
    return None if content is None else known(_Queue, content)
