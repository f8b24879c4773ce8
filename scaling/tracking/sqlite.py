"""MLflow's SQLite file: made whole or not at all, written by one program, without endless waits."""

import fcntl
import gc
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

SQLITE = "sqlite:///"
MAGIC = b"SQLite format 3\0"
MOUNTS = Path("/proc/self/mounts")
# File systems of one machine: SQLite's write-ahead log needs memory that its programs share.
LOCAL_DISKS = {"btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs"}


def database_path(tracking_uri: str) -> Path | None:
    """Return the absolute path of a SQLite store, or None for another kind of store."""
    if not tracking_uri.startswith(SQLITE):
        return None
    return Path(tracking_uri.removeprefix(SQLITE)).resolve()


def is_database(path: Path) -> bool:
    """Return whether a file is empty or begins as SQLite's do."""
    try:
        with open(path, "rb") as stream:
            return stream.read(len(MAGIC)) in (b"", MAGIC)
    except OSError:
        return False


def create_database(path: Path) -> None:
    """Make a database under another name, so that a kill leaves none or a whole one."""
    from mlflow import MlflowClient

    new = path.with_name(f".{path.name}.new")
    for part in (new, new.with_name(f"{new.name}-journal")):
        part.unlink(missing_ok=True)
    uri = f"{SQLITE}{new}"
    with _closed_afterwards():
        MlflowClient(uri, registry_uri=uri).search_experiments(max_results=1)
    new.replace(path)


@cache
def commit_quickly() -> None:
    """Let SQLite wait for the disk once a commit instead of three times, in this process only.

    A killed process loses nothing by it, and after a power cut the runs are published again from
    their folders.
    """
    from sqlalchemy import Engine, event

    @event.listens_for(Engine, "connect")
    def set_mode(connection: Any, _: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = NORMAL")


@contextmanager
def many_writes(tracking_uri: str) -> Iterator[None]:
    """Write many runs: a SQLite file on a local disk keeps a log of its commits meanwhile.

    A commit then costs 0.4 ms instead of a wait for the disk. Afterwards the database is one file
    again; where another program has it open, or this one was killed, the next call sees to it.
    """
    gc.freeze()  # MLflow's million imported objects: not to be looked through again and again
    path = database_path(tracking_uri)
    try:
        if path is None or not _on_local_disk(path):
            yield
            return
        _set_journal(path, "WAL")
        try:
            with _closed_afterwards():
                yield
        finally:
            _set_journal(path, "DELETE")
    finally:
        gc.unfreeze()


@contextmanager
def locked(path: Path, *, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold an exclusive lock file; `on_wait` is called where another process holds it."""
    with open(path, "a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextmanager
def _closed_afterwards() -> Iterator[None]:
    """Close the idle connections, which SQLAlchemy keeps, of the engines used meanwhile."""
    from sqlalchemy import Engine, event

    used: set[Any] = set()

    def note(connection: Any) -> None:
        used.add(connection.engine)

    event.listen(Engine, "engine_connect", note)
    try:
        yield
    finally:
        event.remove(Engine, "engine_connect", note)
        for engine in used:
            engine.dispose()


def _set_journal(path: Path, mode: str) -> None:
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(path, timeout=1)) as database:
        database.execute(f"PRAGMA journal_mode = {mode}")


def _on_local_disk(path: Path) -> bool:
    """Return whether a file's folder is on a disk of this machine, as far as Linux tells."""
    try:
        rows = [line.split() for line in MOUNTS.read_text().splitlines()]
    except OSError:
        return False
    kinds = {row[1]: row[2] for row in rows}
    return next((kinds[str(up)] in LOCAL_DISKS for up in path.parents if str(up) in kinds), False)
