"""What analyses return: frozen dataclasses with named fields, and the JSON that they become."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

Scalar = str | int | float | bool | None  # what a cell of a table holds
# Metadata of fields: one that a document leaves out where it is None, and one whose own fields
# stand in the document as if they were its owner's.
ABSENT, FLAT = {"document": "absent"}, {"document": "flat"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A result with named fields; `to_dict` is the edge at which it becomes plain data."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON: the fields in their order, `from_` as "from"."""
        found: dict[str, Any] = {}
        for one in fields(self):
            value, kind = getattr(self, one.name), one.metadata
            if kind == FLAT:
                found |= plain(value) or {}
            elif value is not None or kind != ABSENT:
                found[one.name.removesuffix("_")] = plain(value)
        return found


def plain(value: Any) -> Any:
    """Turn documents inside of data into plain data; numbers stay as they are."""
    if isinstance(value, Document):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(item) for item in value)
    return value.tolist() if isinstance(value, np.ndarray) else value


def jsonable(value: Any) -> Any:
    """Turn data into what strict JSON can hold: NaN and infinities (open ends) become null."""
    if isinstance(value, Document):
        return jsonable(value.to_dict())
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
