"""The episodes of a set as columns: a few bytes an episode, an object only when asked for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeInfo:
    """One episode of a dataset; `length` in frames, `split` is "" when the set names none."""

    id: int
    task: str
    length: int
    split: str


class Stretches(NamedTuple):
    """Instructions of an episode that has several: first frames [k], and numbers [k] of texts."""

    first: NDArray[np.int64]
    tasks: NDArray[np.int64]


class EpisodeTable(Sequence[EpisodeInfo]):
    """Episodes 0, 1, 2, ...: lengths in frames, and numbers into the names of splits and tasks.

    The instruction of an episode is that of its first frame; `task_at` knows where it changes.
    """

    def __init__(
        self,
        lengths: ArrayLike,
        splits: Sequence[str],
        tasks: tuple[Any, Sequence[str]],
        changes: Mapping[int, Stretches] | None = None,
    ) -> None:
        """Take lengths [n], the split of each, and (numbers [n], texts) of the instructions.

        `changes` has the episodes whose instruction changes within them.
        """
        self._changes = dict(changes or {})
        self.lengths: NDArray[np.int64] = np.asarray(lengths, dtype=np.int64)
        self.num_frames = int(self.lengths.sum())
        self._split_names, codes = np.unique(np.asarray(splits, dtype=np.str_), return_inverse=True)
        self._split_codes = codes.astype(np.int16)
        self._task_codes, self._texts = np.asarray(tasks[0], dtype=np.int32), list(tasks[1])

    @classmethod
    def of(cls, lengths: ArrayLike, splits: Sequence[str], tasks: Sequence[str]) -> "EpisodeTable":
        """Take the instruction of each episode as a text."""
        numbers = {text: number for number, text in enumerate(dict.fromkeys(tasks))}
        return cls(lengths, splits, ([numbers[text] for text in tasks], [*numbers]))

    @property
    def splits(self) -> NDArray[np.str_]:
        """Return the split of each episode."""
        return self._split_names[self._split_codes]

    @property
    def tasks(self) -> list[str]:
        """Return the instruction of each episode."""
        return [self._texts[code] for code in self._task_codes.tolist()]

    def task(self, index: int) -> str:
        """Return the instruction of one episode, "" when it has none."""
        return self._texts[self._task_codes[index]]

    def task_at(self, index: int, frame: int) -> str:
        """Return the instruction of one frame of an episode."""
        if index not in self._changes:
            return self.task(index)
        first, tasks = self._changes[index]
        return self._texts[tasks[np.searchsorted(first, frame, side="right") - 1]]

    def stretches(self, index: int) -> list[tuple[int, str]]:
        """Return (first frame, instruction) of an episode, one for each change and the first."""
        if index not in self._changes:
            return [(0, self.task(index))]
        first, tasks = self._changes[index]
        return list(zip(first.tolist(), [self._texts[code] for code in tasks], strict=True))

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
            task=self.task(number),
            length=int(self.lengths[number]),
            split=str(self._split_names[self._split_codes[number]]),
        )

    def __iter__(self) -> Iterator[EpisodeInfo]:
        """Yield all episodes."""
        return (self[number] for number in range(len(self)))
