"""Where new files may be written, and how: aside first, under their name when they are whole."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def check_new(target: Path) -> None:
    """Raise ValueError unless a folder can be made at `target`: nothing there, no file above it."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} already exists; give another path or remove it first")
    check_folder(target.parent)


def check_folder(folder: Path) -> None:
    """Raise ValueError when `folder`, or what it would lie in, is a file."""
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise ValueError(f"{place} is a file, not a folder; give another path")


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a binary file that takes its name when the block ends well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield a fresh folder that takes the name of `target` when the block ends well."""
    check_new(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    root = target.parent / f".{target.name}.tmp{os.getpid()}"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    try:
        yield root
        put_in_place(root, target)
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise


def put_in_place(root: Path, target: Path) -> None:
    """Give the folder `root` the name of `target`, which may be an empty folder."""
    if target.exists():
        target.rmdir()
    root.rename(target)
