"""The queue files of local executors: which runs each has, as long as it lives."""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scaling.runs.files import read_json_or_none, write_json
from scaling.runs.process import birth, process_alive, this_host
from scaling.runs.state import Hold

NAME = "local"
# An executor elsewhere rewrites its file this often at least, so an older file is abandoned.
REFRESH_S = 10.0
ABANDONED_S = 120.0


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
        content = read_json_or_none(path)
        if path == but or content is None or not _executor_alive(content):
            continue
        waiting = Hold(executor=NAME, state="queued")
        found |= dict.fromkeys(content.get("waiting", []), waiting)
        for run_id, pid in content.get("active", {}).items():
            found[run_id] = Hold(executor=NAME, state="running", pid=pid)
    return found


def write_queue(
    path: Path, waiting: Iterable[str], *, active: dict[str, int] | None = None, pid: int = 0
) -> None:
    """Publish what an executor has."""
    content = {
        "pid": pid or os.getpid(),
        "host": this_host(),
        "born": birth(pid or os.getpid()),
        "time": time.time(),
        "waiting": list(waiting),
        "active": active or {},
    }
    write_json(path, content)


def forget_dead(runs_dir: str | Path) -> None:
    """Remove the queue files of executors that have died; call it under `jobs.queue.claiming`."""
    for path in _queue_folder(runs_dir).glob("*.json"):
        content = read_json_or_none(path)
        if content is not None and not _executor_alive(content):
            path.unlink(missing_ok=True)


def _queue_folder(runs_dir: str | Path) -> Path:
    return local_folder(runs_dir) / "queue"


def _executor_alive(content: dict[str, Any]) -> bool:
    written = float(content.get("time") or 0)
    if content.get("host") == this_host():
        return process_alive(content.get("pid"), seen_at=written, born=content.get("born"))
    return time.time() - written < ABANDONED_S
