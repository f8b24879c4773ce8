"""Stop signals: collected here instead of dying of them, sent on to the runs."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def send(pid: int, number: int) -> None:
    """Send a signal to a process that may have ended already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect stop signals in a list instead of dying of them (only in the main thread)."""
    stops: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield stops
        return
    before = {
        number: signal.signal(number, lambda received, _: stops.append(received))
        for number in STOP_SIGNALS
    }
    try:
        yield stops
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
