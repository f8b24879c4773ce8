"""Which process is meant, and whether it lives: numbers are given again, births are not."""

import os
import socket
import time
from pathlib import Path

CLOCK_SLACK_S = 5.0  # by how much the wall clock may be set between two looks


def this_host() -> str:
    """Return the name by which heartbeats and attempts call this machine."""
    return socket.gethostname()


def birth(pid: int) -> str | None:
    """Return what no other process ever has: boot id and start in clock ticks since boot.

    None for a process that is gone or a zombie, or where there is no /proc.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"


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


def since_boot() -> float:
    """Return seconds since this machine started; the same for all of its processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _born(ticks: int) -> float:
    """Return unix seconds of a process's birth from its clock ticks since boot."""
    return time.time() - since_boot() + ticks / os.sysconf("SC_CLK_TCK")
