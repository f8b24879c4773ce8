"""Decoded and resized frames of one process, kept in memory up to a budget."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xvla.data.images import resize
from xvla.data.readers.base import Dataset

Key = tuple[str, int, int, int]


class FrameStore:
    """Whole episodes, decoded once, until the budget is spent; after that single frames by seek.

    Nothing is evicted: training visits frames in random order, where a full cache that stays
    hits as often as one that turns over, and decodes less.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.bytes = 0
        self._episodes: dict[Key, NDArray[np.uint8]] = {}

    def clear(self) -> None:
        """Forget all frames, for instance once their features are computed."""
        self._episodes.clear()
        self.bytes = 0

    def get(
        self, dataset: Dataset, episode: int, frame: int, *, views: int, size: int, budget: int
    ) -> NDArray[np.uint8]:
        """Return one frame's first `views` views, uint8 [views, 3, size, size].

        `budget` in bytes bounds what this store keeps. Raises ValueError when a video cannot be
        decoded.
        """
        key = (dataset.path, episode, views, size)
        kept = self._episodes.get(key)
        if kept is not None:
            return kept[frame]
        length = dataset.episodes[episode].length
        cost = length * views * 3 * size * size
        if self.bytes + cost > budget:
            return _decode(dataset, episode, [frame], views=views, size=size)[0]
        kept = _decode(dataset, episode, range(length), views=views, size=size)
        self._episodes[key] = kept
        self.bytes += cost
        return kept[frame]


def _decode(
    dataset: Dataset, episode: int, frames: Sequence[int], *, views: int, size: int
) -> NDArray[np.uint8]:
    """Return frames [k, views, 3, size, size]."""
    pixels = [resize(dataset.frames(episode, view, frames), size) for view in dataset.views[:views]]
    return np.stack(pixels, axis=1)


# One store a process: training and validation share what is decoded, and a forked process
# inherits it.
STORE = FrameStore()
