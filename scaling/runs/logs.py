"""What processes printed: the ends of log files."""

from pathlib import Path

LAST_BYTES = 8192  # in which the last line is looked for


def last_line(log: Path, *, start: int = 0) -> str:
    """Return the last non-empty line of a log from byte `start` on, or ""."""
    lines = [line.strip() for line in tail(log, start, most=LAST_BYTES).splitlines()]
    return next((line for line in reversed(lines) if line), "")


def tail(log: Path, start: int, *, most: int = 65536) -> str:
    """Return what a log says from byte `start` on, its last `most` bytes; "" without one."""
    try:
        with open(log, "rb") as stream:
            stream.seek(max(start, size_of(log) - most))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""


def size_of(path: Path) -> int:
    """Return the bytes of a file, 0 without one."""
    return path.stat().st_size if path.exists() else 0
