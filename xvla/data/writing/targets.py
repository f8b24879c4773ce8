"""Where new files may be written: nothing is there yet, and no file stands in the way."""

from pathlib import Path


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
