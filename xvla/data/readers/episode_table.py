"""The episodes of a large set as columns: a few bytes an episode, an object only when asked for."""

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from xvla.data.readers.base import EpisodeInfo


class EpisodeTable(Sequence[EpisodeInfo]):
    """Episodes 0, 1, 2, ...: lengths in frames, and numbers into the names of splits and tasks."""

    def __init__(
        self, lengths: NDArray[np.int64], splits: Sequence[str], tasks: tuple[Any, Sequence[str]]
    ) -> None:
        """Take lengths [n], the split of each, and (numbers [n], texts) of the instructions."""
        self.lengths = lengths
        self._split_names, codes = np.unique(np.asarray(splits, dtype=np.str_), return_inverse=True)
        self._split_codes = codes.astype(np.int16)
        self._task_codes, self._texts = np.asarray(tasks[0], dtype=np.int32), list(tasks[1])

    @property
    def splits(self) -> NDArray[np.str_]:
        """Return the split of each episode."""
        return self._split_names[self._split_codes]

    @property
    def tasks(self) -> list[str]:
        """Return the instruction of each episode."""
        return [self._texts[code] for code in self._task_codes.tolist()]

    def without_task(self) -> NDArray[np.int64]:
        """Return the episodes that have no instruction."""
        empty = np.array([not text for text in self._texts] or [False])
        return np.flatnonzero(empty[self._task_codes])

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> EpisodeInfo: ...

    @overload
    def __getitem__(self, index: slice) -> list[EpisodeInfo]: ...

    def __getitem__(self, index: int | slice) -> EpisodeInfo | list[EpisodeInfo]:
        """Return an episode, or those of a slice."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        return EpisodeInfo(
            id=number,
            task=self._texts[self._task_codes[number]],
            length=int(self.lengths[number]),
            split=str(self._split_names[self._split_codes[number]]),
        )

    def __iter__(self) -> Iterator[EpisodeInfo]:
        """Yield all episodes."""
        return (self[number] for number in range(len(self)))
