"""What readers of one file an episode share: poses kept in memory, checks, named problems."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from xvla.data.readers.base import DatasetError, Episode, EpisodeInfo, Problem
from xvla.data.readers.poses import FieldError, Poses
from xvla.data.readers.sources import SourceRule

# Poses stay in memory up to this many bytes a set; beyond it episodes are read each time.
POSES_BUDGET = 256 * 2**20
Value = TypeVar("Value")


class EpisodeFiles(ABC):
    """Base of the readers; a subclass sets the public attributes and says how to read one episode.

    Every episode is checked when it is read: a defective one raises a DatasetError that names the
    file, the episode and the field, whether or not the set was checked when it was opened.
    """

    path: str
    root: Path
    domain: str
    fps: float
    views: tuple[str, ...]
    episodes: tuple[EpisodeInfo, ...]
    rule: SourceRule | None = None
    broken: dict[int, Problem]

    def __init__(self) -> None:
        """Start with nothing read."""
        self.broken = {}
        self._kept: dict[int, Poses] = {}
        self._kept_bytes = 0

    def episode(self, index: int) -> Episode:
        """Return times [n] in s from the episode's start, states [n, 20] and the instruction."""
        poses = self.poses(index)
        return Episode(poses.times, poses.states, self.episodes[index].task)

    def poses(self, index: int) -> Poses:
        """Return the poses of an episode, with the arms' own clocks where the source has them."""
        if index not in self._kept:
            self.check_index(index)
            poses = self.named(index, lambda: self.read_poses(index))
            poses.states.setflags(write=False)
            if self._kept_bytes + poses.states.nbytes > POSES_BUDGET:
                return poses
            self._kept[index] = poses
            self._kept_bytes += poses.states.nbytes
        return self._kept[index]

    def start_frames(self, index: int, *, evaluate: bool = False) -> NDArray[np.int64] | None:
        """Return the frames that the source lets a sample start from; None: no rule of its own."""
        if self.rule is None:
            return None
        first, last = self.start_range(index)
        stride = self.rule.eval_stride if evaluate else self.rule.stride
        return np.arange(max(0, first), max(0, last), stride)

    def start_range(self, index: int) -> tuple[int, int]:
        """Return the first start frame and the one after the last, by the source's rule."""
        return 0, self.episodes[index].length - (self.rule.tail if self.rule else 0)

    def problems(self) -> list[Problem]:
        """Return every defect of poses, instructions and pictures, without decoding videos."""
        found: list[Problem] = []
        for info in self.episodes:
            if info.id in self.broken:
                found.append(self.broken[info.id])
                continue
            found += self._problems_of(info)
        return found

    def check_index(self, index: int, view: str | None = None) -> None:
        """Raise ValueError for an episode or a view that the set does not have."""
        if not 0 <= index < len(self.episodes):
            raise ValueError(f"episode {index} is not one of 0..{len(self.episodes) - 1}")
        if view is not None and view not in self.views:
            raise ValueError(
                f"dataset {self.path} has no view {view!r}; it has {', '.join(self.views)}"
            )
        if index in self.broken:
            raise DatasetError(self.path, [self.broken[index]])

    def check_frames(self, index: int, indices: Sequence[int]) -> list[int]:
        """Return `indices` as numbers; raises ValueError for a frame that the episode lacks."""
        length = self.episodes[index].length
        numbers = [int(i) for i in indices]
        beyond = [i for i in numbers if not 0 <= i < length]
        if beyond:
            raise ValueError(f"episode {index} has {length} frames; frame {beyond[0]} is not one")
        return numbers

    def named(self, index: int, read: Callable[[], Value]) -> Value:
        """Run a read of one episode; its FieldError becomes a DatasetError that says where."""
        try:
            return read()
        except FieldError as error:
            problem = self.problem(index, error.field, error.message)
            raise DatasetError(self.path, [problem]) from None

    def problem(self, index: int, field: str | None, message: str) -> Problem:
        """Return a problem of an episode's data file."""
        return Problem(file=self.data_file(index), episode=index, field=field, message=message)

    def _problems_of(self, info: EpisodeInfo) -> list[Problem]:
        found: list[Problem] = []
        if not info.task:
            message = "the episode has no instruction; write one"
            found.append(self.problem(info.id, self.task_field(), message))
        try:
            length = len(self.poses(info.id).states)
            if length != info.length:
                message = f"{length} rows, the set's meta file says {info.length}"
                found.append(self.problem(info.id, None, message))
        except DatasetError as error:
            found += error.problems
        for view in self.views:
            try:
                self.named(info.id, partial(self.check_view, info.id, view))
            except DatasetError as error:
                found += error.problems
        return found

    @abstractmethod
    def read_poses(self, index: int) -> Poses:
        """Read and check one episode's poses; raises FieldError or DatasetError."""

    @abstractmethod
    def data_file(self, index: int) -> str:
        """Return the name of an episode's data file, as problems give it."""

    @abstractmethod
    def task_field(self) -> str:
        """Return the field that holds an episode's instruction."""

    @abstractmethod
    def check_view(self, index: int, view: str) -> None:
        """Raise FieldError or DatasetError when an episode's pictures of a view are too few."""

    @abstractmethod
    def column(self, index: int, key: str) -> NDArray[Any]:
        """Return any other per-frame array of an episode as [n, ...]."""

    @abstractmethod
    def frames(self, index: int, view: str, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Return the frames `indices` of a view as uint8 [k, H, W, 3] RGB."""
