"""Which runs are in other hands, and the lock under which they are divided."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.executor import EXECUTORS
from scaling.runs.state import Hold


def read_held(
    runs_dir: str | Path, *, fresh: bool = False, but: Path | None = None
) -> dict[str, Hold]:
    """Return what all executors have, or had, over a folder of runs, by run id.

    What an executor still has counts for more than what another saw end. `fresh`, `but`: as an
    executor's `held` takes them.
    """
    found: dict[str, Hold] = {}
    for make in EXECUTORS.values():
        for run_id, hold in make().held(Path(runs_dir), fresh=fresh, but=but).items():
            if hold.is_live or run_id not in found:
                found[run_id] = hold
    return found


@contextmanager
def submission_lock(runs_dir: str | Path) -> Iterator[None]:
    """Hold the lock under which submissions of all kinds divide the runs among themselves."""
    folder = Path(runs_dir) / "_local" / "queue"  # where version 0.1 has it, which may run beside
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
