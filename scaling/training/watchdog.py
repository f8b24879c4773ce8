"""Ends a rank that makes no progress, with the stacks of all its threads in the log."""

import faulthandler
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable

import torch.distributed as dist


class Watchdog:
    """Calls for `touch` every so often; counts on the monotonic clock, which no one can set.

    All ranks touch at the same steps, so that when one hangs the others, which wait for it, end
    with it and their stacks say where each stood.
    """

    def __init__(self, timeout_s: float, on_hang: Callable[[str], None]) -> None:
        """Start counting; 0 means never. `on_hang(reason)` is called before the process ends."""
        self.timeout_s, self._on_hang = timeout_s, on_hang
        self._stopped = threading.Event()
        self.touch("start")
        if timeout_s:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def touch(self, where: str) -> None:
        """Say that progress was made; `where` names the place in the message."""
        self._where = where
        self._last = time.monotonic()

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(min(5.0, self.timeout_s / 10)):
            if time.monotonic() - self._last > self.timeout_s:
                self._end()

    def _end(self) -> None:
        """Print the stacks and leave at once: a hung thread cannot be unwound."""
        reason = (
            f"no progress for {self.timeout_s:g} s after {self._where} (engine.hang_timeout_s); "
            "the log has the stack of every rank"
        )
        host = socket.gethostname()
        _to_stderr(f"hang: {host} (pid {os.getpid()}): {reason}\n{_stacks()}")
        try:
            self._on_hang(reason)
        finally:
            os._exit(1)


def _stacks() -> str:
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()


def _to_stderr(text: str) -> None:
    """Write line by line, each with its rank: several ranks share one log and hang together."""
    for line in text.splitlines():
        os.write(2, f"[rank{dist.get_rank()}]: {line}\n".encode())
