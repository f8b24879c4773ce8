"""Documents: what verbs answer, as frozen dataclasses that become JSON at the edge alone."""

from collections.abc import Mapping
from dataclasses import field, fields, is_dataclass
from functools import cache
from typing import Any


class Document:
    """A frozen dataclass that a verb prints; its fields, in order, are the keys of the JSON.

    `from_` is the key "from": an underscore at the end of a name is Python's, not the document's.
    """

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types, without the `optional` fields that are None."""
        found: dict[str, Any] = plain(self)
        return found


def optional() -> Any:
    """Return a field that is None where there is nothing to say, and absent from the JSON then."""
    return field(default=None, metadata={"optional": True})


def plain(value: Any) -> Any:
    """Return dataclasses, lists and dicts as new dicts and lists (three times asdict's speed)."""
    if isinstance(value, str | int | float | None):
        return value
    if is_dataclass(value):
        kind: Any = type(value)
        return {
            name.rstrip("_"): plain(item)
            for name, always in _keys(kind)
            if (item := getattr(value, name)) is not None or always
        }
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


@cache
def _keys(kind: Any) -> tuple[tuple[str, bool], ...]:
    return tuple((item.name, "optional" not in item.metadata) for item in fields(kind))
