"""Trainers forked from one preloaded process inside Slurm's steps: imports cost more than runs."""

import contextlib
import json
import os
import select
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs.local.launch import Child, ForkServer
from jobs.local.signals import send
from scaling.runs.process import process_alive

CLIENT = Path(__file__).with_name("preloaded_client.py")
POLL_S = 0.05


@dataclass(slots=True, kw_only=True)
class _Step:
    """A client in a Slurm step and, once it has asked, its trainer."""

    stream: socket.socket
    said: bytes = b""
    child: Child | None = None


@contextlib.contextmanager
def preloaded_python(folder: Path) -> Iterator[str]:
    """Serve trainers; yield what stands for sys.executable in batch scripts meanwhile.

    For `-m scaling.train RUN_YAML` it becomes preloaded_client.py, for all else it is Python.
    """
    address, python = folder / "preloaded.socket", folder / "python"
    words = shlex.join([sys.executable, "-I", "-S", str(CLIENT), str(address)])
    python.write_text(
        f'#!/bin/bash\n[ "$1 $2" = "-m scaling.train" ] && exec {words} "$3"\n'
        f'exec {shlex.quote(sys.executable)} "$@"\n'
    )
    python.chmod(0o755)
    stop, listener = threading.Event(), socket.socket(socket.AF_UNIX)
    listener.bind(str(address))
    listener.listen(64)
    server = ForkServer(folder)
    thread = threading.Thread(target=_serve, args=(server, listener, stop))
    thread.start()
    try:
        yield str(python)
    finally:
        stop.set()
        thread.join()
        listener.close()
        server.close()


def _serve(server: ForkServer, listener: socket.socket, stop: threading.Event) -> None:
    steps: list[_Step] = []
    while not stop.is_set():
        readable, _, _ = select.select([listener, *(s.stream for s in steps)], [], [], POLL_S)
        if listener in readable:
            steps.append(_Step(stream=listener.accept()[0]))
        for step in [step for step in steps if step.stream in readable]:
            if not _listen(step, server):
                steps.remove(step)
        for step in [step for step in steps if _ended(step)]:
            steps.remove(step)


def _listen(step: _Step, server: ForkServer) -> bool:
    """Take what a client says: its request first, then signals; False when it is gone."""
    data = step.stream.recv(1 << 20)
    if not data:  # Slurm killed the step
        if step.child is not None:
            send(step.child.pid, signal.SIGKILL)
        step.stream.close()
        return False
    *lines, step.said = (step.said + data).split(b"\n")
    for line in lines:
        if step.child is None:
            request = json.loads(line)
            run_yaml = Path(request["run_yaml"])
            log = run_yaml.with_name("train.log")
            step.child = server.start(run_yaml, log, request["env"])
        elif process_alive(step.child.pid):
            os.kill(step.child.pid, int(line))
    return True


def _ended(step: _Step) -> bool:
    """Return whether a trainer has ended, after telling its client how."""
    code = step.child.poll() if step.child is not None else None
    if code is None:
        return False
    with contextlib.suppress(OSError):
        step.stream.sendall(b"%d\n" % code)
    step.stream.close()
    return True
