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
    """Return dataclasses, lists and dicts as new dicts and lists.

    Most of the price of a run id, so a dataclass without `optional` fields goes a short way.
    """
    if isinstance(value, str | int | float | None):
        return value
    if is_dataclass(value):
        kind: Any = type(value)
        if (keys := _keys(kind)) is not None:
            return {key: plain(getattr(value, key)) for key in keys}
        return {
            item.name.rstrip("_"): plain(held)
            for item in fields(kind)
            if (held := getattr(value, item.name)) is not None or "optional" not in item.metadata
        }
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return value


@cache
def _keys(kind: Any) -> tuple[str, ...] | None:
    """Return the fields of a dataclass where each is a key of that name, always there."""
    names = tuple(item.name for item in fields(kind) if "optional" not in item.metadata)
    usual = len(names) == len(fields(kind)) and not any(name.endswith("_") for name in names)
    return names if usual else None
