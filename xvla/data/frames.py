"""Decoded and resized frames, kept in memory up to a budget."""

import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xvla.data.images import resize
from xvla.data.memory import ByteCache
from xvla.data.readers.base import Dataset

# Less than this share of a dataset hits too seldom to pay for whole episodes.
WORTHWHILE_SHARE = 1 / 8
# Training and validation of a process share what is decoded, and a forked process inherits it.
FRAMES: ByteCache[NDArray[np.uint8]] = ByteCache(sys.maxsize)  # the budget is the caller's


def frame_views(
    dataset: Dataset, episode: int, frame: int, *, views: int, size: int, budget: int
) -> NDArray[np.uint8]:
    """Return one frame's first `views` views, uint8 [views, 3, size, size].

    Whole episodes are decoded once, until `budget` bytes are spent; after that single frames by
    seek. Raises ValueError when a video cannot be decoded.
    """
    key = (episode, views, size)
    kept = FRAMES.find(dataset, key)
    if kept is not None:
        return kept[frame]
    length = int(dataset.episodes.lengths[episode])
    frame_bytes = views * 3 * size * size
    whole_set = dataset.episodes.num_frames * frame_bytes
    if FRAMES.bytes + length * frame_bytes > budget or budget < WORTHWHILE_SHARE * whole_set:
        return _decode(dataset, episode, [frame], views=views, size=size)[0]
    whole = range(length)
    kept = FRAMES.get(
        dataset, key, lambda: _decode(dataset, episode, whole, views=views, size=size)
    )
    return kept[frame]


def _decode(
    dataset: Dataset, episode: int, frames: Sequence[int], *, views: int, size: int
) -> NDArray[np.uint8]:
    """Return frames [k, views, 3, size, size]."""
    pixels = [resize(dataset.frames(episode, view, frames), size) for view in dataset.views[:views]]
    return np.stack(pixels, axis=1)
