"""`python -m scaling.train runs/<id>/run.yaml [key=value ...]`: advance one run to its end."""

import fcntl
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from scaling.config import with_overrides
from scaling.memory import explain_out_of_memory
from scaling.messages import print_messages
from scaling.runs.folder import Run
from scaling.spec import RunSpec, load_spec
from scaling.training.checkpoint import is_disk_full
from scaling.training.engine import prepare_environment

EXIT_DONE, EXIT_FAILED, EXIT_USER, EXIT_STOPPED = 0, 1, 2, 85


def main(argv: list[str] | None = None) -> int:
    """Train the run and return 0 done, 1 failed, 2 user's mistake, 85 stopped and resumable."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return EXIT_DONE if arguments else _complain("no run.yaml given")
    print_messages(logging.INFO)  # to train.log: which kernel runs, what a resume did
    try:
        run = Run(Path(arguments[0]).resolve().parent)
        run.check_spec()
        spec = _with_engine(load_spec(arguments[0]), arguments[1:])
        with _owned(run):
            return _advance(spec, run)
    except ValueError as error:
        return _complain(str(error))


def _with_engine(declared: RunSpec, overrides: list[str]) -> RunSpec:
    """Return the spec with engine overrides; another science belongs into another folder."""
    spec = with_overrides(declared, overrides).validate()
    if spec.run_id != declared.run_id:
        raise ValueError(
            f"{' '.join(overrides)} changes what run {declared.run_id} is; here only engine.* and "
            "resources.* may change: give other values to `scaling submit STUDY`"
        )
    return spec


def _advance(spec: RunSpec, run: Run) -> int:
    if run.done():
        print(f"run {spec.run_id} is done; nothing to do")
        return EXIT_DONE
    prepare_environment(spec)
    stop = _StopFlag()
    try:
        from scaling.training.attempt import advance

        finished = advance(spec, run, stop.requested)
    except ValueError as error:
        if run.attempts.exists():  # else nothing was written, and nothing is
            _fail(run, str(error))
        raise
    except Exception as error:
        memory = explain_out_of_memory(error, spec)
        reason = memory or _one_line(error, run)
        _fail(run, reason)
        if os.environ.get("SCALING_DEBUG") or not (memory or _is_expected(error)):
            traceback.print_exc()
        else:
            print(f"error: {reason}", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_DONE if finished else EXIT_STOPPED


@contextmanager
def _owned(run: Run) -> Iterator[None]:
    """Hold the run's lock on rank 0; a second process on the same run is a user's mistake."""
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    lock = run.lock_file
    is_new = not lock.exists()
    with _opened(lock) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"run folder {run.folder} is in use by another process; wait for it or use "
                "`scaling cancel`"
            ) from None
        try:
            yield
        except ValueError:
            if is_new:  # a user's mistake leaves the folder as it was
                lock.unlink(missing_ok=True)
            raise


def _opened(lock: Path) -> IO[str]:
    try:
        return open(lock, "a")
    except OSError as error:
        raise ValueError(
            f"cannot write into run folder {lock.parent} ({error.strerror}): it may be "
            "read-only or another user's; name one you may write to with --runs"
        ) from None


class _StopFlag:
    """Set by SIGTERM, Ctrl-C and SIGUSR1 (Slurm's warning); read by the loop after each step."""

    def __init__(self) -> None:
        self._set = False
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        self._set = True

    def requested(self) -> bool:
        return self._set


def _fail(run: Run, reason: str) -> None:
    if os.environ.get("RANK", "0") != "0":
        return
    with suppress(OSError):  # on a full disk the executor's own record has to do
        run.write_failed(reason)


def _is_expected(error: Exception) -> bool:
    """Disk full and a diverged loss need no traceback."""
    return is_disk_full(error) or type(error).__name__ == "NonFiniteLossError"


def _one_line(error: Exception, run: Run) -> str:
    if is_disk_full(error):
        where = getattr(error, "filename", None) or run.folder
        return f"disk full while writing {where}; free space and submit again, the run resumes"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _complain(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return EXIT_USER


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.exit(code)
