"""The files of one run folder as the executor sees them: markers, heartbeat, attempts, log."""

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from scaling.config import write_atomic

DONE, FAILED = "DONE", "FAILED"
CANCELLED = "cancelled"
KILLED = "killed"
CLOCK_SLACK_S = 5.0


def run_folder(runs_dir: str | Path, run_id: str) -> Path:
    """Return the folder of a run, whether it exists or not."""
    return Path(runs_dir) / run_id


def local_folder(runs_dir: str | Path) -> Path:
    """Return the folder of the local executor's own files (queues, logs)."""
    return Path(runs_dir) / "_local"


def read_json(path: str | Path) -> dict[str, Any] | None:
    """Return a JSON object, or None where the file is absent, half-written or not an object."""
    try:
        with open(path, encoding="utf-8") as stream:
            value = json.load(stream)
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def write_json(path: str | Path, value: dict[str, Any]) -> None:
    """Write a JSON object so that a reader never sees half of it."""
    write_atomic(path, json.dumps(value, indent=2) + "\n")


def last_attempt(run_dir: str | Path) -> tuple[int, Path | None]:
    """Return how many attempts a run has had, and the file of the newest."""
    try:
        names = [n for n in os.listdir(f"{run_dir}/attempts") if n[:-5].isdigit()]
    except OSError:
        return 0, None
    if not names:
        return 0, None
    return len(names), Path(run_dir) / "attempts" / max(names)


def close_attempt(run_dir: Path, *, reason: str, num_gpus: int, **more: Any) -> None:
    """Write the end of an attempt whose process died without writing it; else do nothing."""
    _, path = last_attempt(run_dir)
    attempt = read_json(path) if path else None
    if path is None or attempt is None or attempt.get("end") is not None:
        return
    heartbeat = read_json(run_dir / "heartbeat.json") or {}
    seconds = _seconds_since_start(attempt)
    attempt |= {
        "end": time.time(),
        "reason": reason,
        "last_step": heartbeat.get("step", attempt.get("last_step")),
        "seconds": seconds,
        "gpu_hours": seconds / 3600 * num_gpus,
        **more,
    }
    write_json(path, attempt)


def _seconds_since_start(attempt: dict[str, Any]) -> float:
    """Return an attempt's age: by the boot clock where it began on this boot of this machine."""
    here, born = birth(os.getpid()), str(attempt.get("born") or "")
    if here and born.partition("/")[0] == here.partition("/")[0]:
        return _since_boot() - float(attempt["start_boot_s"])
    return max(0.0, time.time() - float(attempt.get("start") or time.time()))


def write_failed(run_dir: Path, reason: str) -> None:
    """Write the FAILED marker with the last step known."""
    heartbeat = read_json(run_dir / "heartbeat.json") or {}
    write_json(
        run_dir / FAILED, {"reason": reason, "step": heartbeat.get("step"), "time": time.time()}
    )


def clear_failed(run_dir: Path) -> None:
    """Make a failed or cancelled run unfinished again; its attempts keep their reasons."""
    _, path = last_attempt(run_dir)
    attempt = read_json(path) if path else None
    if path is not None and attempt is not None and not attempt.get("retried"):
        write_json(path, attempt | {"retried": True})
    (run_dir / FAILED).unlink(missing_ok=True)


def last_line(log: Path, *, start: int = 0) -> str:
    """Return the last non-empty line of a log from byte `start` on, or ""."""
    try:
        size = log.stat().st_size
        with open(log, "rb") as stream:
            stream.seek(max(start, size - 8192))
            text = stream.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def this_host() -> str:
    """Return the name by which heartbeats and attempts call this machine."""
    return socket.gethostname()


def process_alive(
    pid: int | None, *, seen_at: float | None = None, born: str | None = None
) -> bool:
    """Return whether `pid` runs on this machine and is not a zombie.

    `born` (the `birth` of the process meant) or, where it was not noted, `seen_at` (unix
    s): a time at which it was known to live. Another process that was given the number (after a
    reboot, for instance) does not count. Only `born` holds when the clock is set.
    """
    if not pid or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    if not os.path.isdir("/proc/self"):  # the signal's answer has to do
        return True
    found = birth(pid)
    if found is None or (seen_at is None and not born):
        return found is not None
    if born:
        return found == born
    assert seen_at is not None
    return _born(int(found.partition("/")[2])) <= seen_at + CLOCK_SLACK_S


def birth(pid: int) -> str | None:
    """Return what no other process ever has: boot id and start in clock ticks since boot.

    None for a process that is gone or a zombie. Attempts and heartbeats say it of their own.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"


def _since_boot() -> float:
    """Return seconds since this machine started; the same for all of its processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _born(ticks: int) -> float:
    """Return unix seconds of a process's birth from its clock ticks since boot."""
    return time.time() - _since_boot() + ticks / os.sysconf("SC_CLK_TCK")
