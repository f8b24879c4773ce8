"""The record, kept on an MLflow run, of what of it is published: small enough for a tag."""

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.entities import Run

# Kept on the run so that it stays true when a database or a run folder is moved or deleted. Tags
# under "mlflow." are not shown as columns.
PUBLISHED = "mlflow.scaling.published"


def published(run: "Run") -> dict[str, Any]:
    """Return the record of what is published; one that cannot be read counts as none."""
    try:
        return json.loads(run.data.tags.get(PUBLISHED, "{}"))
    except ValueError:
        return {}  # cut off or edited: MLflow keeps a point that is sent again once


@cache
def metric_key(metric: str) -> str:
    """Return eight characters that stand for a metric: MLflow cuts a tag at 8,000."""
    return base64.b64encode(hashlib.blake2b(metric.encode(), digest_size=6).digest()).decode()


def pack(reached: Mapping[str, int]) -> dict[str, str]:
    """Return step -> the keys of the metrics whose last published step it is, in one string."""
    packed: dict[str, str] = {}
    for key, step in sorted(reached.items()):
        packed[str(step)] = packed.get(str(step), "") + key
    return packed


def unpack(packed: Mapping[str, str]) -> dict[str, int]:
    """Return what `pack` was given."""
    return {
        keys[start : start + 8]: int(step)
        for step, keys in packed.items()
        for start in range(0, len(keys), 8)
    }
