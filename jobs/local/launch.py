"""Starts the process of one run on this machine: a fork of the preloaded server, or a command."""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.local.forkserver import Request
from jobs.local.queue import local_folder
from scaling.runs.process import process_alive
from scaling.spec import RunSpec

Command = Callable[[RunSpec, Path], list[str]]
READY_TIMEOUT_S = 180.0
Message = dict[str, bool | int | float | str]  # what the fork server says, see there
LOST = -9  # stands for the code of a child whose server died before telling it


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A started process: `poll()` returns None while it runs, then its exit code."""

    pid: int
    poll: Callable[[], int | None]


def train_command(spec: RunSpec, run_yaml: Path) -> list[str]:
    """Return the command that trains a run on this machine, under torchrun for several ranks."""
    train = ["scaling.train", str(run_yaml)]
    if spec.resources.world_size == 1:
        return [sys.executable, "-m", *train]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, "--nproc-per-node", str(spec.resources.world_size), "-m", *train]


def child_environment(spec: RunSpec, slots: Sequence[int]) -> dict[str, str]:
    """Return what a run's environment has beyond ours: CPU threads a rank, or its GPUs.

    A slot is a CPU rank's place, or the index of a GPU.
    """
    threads = str(max(1, spec.engine.threads))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = dict.fromkeys(names, threads) | {"PYTHONUNBUFFERED": "1"}
    if spec.resources.gpus_per_node:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(str(slot) for slot in slots)
    else:
        environment["DS_ACCELERATOR"] = "cpu"
    return environment


def local_slots(specs: Sequence[RunSpec], parallel: int) -> list[int]:
    """Return the slots of this machine: `parallel` CPU places, or GPU indices where runs ask.

    Raises ValueError for a run that asks for several nodes, or for more GPUs than there are.
    """
    if parallel < 1:
        raise ValueError(f"parallel={parallel}; give at least 1")
    gpus = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    most = 0
    for spec in specs:
        asked = spec.resources
        if asked.nodes > 1 or asked.gpus_per_node > gpus:
            raise ValueError(
                f"run {spec.run_id} asks for {asked.nodes} node(s) with {asked.gpus_per_node} "
                f"GPU(s) each, this machine has {gpus} GPU(s); choose scale=cpu or a cluster"
            )
        most = max(most, asked.gpus_per_node)
    return list(range(min(max(parallel, most), gpus) if most else parallel))


def start_command(command: Sequence[str], log: Path, environment: dict[str, str]) -> Child:
    """Start a command in its own session, its output appended to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as stream:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            start_new_session=True,
        )
    return Child(pid=process.pid, poll=process.poll)


class ForkServer:
    """The executor's end of `python -m jobs.local.forkserver`."""

    def __init__(self, runs_dir: str | Path, *, module: str = "scaling.train") -> None:
        """Start the server and wait until it has imported the training stack.

        Raises RuntimeError when it ends or stays silent instead.
        """
        self.log = local_folder(runs_dir) / "forkserver.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "wb") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jobs.local.forkserver", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,
            )
        self._pending = b""
        self._codes: dict[int, int] = {}
        if not self._wait(lambda message: "ready" in message, timeout_s=READY_TIMEOUT_S):
            self.close()
            raise RuntimeError(f"the fork server did not start; see {self.log}")

    def start(self, run_yaml: Path, log: Path, environment: dict[str, str]) -> Child:
        """Fork a child for a run; raises RuntimeError when the server is gone."""
        request = Request(run_yaml=str(run_yaml), log=str(log), env=environment)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(request.line())
            self._process.stdin.flush()
        except OSError as error:
            raise RuntimeError(f"the fork server is gone ({error}); see {self.log}") from None
        answer = self._wait(lambda message: "run_yaml" in message, timeout_s=30)
        if not answer or "pid" not in answer:
            why = (answer or {}).get("error", "no answer")
            raise RuntimeError(f"the fork server could not fork ({why}); see {self.log}")
        pid = int(answer["pid"])
        return Child(pid=pid, poll=lambda: self._poll(pid))

    def close(self) -> None:
        """End the server; children still running are asked to save and leave."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.terminate()
        self._process.wait()
        self._process.stdout.close()

    def _poll(self, pid: int) -> int | None:
        while self._read(timeout_s=0):
            pass
        if pid in self._codes:
            return self._codes.pop(pid)
        lost = self._process.poll() is not None and not process_alive(pid)
        return LOST if lost else None

    def _wait(self, wanted: Callable[[Message], bool], *, timeout_s: float) -> Message | None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            message = self._read(timeout_s=0.2)
            if message and wanted(message):
                return message
            if not message and self._process.poll() is not None:
                return None
        return None

    def _read(self, *, timeout_s: float) -> Message | None:
        """Return the next message, or None; ends of children are noted on the way."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        if b"\n" not in self._pending and select.select([descriptor], [], [], timeout_s)[0]:
            self._pending += os.read(descriptor, 65536)
        line, newline, rest = self._pending.partition(b"\n")
        if not newline:
            return None
        self._pending = rest
        message: Message = json.loads(line)
        if "code" in message:
            self._codes[int(message["pid"])] = int(message["code"])
        return message
