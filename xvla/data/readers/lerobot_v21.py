"""Reader of LeRobot v2.1 folders: one parquet file and one mp4 a view for each episode."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xvla.data.readers.base import STATE_DIM, DatasetError, EpisodeInfo, Problem
from xvla.data.readers.lerobot_meta import positive, split_names, views_of
from xvla.data.readers.paths import fill
from xvla.data.readers.per_episode import EpisodeFiles
from xvla.data.readers.poses import FieldError, Poses, build_poses, check_states, to_float32
from xvla.data.readers.sources import SOURCES, SourceRule
from xvla.data.readers.tables import read_table, to_matrix
from xvla.data.readers.video import count_frames, decode_frames

DATA_PATH = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_PATH = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
STATE = "observation.state"


class LeRobotV21(EpisodeFiles):
    """A LeRobot v2.1 dataset; poses are read an episode at a time and kept, pixels decoded.

    Poses come from `observation.state` where it is 20 wide, else by the row of the table of
    sources that the set's robot_type names.
    """

    def __init__(self, root: Path, info: dict[str, Any]) -> None:
        """Read the meta folder; raises DatasetError when it cannot be read."""
        super().__init__()
        self.path, self.root, self.info = str(root.resolve()), root, info
        self.fps = positive(root, info, "fps")
        self.views = views_of(root, info)
        self.rule = _rule(root, info)
        named = self.rule.domain if self.rule else root.resolve().name
        self.domain = str(info.get("domain") or named)
        self.chunk_size = int(positive(root, {"chunks_size": 1000, **info}, "chunks_size"))
        rows = read_lines(root, "meta/episodes.jsonl", {"episode_index": int, "length": int})
        self.numbers = [row["episode_index"] for row in rows]
        splits = split_names(root, info.get("splits"), len(rows))
        end = self.rule.task_separator if self.rule else ""
        self.texts = _texts(root, end)
        self.episodes = tuple(
            EpisodeInfo(id=i, task=task_of(row, end), length=row["length"], split=splits[i])
            for i, row in enumerate(rows)
        )
        self._check_numbers()

    def read_poses(self, index: int) -> Poses:
        """Read and check one episode's poses; raises FieldError or DatasetError."""
        length = self.episodes[index].length
        if length < 1:
            raise FieldError(None, "the episode is empty: no frames")
        if self.rule:
            poses = build_poses(self.rule, lambda key: self._read(index, key))
        else:
            states = self._read(index, STATE)
            if states.ndim != 2 or states.shape[1] != STATE_DIM:
                raise FieldError(STATE, _width_message(states.shape[1:]))
            check_states(states, STATE)
            times = np.arange(len(states), dtype=np.float64) / self.fps
            poses = Poses(times=times, states=to_float32(states, STATE))
        if len(poses.states) != length:
            message = f"{len(poses.states)} rows, meta/episodes.jsonl says {length}"
            raise FieldError(None, message)
        return Poses(times=self._times(index, poses.times), states=poses.states)

    def column(self, index: int, key: str) -> NDArray[Any]:
        """Return a column of an episode, [n] or [n, d]; ValueError if there is none."""
        self.check_index(index)
        return self._read(index, key)

    def frames(self, index: int, view: str, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Return frames of one view, uint8 [k, H, W, 3] RGB, `indices` counted in the episode."""
        self.check_index(index, view)
        numbers = self.check_frames(index, indices)
        return decode_frames(self.video_file(index, view), numbers, fps=self.fps)

    def video_file(self, index: int, view: str) -> Path:
        """Return the mp4 of an episode's view."""
        return self._file("video_path", VIDEO_PATH, index, view)

    def data_file(self, index: int) -> str:
        """Return the name of an episode's parquet file."""
        try:
            file = self._file("data_path", DATA_PATH, index)
        except DatasetError:
            return str(self.info.get("data_path"))
        return file.relative_to(Path(self.root).absolute()).as_posix()

    def task_field(self) -> str:
        """Return the field of meta/episodes.jsonl that holds the instruction."""
        return "tasks"

    def check_view(self, index: int, view: str) -> None:
        """Raise DatasetError when the video is missing, damaged or shorter than its table."""
        path = self.video_file(index, view)
        name = path.relative_to(Path(self.root).absolute()).as_posix()
        try:
            found = count_frames(path, fps=self.fps)
            message = f"the video has {found} frames, the table needs {self.episodes[index].length}"
            if found >= self.episodes[index].length:
                return
        except ValueError as error:
            message = str(error)
        problem = Problem(file=name, episode=index, field=view, message=message)
        raise DatasetError(self.path, [problem])

    def _times(self, index: int, grid: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return frame / fps, or the stored stamps where they leave that grid."""
        stamps = self._read(index, "timestamp").astype(np.float64)
        if stamps.shape != grid.shape:
            raise FieldError("timestamp", f"has shape {stamps.shape}, must be one number a frame")
        back = ~(np.diff(stamps, prepend=-np.inf) > 0)
        if back.any() or not np.isfinite(stamps).all():
            frame = int(back.argmax())
            raise FieldError(
                "timestamp", f"time does not advance at frame {frame}; times must increase"
            )
        grid = np.arange(len(stamps), dtype=np.float64) / self.fps
        if np.abs(stamps - stamps[0] - grid).max() > 0.01 / self.fps:
            return stamps - stamps[0]
        return grid

    def _read(self, index: int, key: str) -> NDArray[Any]:
        file = self._file("data_path", DATA_PATH, index)
        if not file.is_file():
            raise FieldError(None, "missing; copy the dataset again")
        return read_column(self.root.absolute(), file, key, index)

    def _file(self, key: str, default: str, index: int, view: str = "") -> Path:
        number = self.numbers[index]
        return fill(
            self.root,
            self.info,
            key,
            default,
            episode_chunk=number // self.chunk_size,
            episode_index=number,
            video_key=view,
        )

    def _check_numbers(self) -> None:
        if not self.numbers:
            message = "the dataset is empty: no episodes; record or copy it again"
            raise DatasetError(self.path, [Problem(file="meta/episodes.jsonl", message=message)])
        if min(self.numbers) < 0 or len(set(self.numbers)) != len(self.numbers):
            message = "episode numbers are below 0 or repeated; write the dataset again"
            problem = Problem(file="meta/episodes.jsonl", field="episode_index", message=message)
            raise DatasetError(self.path, [problem])
        missing = {e.task for e in self.episodes if e.task} - self.texts
        if missing:
            message = f"{sorted(missing)[0]!r} of meta/episodes.jsonl is not in it; copy it again"
            problem = Problem(file="meta/tasks.jsonl", field="task", message=message)
            raise DatasetError(self.path, [problem])


def read_column(root: Path, file: Path, key: str, index: int) -> NDArray[Any]:
    """Return one column of an episode's parquet file; raises DatasetError naming the episode."""
    try:
        return to_matrix(root, read_table(root, file, [key]), key)
    except DatasetError as error:
        name = file.relative_to(root).as_posix()
        problems = [
            Problem(file=name, episode=index, field=p.field, message=p.message)
            for p in error.problems
        ]
        raise DatasetError(str(root), problems) from None


def read_lines(root: Path, name: str, fields: dict[str, type]) -> list[dict[str, Any]]:
    """Read a file of JSON lines whose rows must have `fields` of the given types.

    Raises:
        DatasetError: no such file, a line that is no JSON object, a missing field.
    """
    try:
        text = (root / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        message = "missing; copy the dataset again"
        raise DatasetError(str(root), [Problem(file=name, message=message)]) from None
    except (OSError, UnicodeDecodeError) as error:
        message = f"not readable ({' '.join(str(error).split())}); copy it again"
        raise DatasetError(str(root), [Problem(file=name, message=message)]) from None
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            message = f"line {number} is not JSON; copy it again"
            raise DatasetError(str(root), [Problem(file=name, message=message)]) from None
        for field, kind in fields.items():
            value = row.get(field) if isinstance(row, dict) else None
            if not isinstance(value, kind) or isinstance(value, bool):
                message = f"line {number} has {value!r}, must be of type {kind.__name__}"
                raise DatasetError(str(root), [Problem(file=name, field=field, message=message)])
        rows.append(row)
    return rows


def _rule(root: Path, info: dict[str, Any]) -> SourceRule | None:
    """Return the source's row when the set keeps its poses in columns of its own."""
    feature = info["features"].get(STATE)
    shape = feature.get("shape") if isinstance(feature, dict) else None
    if shape == [STATE_DIM]:
        return None
    row = SOURCES.get(str(info.get("robot_type")))
    if row and row.container == "parquet":
        return row
    width = tuple(shape) if isinstance(shape, list) else ()
    message = row.refusal if row and row.refusal else _width_message(width)
    problem = Problem(file="meta/info.json", field=STATE, message=message)
    raise DatasetError(str(root), [problem])


def _width_message(shape: Sequence[Any]) -> str:
    width = "x".join(str(size) for size in shape) or "no"
    return (
        f"{width} values a frame, must be {STATE_DIM}: per arm xyz, rotation 6D (interleaved), "
        "gripper, the second arm zero when absent"
    )


def task_of(row: dict[str, Any], end: str) -> str:
    """Return the first instruction of an episode's row, up to `end`; "" when there is none."""
    tasks = row.get("tasks")
    first = tasks[0] if isinstance(tasks, list) and tasks else tasks
    text = first if isinstance(first, str) else ""
    return (text.split(end)[0] if end else text).strip()


def _texts(root: Path, end: str) -> set[str]:
    rows = read_lines(root, "meta/tasks.jsonl", {"task_index": int, "task": str})
    return {(row["task"].split(end)[0] if end else row["task"]).strip() for row in rows}
