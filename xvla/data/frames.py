"""Decoded and resized frames, kept in memory up to a budget."""

import sys
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from xvla.data.images import resize
from xvla.data.memory import ByteCache
from xvla.data.readers.base import Dataset

# Less than this share of a dataset hits too seldom to pay for whole episodes.
WORTHWHILE_SHARE = 1 / 8
# Frames of their full size are held so many at a time, however long the episode.
BLOCK_FRAMES = 64
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


def resized_blocks(
    dataset: Dataset, episode: int, frames: Sequence[int], *, views: int, size: int
) -> Iterator[NDArray[np.uint8]]:
    """Yield the first `views` views of some frames, uint8 [k, views, 3, size, size].

    Raises ValueError when a video cannot be decoded.
    """
    for first in range(0, len(frames), BLOCK_FRAMES):
        block = frames[first : first + BLOCK_FRAMES]
        names = dataset.views[:views]
        yield np.stack(
            [resize(dataset.frames(episode, view, block), size) for view in names], axis=1
        )


def _decode(
    dataset: Dataset, episode: int, frames: Sequence[int], *, views: int, size: int
) -> NDArray[np.uint8]:
    """Return frames [k, views, 3, size, size]."""
    found = np.empty((len(frames), len(dataset.views[:views]), 3, size, size), dtype=np.uint8)
    first = 0
    for block in resized_blocks(dataset, episode, frames, views=views, size=size):
        found[first : first + len(block)] = block
        first += len(block)
    return found
