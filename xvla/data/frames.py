"""Decoded and resized frames of one process, kept in memory up to a budget."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xvla.data.images import resize
from xvla.data.readers.base import Dataset, episode_lengths

Key = tuple[str, int, int, int]
# A store that holds less than this share of a dataset hits too seldom to pay for whole episodes.
WORTHWHILE_SHARE = 1 / 8


class FrameStore:
    """Whole episodes, decoded once, until the budget is spent; after that single frames by seek.

    Nothing is evicted: training visits frames in random order, where a full cache that stays
    hits as often as one that turns over, and decodes less.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.bytes = 0
        self._episodes: dict[Key, NDArray[np.uint8]] = {}
        self._frames: dict[str, int] = {}

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
        frame_bytes = views * 3 * size * size
        cost = length * frame_bytes
        whole_set = self._num_frames(dataset) * frame_bytes
        if self.bytes + cost > budget or budget < WORTHWHILE_SHARE * whole_set:
            return _decode(dataset, episode, [frame], views=views, size=size)[0]
        kept = _decode(dataset, episode, range(length), views=views, size=size)
        self._episodes[key] = kept
        self.bytes += cost
        return kept[frame]

    def _num_frames(self, dataset: Dataset) -> int:
        if dataset.path not in self._frames:
            self._frames[dataset.path] = int(episode_lengths(dataset).sum())
        return self._frames[dataset.path]


def _decode(
    dataset: Dataset, episode: int, frames: Sequence[int], *, views: int, size: int
) -> NDArray[np.uint8]:
    """Return frames [k, views, 3, size, size]."""
    pixels = [resize(dataset.frames(episode, view, frames), size) for view in dataset.views[:views]]
    return np.stack(pixels, axis=1)


# One store a process: training and validation share what is decoded, and a forked process
# inherits it.
STORE = FrameStore()
