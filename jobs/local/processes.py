"""Stops processes of runs on this host: they save and leave."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from jobs.local.queue import read_queues
from scaling.runs.folder import CANCELLED, Run
from scaling.runs.process import process_alive, this_host
from scaling.runs.state import RunStatus

LOOK_EVERY_S = 0.1


def stop_processes(before: Sequence[RunStatus], runs_dir: Path, *, wait_s: float) -> dict[str, str]:
    """Signal the processes of runs, wait up to `wait_s` in all; return what was done, by run id."""
    signalled: dict[str, int] = {}
    actions: dict[str, str] = {}
    for status in before:
        action, pid = _signal(status, runs_dir)
        actions[status.run_id] = action
        if pid is not None:
            signalled[status.run_id] = pid
    deadline = time.monotonic() + wait_s
    for run_id, pid in signalled.items():
        actions[run_id] = _await_end(Run.of(runs_dir, run_id), pid, deadline)
    return actions


def _signal(status: RunStatus, runs_dir: Path) -> tuple[str, int | None]:
    """Return what was done about a run and, where it was signalled, its process."""
    run, pid = Run.of(runs_dir, status.run_id), status.pid
    if status.state == "queued":
        hold = read_queues(runs_dir).get(status.run_id)
        pid = hold.pid if hold else None
        if pid is None:  # else it started in this very moment
            return "removed from the queue", None
    elif status.host != this_host() or not pid:
        return f"not reachable: cancel it on host {status.host}", None
    # Mark first, then signal: an executor that sees the end must find the reason already.
    run.write_failed(CANCELLED)
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return "stopped", None
    except PermissionError:
        run.failed_file.unlink(missing_ok=True)
        return f"not allowed: process {pid} is another user's", None
    return "stopping", pid


def _await_end(run: Run, pid: int, deadline: float) -> str:
    """Wait for a signalled process, then make sure that the marker says how it ended."""
    while process_alive(pid) and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY_S)
    if run.done_file.exists():
        run.failed_file.unlink(missing_ok=True)
        return "finished meanwhile"
    if not run.failed_file.exists():  # a run that was just starting clears old markers
        run.write_failed(CANCELLED)
    return "stopping" if process_alive(pid) else "stopped"
