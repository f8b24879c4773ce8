"""Paths that a dataset's own files name: filled in, and kept inside the dataset's folder."""

import os
from pathlib import Path
from typing import Any

from xvla.data.readers.base import fail


def inside(
    root: Path, name: str, *, file: str, field: str, episode: int | None = None, allowed: str = ""
) -> Path:
    """Return the path `name` (relative to `root`, or absolute); `file` and `field` said it.

    Only the spelling counts: links inside the folder may point anywhere.

    Raises:
        DatasetError: the path leaves the folder.
    """
    base = os.path.abspath(root)
    path = os.path.abspath(os.path.join(base, name))
    if "\0" in name or not path.startswith(base + os.sep):
        message = f"{name!r} is a path outside the dataset's folder {base}"
        message += f"; {allowed}" if allowed else "; copy the dataset again"
        fail(root, file, field, message, episode)
    return Path(path)


def fill(root: Path, info: dict[str, Any], key: str, default: str, **values: Any) -> Path:
    """Return the file that the template `key` of meta/info.json names for these values."""
    template = info.get(key, default)
    try:
        name = str(template).format(**values)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError):
        message = f"{template!r} cannot be filled in; it may use {', '.join(values)}, as {default}"
        fail(root, "meta/info.json", key, message)
    return inside(root, name, file="meta/info.json", field=key)
