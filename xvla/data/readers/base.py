"""What every reader returns: episodes, their poses over time, and the problems found in a set."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

STATE_DIM = 20
CHECKED_FRAMES = 500_000


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeInfo:
    """One episode of a dataset; `length` in frames, `split` is "" when the set names none."""

    id: int
    task: str
    length: int
    split: str


class Episode(NamedTuple):
    """Poses of one episode: times [n] float64 in s, states [n, 20] float32, its instruction."""

    times: NDArray[np.float64]
    states: NDArray[np.float32]
    instruction: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One defect of a dataset: where it is and what to do about it, in one line."""

    file: str
    message: str
    episode: int | None = None
    field: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the row of `data inspect --json`."""
        return asdict(self)

    def __str__(self) -> str:
        """Return `file, episode e, field: message`."""
        where = [self.file]
        if self.episode is not None:
            where.append(f"episode {self.episode}")
        if self.field is not None:
            where.append(self.field)
        return f"{', '.join(where)}: {self.message}"


class DatasetError(ValueError):
    """A dataset that cannot be used; `problems` lists every defect found."""

    def __init__(self, root: str, problems: list[Problem]) -> None:
        self.problems = problems
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        super().__init__(f"dataset {root}: {problems[0]}{more}")


class Dataset(Protocol):
    """The interface of a reader, whatever the format on disk."""

    path: str
    domain: str
    fps: float
    views: tuple[str, ...]

    @property
    def episodes(self) -> Sequence[EpisodeInfo]:
        """Return the episodes, numbered 0, 1, 2, ..."""
        ...

    def episode(self, index: int) -> Episode:
        """Return times, states and instruction of one episode."""
        ...

    def column(self, index: int, key: str) -> NDArray[Any]:
        """Return any other per-frame column of an episode as [n, ...]."""
        ...

    def frames(self, index: int, view: str, indices: Any) -> NDArray[np.uint8]:
        """Return the frames `indices` of a view as uint8 [k, H, W, 3] RGB."""
        ...

    def problems(self) -> list[Problem]:
        """Return every defect found without decoding whole videos."""
        ...


def episode_lengths(dataset: Dataset) -> NDArray[np.int64]:
    """Return the frames of each episode, [episodes], from the table where the reader has one."""
    lengths = getattr(dataset.episodes, "lengths", None)
    if lengths is None:
        lengths = [episode.length for episode in dataset.episodes]
    return np.asarray(lengths, dtype=np.int64)


def episode_splits(dataset: Dataset) -> NDArray[np.str_]:
    """Return the split of each episode, [episodes], from the table where the reader has one."""
    splits = getattr(dataset.episodes, "splits", None)
    if splits is None:
        splits = [episode.split for episode in dataset.episodes]
    return np.asarray(splits, dtype=np.str_)


def episode_tasks(dataset: Dataset) -> list[str]:
    """Return the instruction of each episode, from the table where the reader has one."""
    tasks = getattr(dataset.episodes, "tasks", None)
    return [episode.task for episode in dataset.episodes] if tasks is None else tasks


def checked_at_open(dataset: Dataset) -> bool:
    """Return whether a set is small enough to check its whole content when it is opened.

    A larger one is checked by `inspect_dataset`, and each of its episodes when it is read.
    """
    return int(episode_lengths(dataset).sum()) <= CHECKED_FRAMES
