"""What all readers share: poses, checked and kept, and the checks of an episode."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from xvla.data import memory
from xvla.data.readers.base import STATE_DIM, DatasetError, Episode, FieldError, Poses, Problem
from xvla.data.readers.episode_table import EpisodeTable
from xvla.data.readers.lerobot_meta import features_of
from xvla.data.readers.mapped import check_mapping, map_states
from xvla.data.readers.plausible import check_doubtful, check_poses, check_step, check_strokes
from xvla.data.readers.poses import build_poses, check_finite, check_states, to_float32
from xvla.data.readers.sources import SourceRule
from xvla.data.readers.video import Shown, decode_frames, look_through
from xvla.mapping import StateMapping

Value = TypeVar("Value")
STATE = "observation.state"
# Of a video's rate against the table's: 29.97 against 30 is none, 25 against 30 is.
OTHER_RATE = 0.01
_POSES: memory.ByteCache[Poses] = memory.ByteCache(memory.POSES)


class EpisodeFiles(ABC):
    """Base of the readers; a subclass sets the public attributes and says how to read one episode.

    Every episode is checked when it is read: a defective one raises a DatasetError that names the
    file, the episode and the field, whether or not the set was checked when it was opened.
    """

    format: str
    domain: str
    fps: float
    views: tuple[str, ...]
    episodes: EpisodeTable
    rule: SourceRule | None = None
    mapping: StateMapping | None = None

    def __init__(self, root: Path, meta: dict[str, Any]) -> None:
        """Start with nothing read; `broken` are episodes known to be defective."""
        self.path, self.root, self.meta = str(root.resolve()), root, meta
        self.broken: dict[int, Problem] = {}
        self._widest = np.zeros(2)  # largest gripper value of each arm in the episodes checked
        self.instruction_variants: Mapping[str, list[str]] = {}

    @property
    def has_arm_clocks(self) -> bool:
        """Whether poses are more than times and states: clocks of the arms, actions to reach."""
        if self.mapping is not None:
            return self.mapping.target == "action"
        return self.rule is not None and any(arm.time_key for arm in self.rule.arms)

    def episode(self, index: int) -> Episode:
        """Return times [n] in s from the episode's start, states [n, 20] and the instruction."""
        poses = self.poses(index)
        return Episode(poses.times, poses.states, self.episodes.task(index))

    def poses(self, index: int) -> Poses:
        """Return the poses of an episode, with the arms' own clocks where the source has them."""
        return _POSES.get(self, index, partial(self._checked_poses, index))

    def start_frames(self, index: int, *, evaluate: bool = False) -> NDArray[np.int64] | None:
        """Return the frames that the source lets a sample start from; None: no rule of its own."""
        if self.rule is None:
            return None
        first, last = self.start_range(index)
        stride = self.rule.eval_stride if evaluate else self.rule.stride
        return np.arange(max(0, first), max(0, last), stride)

    def start_range(self, index: int) -> tuple[int, int]:
        """Return the first start frame and the one after the last, by the source's rule."""
        return 0, int(self.episodes.lengths[index]) - (self.rule.tail if self.rule else 0)

    def column(self, index: int, key: str) -> NDArray[Any]:
        """Return any per-frame array of an episode as [n, ...]; ValueError if there is none."""
        self.check_index(index)
        return self.named(index, partial(self.read_column, index, key))

    def frames(self, index: int, view: str, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Return frames of one view, uint8 [k, H, W, 3] RGB, `indices` counted in the episode."""
        self.check_index(index, view)
        length = int(self.episodes.lengths[index])
        numbers = [int(i) for i in indices]
        beyond = [i for i in numbers if not 0 <= i < length]
        if beyond:
            raise ValueError(f"episode {index} has {length} frames; frame {beyond[0]} is not one")
        return self.named(index, partial(self.read_frames, index, view, numbers))

    def problems(self) -> list[Problem]:
        """Return every defect of poses, instructions and pictures, without decoding videos.

        Warnings among them say what may be wrong, or what is passed over.
        """
        found: list[Problem] = self.remarks()
        for index in range(len(self.episodes)):
            known = self.broken.get(index)
            found += self._problems_of(index) if known is None else [known]
        found += self._check_strokes()
        return [*dict.fromkeys(found)]  # episodes that share a file share its defects

    def remarks(self) -> list[Problem]:
        """Return warnings of the set as a whole."""
        return []

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

    def named(self, index: int, read: Callable[[], Value]) -> Value:
        """Run a read of one episode; its FieldError becomes a DatasetError that says where."""
        try:
            return read()
        except FieldError as error:
            file = self.data_file(index)
            problem = Problem(
                file=file,
                episode=index,
                field=error.field,
                message=error.message,
                severity=error.severity,
            )
            raise DatasetError(self.path, [problem]) from None

    def table(
        self, count: int, splits: Sequence[str], describe: Callable[[int], tuple[int, str]]
    ) -> EpisodeTable:
        """Return the episodes by length and instruction; one that cannot be opened is `broken`."""
        found = [(0, "")] * count
        for index in range(count):
            try:
                found[index] = self.named(index, partial(describe, index))
            except DatasetError as error:
                self.broken[index] = error.problems[0]
        lengths, tasks = zip(*found, strict=True)
        return EpisodeTable.of(lengths, splits, tasks)

    def _checked_poses(self, index: int) -> Poses:
        self.check_index(index)
        poses = self.named(index, partial(self.read_poses, index))
        poses.states.setflags(write=False)
        return poses

    def _problems_of(self, index: int) -> list[Problem]:
        found: list[Problem] = []
        if not all(text for _, text in self.episodes.stretches(index)):
            file, field = self.task_place(index)
            message = "the episode has no instruction; write one"
            found.append(Problem(file=file, episode=index, field=field, message=message))
        for check in self.checks(index):
            try:
                self.named(index, check)
            except DatasetError as error:
                found += error.problems
        return found

    def checks(self, index: int) -> list[Callable[[], Any]]:
        """Return what is checked of one episode; each raises FieldError or DatasetError."""
        views = [partial(self.check_view, index, view) for view in self.views]
        return [partial(self._check_poses, index), *views]

    def _check_poses(self, index: int) -> None:
        """Read an episode's poses; raise a warning for what may be wrong with them."""
        states = self.poses(index).states
        self._widest = np.maximum(self._widest, states[:, [9, 19]].max(axis=0))
        if self.rule:
            # The numbers of a published source are taken as its own code takes them.
            check_poses(states, self.rule.arms[0].gripper.key, severity="warning")
        check_doubtful(states, self.state_field)

    def _check_strokes(self) -> list[Problem]:
        """Return a warning where no episode closes a gripper that moves."""
        try:
            check_strokes(self._widest, self.state_field)
        except FieldError as error:
            return [
                Problem(
                    file="the dataset",
                    field=error.field,
                    message=error.message,
                    severity=error.severity,
                )
            ]
        return []

    @property
    def state_field(self) -> str:
        """Name of what the poses are read from."""
        if self.mapping:
            return "+".join(self.mapping.state)
        return self.rule.arms[0].key if self.rule else STATE

    @abstractmethod
    def read_poses(self, index: int) -> Poses:
        """Read and check one episode's poses; raises FieldError or DatasetError."""

    @abstractmethod
    def read_column(self, index: int, key: str) -> NDArray[Any]:
        """Read one array of an episode; raises FieldError or DatasetError."""

    @abstractmethod
    def read_frames(self, index: int, view: str, numbers: list[int]) -> NDArray[np.uint8]:
        """Read frames of a view that the episode has."""

    @abstractmethod
    def data_file(self, index: int) -> str:
        """Return the name of an episode's data file, as problems give it."""

    @abstractmethod
    def task_place(self, index: int) -> tuple[str, str]:
        """Return the file and the field that hold an episode's instruction."""

    @abstractmethod
    def check_view(self, index: int, view: str) -> None:
        """Raise FieldError or DatasetError when an episode's pictures of a view are too few."""


class TableAndVideo(EpisodeFiles):
    """Episodes whose poses are columns of parquet tables and whose pictures are videos.

    Poses come from `observation.state` where it is 20 wide, else by the source's rule.
    """

    lengths_file: str

    def __init__(
        self, root: Path, meta: dict[str, Any], mapping: StateMapping | None = None
    ) -> None:
        """Start with nothing read; DatasetError for a mapping that does not fit the set."""
        super().__init__(root, meta)
        if mapping is not None:
            version = str(meta.get("codebase_version"))
            check_mapping(root, mapping, version, features_of(root, meta))
            # Part of what the set is: caches and indices are told by the meta file.
            self.mapping, self.meta = mapping, {**meta, "mapping": asdict(mapping)}
        # Instruction by number where the rows of a large set were not asked for theirs.
        self.unread_tasks: Mapping[int, str] = {}
        self._looked: dict[Path, Shown | str] = {}
        self._even: set[int] = set()  # episodes whose row k is known to be at k / fps

    def read_poses(self, index: int) -> Poses:
        """Read and check one episode's poses; raises FieldError or DatasetError."""
        length = int(self.episodes.lengths[index])
        if length < 1:
            raise FieldError(None, "the episode is empty: no frames")
        targets = None
        if self.mapping:
            states = self._mapped(index, self.mapping.state)
            if self.mapping.target == "action":
                targets = self._mapped(index, self.mapping.action)
        elif self.rule:
            states = build_poses(self.rule, partial(self.read_column, index)).states
        else:
            recorded = self.read_column(index, STATE)
            check_width(recorded.shape[1:])
            check_states(recorded, STATE)
            states = to_float32(recorded, STATE)
        if len(states) != length:
            raise FieldError(None, f"{len(states)} rows, {self.lengths_file} says {length}")
        if self.unread_tasks:
            self._check_task(index)
        return Poses(times=self._stamps(index), states=states, targets=targets)

    def remarks(self) -> list[Problem]:
        """Return warnings of the set as a whole."""
        message = "pictures of dtype image are not read: the set is without this view"
        problems = [
            Problem(file="meta/info.json", field=name, message=message, severity="warning")
            for name in self.unread_views
        ]
        return [*super().remarks(), *problems]

    @property
    def unread_views(self) -> list[str]:
        """The views that lie as pictures in the tables; an old set may list no features."""
        listed = "features" in self.meta
        features = features_of(self.root, self.meta) if listed else {}
        return [feature.name for feature in features.values() if feature.dtype == "image"]

    def _mapped(self, index: int, names: list[str]) -> NDArray[np.float32]:
        """Return the poses that a mapping makes of some features of an episode."""
        assert self.mapping is not None
        field = "+".join(names)
        parts = [self.read_column(index, name) for name in names]
        joined = np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
        states = map_states(self.mapping, joined, field)
        check_states(states, field)
        return to_float32(states, field)

    def read_times(self, index: int, length: int) -> NDArray[np.float64]:
        """Return frame / fps, or the stored stamps where they leave that grid.

        Stamps are float32 in LeRobot: within a hundredth of a frame they say no more than it.
        """
        stamps = self.read_column(index, "timestamp").astype(np.float64)
        if stamps.shape != (length,):
            raise FieldError("timestamp", f"has shape {stamps.shape}, must be one number a frame")
        back = ~(stamps[1:] > stamps[:-1])
        if back.any() or not np.isfinite(stamps).all():
            frame = int(back.argmax()) + 1 if back.any() else 0
            message = f"time does not advance at frame {frame}; times must increase"
            raise FieldError("timestamp", message)
        check_step(stamps, self.fps, "timestamp")
        grid = np.arange(length, dtype=np.float64) / self.fps
        stamps -= stamps[0]
        return stamps if np.abs(stamps - grid).max() > 0.01 / self.fps else grid

    def checks(self, index: int) -> list[Callable[[], Any]]:
        """Return what is checked of one episode; of actions, which are not read, a NaN is said."""
        more = [partial(self._check_action, index)] if self.has_action else []
        return [*super().checks(index), *more]

    @property
    def has_action(self) -> bool:
        """Whether info.json lists a feature `action`."""
        features = self.meta.get("features")
        learned = self.mapping is not None and self.mapping.target == "action"
        return isinstance(features, dict) and "action" in features and not learned

    def _check_action(self, index: int) -> None:
        try:
            rows = self.read_column(index, "action")
            check_finite(rows.reshape(len(rows), -1), "action")
        except FieldError as error:
            message = f"{error.message}; it is not read, so the episode is"
            raise FieldError(error.field, message, severity="warning") from None
        except DatasetError as error:  # a column that is not there
            problems = [replace(problem, severity="warning") for problem in error.problems]
            raise DatasetError(self.path, problems) from None

    def _check_task(self, index: int) -> None:
        """Raise FieldError where an episode's rows have another instruction than its meta row."""
        numbers = np.unique(self.read_column(index, "task_index")).tolist()
        own = [self.unread_tasks.get(int(number), "") for number in numbers]
        listed = self.episodes.task(index)
        if {*own} != {listed}:
            message = (
                f"the rows say {', '.join(map(repr, own))}, {self.lengths_file} says {listed!r}; "
                "write the meta files again"
            )
            raise FieldError("task_index", message)

    def read_frames(self, index: int, view: str, numbers: list[int]) -> NDArray[np.uint8]:
        """Decode the pictures at the time stamps of some rows, of a view that the episode has."""
        times = self.start_s(index, view) + self._stamps(index)[numbers]
        return decode_frames(self.video_file(index, view), times, step_s=1 / self.fps)

    def check_view(self, index: int, view: str) -> None:
        """Raise DatasetError when the video is missing, damaged or shorter than its table.

        A warning, once a file, where its rate is another than the table's.
        """
        path = self.video_file(index, view)
        name = path.relative_to(self.root.absolute()).as_posix()
        shown = self._shown(path)
        message = self._misfit(index, view, shown)
        if message:
            problem = Problem(file=name, episode=index, field=view, message=message)
        elif isinstance(shown, Shown) and abs(shown.rate_hz / self.fps - 1) > OTHER_RATE:
            message = (
                f"the video has {shown.rate_hz:.4g} pictures a second, the table {self.fps:g} "
                "rows: each row has the picture nearest to its time stamp"
            )
            problem = Problem(file=name, field=view, message=message, severity="warning")
        else:
            return
        raise DatasetError(self.path, [problem])

    def _misfit(self, index: int, view: str, shown: Shown | str) -> str:
        """Return how an episode's rows leave its video, "" when they do not."""
        if isinstance(shown, str):
            return shown
        start = self.start_s(index, view)
        end = start + float(self._stamps(index)[-1])
        if end >= shown.length_s - 0.25 / self.fps:
            count, needed = round(shown.length_s * self.fps), round(end * self.fps) + 1
            return (
                f"the video has {count} frames, the table needs {needed}; copy or record it again"
            )
        if start < -0.5 / self.fps:
            first = round(start * self.fps)
            return f"begins at frame {first} of the video; write meta/episodes again"
        return ""

    def start_s(self, index: int, view: str) -> float:
        """Return the time in its video, in s, at which an episode begins."""
        return 0.0

    @abstractmethod
    def video_file(self, index: int, view: str) -> Path:
        """Return the mp4 that holds an episode's frames of one view."""

    def _stamps(self, index: int) -> NDArray[np.float64]:
        """Return the times [n] of an episode's rows in s: read again only where they are uneven."""
        length = int(self.episodes.lengths[index])
        if index in self._even:
            return np.arange(length) / self.fps
        times = self.read_times(index, length)
        if np.array_equal(times, np.arange(length) / self.fps):
            self._even.add(index)
        return times

    def _shown(self, path: Path) -> Shown | str:
        """Return what a video shows, or what is wrong with it; each is looked through once."""
        if path not in self._looked:
            try:
                self._looked[path] = look_through(path, step_s=1 / self.fps)
            except ValueError as error:
                self._looked[path] = str(error)
        return self._looked[path]


def check_width(shape: Sequence[Any]) -> None:
    """Raise FieldError unless the shape of one frame's state is that of the project's poses."""
    if tuple(shape) != (STATE_DIM,):
        width = "x".join(str(size) for size in shape) or "no"
        raise FieldError(
            STATE,
            f"{width} values a frame, must be {STATE_DIM}: per arm xyz, rotation 6D (interleaved), "
            "gripper, the second arm zero when absent; say what other columns mean in a mapping: "
            "`scaling data map PATH`",
        )
