"""Attempts: one file for each life of a run, opened by its process, closed by it or by others."""

import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from scaling.runs.files import DamagedFileError, known, read_json, write_json
from scaling.runs.folder import KILLED, Run
from scaling.runs.process import birth, since_boot, this_host


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One life of a run: times in unix s, `start_boot_s` and `seconds` by clocks no one sets.

    `end` and `reason` are None while it goes on; `signal`: the number that killed it; `retried`:
    the failure that it ended in was cleared.
    """

    job_id: str | None = None
    host: str | None = None
    pid: int | None = None
    born: str | None = None
    start: float = 0.0
    start_boot_s: float | None = None
    end: float | None = None
    seconds: float | None = None
    reason: str | None = None
    first_step: int | None = None
    last_step: int | None = None
    gpu_hours: float | None = None
    signal: int | None = None
    retried: bool = False


def read_attempts(run: Run) -> list[Attempt]:
    """Return the attempts of a run, oldest first; a file that cannot be read is left out."""
    return [attempt for path in attempt_files(run) if (attempt := _read_or_none(path))]


def attempt_files(run: Run) -> list[Path]:
    """Return the files of the attempts, oldest first."""
    try:
        names = sorted(name for name in os.listdir(run.attempts) if name[:-5].isdecimal())
    except OSError:
        return []
    return [run.attempts / name for name in names]


def read_attempt(path: Path) -> Attempt:
    """Return what the file of an attempt says; raises DamagedFileError."""
    content = read_json(path, cure="`scaling submit` begins another attempt")
    return known(Attempt, content or {})


def total_gpu_hours(run: Run) -> float | None:
    """Sum the GPU-hours of a run's closed attempts; None where none has ended."""
    hours = [a.gpu_hours for a in read_attempts(run) if a.gpu_hours is not None]
    return float(sum(hours)) if hours else None


def close_attempt(run: Run, *, reason: str, num_gpus: int, signal: int | None = None) -> None:
    """Write the end of an attempt whose process died without writing it; else do nothing."""
    path, attempt = _newest(run)
    if path is None or attempt is None or attempt.end is not None:
        return
    step, seconds = run.heartbeat().step, _seconds_since_start(attempt)
    closed = replace(
        attempt,
        end=time.time(),
        reason=reason,
        last_step=attempt.last_step if step is None else step,
        seconds=seconds,
        gpu_hours=seconds / 3600 * num_gpus,
        signal=signal,
    )
    _write(path, closed)


def clear_failed(run: Run) -> None:
    """Make a failed or cancelled run, or one with a damaged DONE, unfinished again.

    Its attempts keep their reasons, its checkpoints are where it goes on.
    """
    path, attempt = _newest(run)
    if path is not None and attempt is not None and not attempt.retried:
        _write(path, replace(attempt, retried=True))
    run.failed_file.unlink(missing_ok=True)
    try:
        run.done()
    except DamagedFileError:
        run.done_file.unlink(missing_ok=True)


class AttemptFile:
    """attempts/NNNN.json of this process: when and where the run is advanced, and why it stops."""

    def __init__(self, run: Run, *, num_gpus: int = 0) -> None:
        """Take the next number; earlier attempts that were killed are closed first."""
        self._num_gpus, self._began = num_gpus, time.monotonic()
        run.attempts.mkdir(parents=True, exist_ok=True)
        earlier = attempt_files(run)
        for path in earlier:
            _close_killed(run, path, num_gpus)
        self.number = int(earlier[-1].stem) + 1 if earlier else 1
        self._path = run.attempts / f"{self.number:04d}.json"
        self._attempt = Attempt(
            job_id=os.environ.get("SLURM_JOB_ID") or os.environ.get("SCALING_JOB_ID"),
            host=this_host(),
            pid=os.getpid(),
            born=birth(os.getpid()) or "",
            start=time.time(),
            start_boot_s=since_boot(),
        )

    def open(self, first_step: int | None = None) -> None:
        """Write the attempt as running, from `first_step` on; None while it gets ready."""
        self._attempt = replace(self._attempt, first_step=first_step)
        _write(self._path, self._attempt)

    def close(self, *, reason: str, last_step: int) -> None:
        """Write end, reason, the seconds it took (by a clock that no one sets) and GPU-hours."""
        seconds = time.monotonic() - self._began
        self._attempt = replace(
            self._attempt,
            end=time.time(),
            reason=reason,
            last_step=last_step,
            seconds=seconds,
            gpu_hours=seconds / 3600 * self._num_gpus,
        )
        _write(self._path, self._attempt)


def _close_killed(run: Run, path: Path, num_gpus: int) -> None:
    """Close an attempt as of its last heartbeat; without one of its own it took no time."""
    attempt = _read_or_none(path)
    if attempt is None or attempt.end is not None:
        return
    beat = run.heartbeat()
    own = beat.attempt == int(path.stem)
    seconds = (beat.elapsed_s or 0.0) if own else 0.0
    began = attempt.first_step is not None  # before, the heartbeat has no step of its own
    closed = replace(
        attempt,
        end=beat.time if own else attempt.start,
        reason=KILLED,
        last_step=beat.step if own and began else None,
        seconds=seconds,
        gpu_hours=seconds / 3600 * num_gpus,
    )
    _write(path, closed)


def _newest(run: Run) -> tuple[Path | None, Attempt | None]:
    files = attempt_files(run)
    return (files[-1], _read_or_none(files[-1])) if files else (None, None)


def _read_or_none(path: Path) -> Attempt | None:
    try:
        return read_attempt(path)
    except (DamagedFileError, OSError):
        return None


def _write(path: Path, attempt: Attempt) -> None:
    content = asdict(attempt)
    for name in ("signal", "retried"):  # said only where they are something
        if not content[name]:
            del content[name]
    write_json(path, content)


def _seconds_since_start(attempt: Attempt) -> float:
    """Return an attempt's age: by the boot clock where it began on this boot of this machine."""
    here, born = birth(os.getpid()), attempt.born or ""
    same_boot = here and born.partition("/")[0] == here.partition("/")[0]
    if same_boot and attempt.start_boot_s is not None:
        return since_boot() - attempt.start_boot_s
    return max(0.0, time.time() - (attempt.start or time.time()))
