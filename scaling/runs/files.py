"""How small files are read and written: whole or not at all, and damage is named.

The one policy for every file of a run (docs/runs.md has it as a table):

* absent        None: the reader says what that means.
* empty, torn, not UTF-8, no object, a needed key missing
                DamagedFileError, one line: the file, what is wrong, what to do.
* a line of a log that is no whole object
                left out; the last one may be under way.

Files are written aside and renamed, so damage comes from outside: a full disk, a power cut, an
editor. Whoever lists many runs goes on with the others and shows the line as the run's reason.
"""

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from scaling.config import write_atomic

T = TypeVar("T")
SUBMIT_AGAIN = "`scaling submit` takes the run up again from its newest checkpoint"


class DamagedFileError(ValueError):
    """A file is there and cannot be what it should be; the message is the whole story."""


def read_json(path: Path, *, cure: str = "delete it and retry the run") -> dict[str, Any] | None:
    """Return the JSON object in a file, None where there is no file.

    Raises DamagedFileError for anything else in it, OSError where the file cannot be reached.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not content.strip():
        raise DamagedFileError(f"{path} is empty; {cure}")
    try:
        value = json.loads(content)  # UnicodeDecodeError is a ValueError
    except ValueError as error:
        raise DamagedFileError(f"{path} is not valid JSON ({error}); {cure}") from None
    if not isinstance(value, dict):
        raise DamagedFileError(f"{path} holds {type(value).__name__}, not a JSON object; {cure}")
    return value


def read_json_or_none(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file that only helps: damaged counts as absent."""
    try:
        return read_json(path)
    except (DamagedFileError, OSError):
        return None


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object so that a reader never sees half of it."""
    write_atomic(path, json.dumps(value, indent=1) + "\n")


def json_lines(content: bytes) -> Iterator[dict[str, Any] | None]:
    """Yield each line's JSON object, None for a line that is none."""
    for line in content.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        yield value if isinstance(value, dict) else None


def known(kind: type[T], content: dict[str, Any]) -> T:
    """Make a dataclass of what it knows of an object; what a later version added is left out."""
    names = {item.name for item in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in content.items() if name in names})
