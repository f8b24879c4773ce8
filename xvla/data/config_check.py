"""Checks of the values in a data configuration, before anything is read by them."""

import math
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_origin

from xvla.config import DataConfig

# The smallest value that makes sense.
AT_LEAST = {
    **dict.fromkeys(("image_size", "num_views", "num_anchors", "start_stride", "batch_size"), 1),
    **dict.fromkeys(("eval_starts_per_episode", "eval_starts_other"), 1),
    **dict.fromkeys(("start_tail_s", "num_workers", "frame_cache_gib", "max_failed_share"), 0),
    "text_length": 2,  # the two special tokens
}
AT_MOST = {"max_failed_share": 1}
POSITIVE = ("prediction_window_s",)


def check_data_config(config: DataConfig) -> None:
    """Raise ValueError naming the first field whose value cannot be, and what is allowed."""
    for field in fields(config):
        value = getattr(config, field.name)
        if wanted := _wanted(field.name, field.type, value):
            raise ValueError(f"data.{field.name} = {value!r}; allowed: {wanted}")


def _wanted(name: str, kind: Any, value: Any) -> str | None:
    """Say what a field allows when `value` is something else, None when it fits."""
    if get_origin(kind) is Literal:
        allowed = get_args(kind)
        return None if value in allowed else ", ".join(map(str, allowed))
    if kind not in (int, float):
        return None
    fits = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if not fits or not math.isfinite(value):
        return "a whole number" if kind is int else "a number"
    if name in POSITIVE and value <= 0:
        return "a number above 0"
    low, high = AT_LEAST.get(name, -math.inf), AT_MOST.get(name, math.inf)
    if not low <= value <= high:
        return f"{low} or more" if name not in AT_MOST else f"{low} to {high}"
    return None
