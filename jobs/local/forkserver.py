"""A process that imports the training stack once and forks a ready child for each run.

`python -m jobs.local.forkserver [MODULE]` reads one JSON object a line on stdin: `{"run_yaml",
"log", "env"}`; the child appends its output to `log` and ends with the code of
`MODULE.main([run_yaml])` (default module: scaling.train). On stdout: `{"ready": true, "seconds"}`
once, `{"pid", "run_yaml"}` (or `{"error", "run_yaml"}`) for each request, `{"pid", "code"}` for
each end. When stdin closes, or on SIGTERM, the children get SIGTERM (they save and leave), and the
server ends after the last.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

Main = Callable[[list[str]], int]

POLL_S = 0.1
# Set before the first import of a numeric library: a thread pool does not survive a fork.
SINGLE_THREADED = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # pyarrow's allocator
    "DS_ACCELERATOR": "cpu",
}
TRAINING_STACK = (
    "torch",
    "deepspeed",
    "transformers.models.florence2.modeling_florence2",
    "transformers.models.bart.modeling_bart",
    "scaling.training.attempt",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A run to be started: its run.yaml, where its output goes, what its environment has more."""

    run_yaml: str
    log: str
    env: dict[str, str] = field(default_factory=dict)

    def line(self) -> bytes:
        """Return it as the server reads it."""
        return json.dumps(asdict(self)).encode() + b"\n"


def main(argv: list[str] | None = None) -> int:
    """Serve until stdin closes; return 0."""
    arguments = sys.argv[1:] if argv is None else argv
    replies = _private_stdout()
    began = time.monotonic()
    run = _preload(arguments[0] if arguments else "scaling.train")
    _reply(replies, {"ready": True, "seconds": round(time.monotonic() - began, 2)})
    _serve(run, replies)
    return 0


def _preload(module: str) -> Main:
    os.environ.update(SINGLE_THREADED)
    if module == "scaling.train":
        for name in TRAINING_STACK:
            importlib.import_module(name)
        importlib.import_module("torch").set_num_threads(1)
    run: Main = importlib.import_module(module).main
    threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1
    if threads > 1 or threading.active_count() > 1:
        raise RuntimeError(f"{threads} threads after the imports; a fork would lose their locks")
    gc.collect()
    gc.freeze()  # keeps the collector from touching, and so copying, the shared pages
    return run


def _serve(run: Main, replies: int) -> None:
    children: set[int] = set()
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pending, is_open = b"", True
    while is_open or children:
        if stopping or not is_open:
            is_open = False
            _terminate(children)
        if is_open:
            readable, _, _ = select.select([0], [], [], POLL_S)
            data = os.read(0, 65536) if readable else None
            is_open = data != b""
            *lines, pending = (pending + (data or b"")).split(b"\n")
            for line in lines:
                _start(run, line, children=children, replies=replies)
        else:
            time.sleep(POLL_S)
        _reap(children, replies)


def _start(run: Main, line: bytes, *, children: set[int], replies: int) -> None:
    request = Request(**json.loads(line))
    try:
        pid = os.fork()
    except OSError as error:
        _reply(replies, {"error": str(error), "run_yaml": request.run_yaml})
        return
    if pid == 0:
        os.close(replies)
        os._exit(_child(run, request))
    children.add(pid)
    _reply(replies, {"pid": pid, "run_yaml": request.run_yaml})


def _child(run: Main, request: Request) -> int:
    """Run the training in the forked child; never return into the server's loop by exception."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setsid()
        _redirect(request.log)
        os.environ.update(request.env)
        _own_randomness_and_threads()
        code = _exit_code(run, [request.run_yaml])
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    return code & 0xFF


def _exit_code(run: Main, argv: list[str]) -> int:
    sys.argv = ["scaling.train", *argv]
    try:
        return int(run(argv) or 0)
    except SystemExit as leave:
        if isinstance(leave.code, str):
            print(leave.code, file=sys.stderr)
            return 1
        return leave.code or 0


def _redirect(log: str) -> None:
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    os.close(nothing)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _own_randomness_and_threads() -> None:
    """Give the child what a fresh interpreter would have: its own entropy, its thread count."""
    import random

    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def _terminate(children: set[int]) -> None:
    for pid in list(children):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def _reap(children: set[int], replies: int) -> None:
    for pid in list(children):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            children.discard(pid)
            _reply(replies, {"pid": pid, "code": os.waitstatus_to_exitcode(status)})


def _private_stdout() -> int:
    """Return a descriptor of the real stdout; what imports print goes to stderr instead."""
    replies = os.dup(1)
    os.dup2(2, 1)
    return replies


def _reply(replies: int, message: Mapping[str, bool | int | float | str]) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(replies, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
