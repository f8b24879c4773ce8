"""Reader of LeRobot v3.0 folders: many episodes a parquet file, many episodes an mp4 file."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xvla.data.readers.base import STATE_DIM, DatasetError, Episode, Problem
from xvla.data.readers.checks import lerobot_problems
from xvla.data.readers.episode_table import EpisodeTable
from xvla.data.readers.lerobot_meta import (
    Slots,
    positive,
    read_slots,
    read_tasks,
    split_names,
    views_of,
)
from xvla.data.readers.paths import fill
from xvla.data.readers.poses import FieldError, check_states, to_float32
from xvla.data.readers.row_groups import RowGroups
from xvla.data.readers.video import decode_frames

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
STATE = "observation.state"
# Up to this many frames the rows' owners are compared with meta/episodes when the set is opened;
# of a larger set those of an episode are when it is read.
COMPARED_FRAMES = 500_000


class LeRobotV3:
    """A LeRobot v3.0 dataset: a few columns of its meta tables are in memory, nothing else.

    `domain` is the name that info.json declares, or else the folder's.
    """

    def __init__(self, root: Path, info: dict[str, Any]) -> None:
        """Read the meta tables of `root`; raises DatasetError when they cannot be read."""
        self.path = str(root.resolve())
        self.root = root
        self.info = info
        self.domain = str(info.get("domain") or root.resolve().name)
        self.fps = positive(root, info, "fps")
        self.views = views_of(root, info)
        self.slots: Slots = read_slots(root, self.views)
        self.data = RowGroups(root, _data_files(root, info))
        self.data_columns = self.data.columns
        self.bounds = self._bounds()
        splits = split_names(root, info.get("splits"), len(self.slots.lengths))
        self.episodes = EpisodeTable(self.slots.lengths, splits, self._tasks())

    def episode(self, index: int) -> Episode:
        """Return times [n] in s from the episode's start, states [n, 20] and the instruction.

        Times are frame_index / fps in float64; stored timestamps (float32 in LeRobot) are used
        only where they differ from that grid by more than a hundredth of a frame. Raises
        DatasetError for poses that are none (NaN, no rotation) and times that do not advance.
        """
        first, last = self._rows(index)
        if not np.array_equal(
            self.data.rows("episode_index", first, last), np.full(last - first, index)
        ):
            raise self._data_error("rows of another episode; write it again", episode=index)
        stamps = self.data.rows("timestamp", first, last).astype(np.float64)
        self._check_stamps(index, stamps)
        times = np.arange(len(stamps), dtype=np.float64) / self.fps
        if len(stamps) and np.abs(stamps - stamps[0] - times).max() > 0.01 / self.fps:
            times = stamps - stamps[0]
        states = self.data.rows(STATE, first, last)
        self.check_width(states)
        try:
            check_states(states, STATE)
            states = to_float32(states, STATE)
        except FieldError as error:
            raise self._data_error(error.message, episode=index, field=STATE) from None
        return Episode(times, states, self.episodes[index].task)

    def column(self, index: int, key: str) -> NDArray[Any]:
        """Return the column `key` of an episode, [n] or [n, d]; ValueError if there is none."""
        if key not in self.data_columns:
            raise ValueError(
                f"dataset {self.path} has no column {key!r}; it has {', '.join(self.data_columns)}"
            )
        return self.data.rows(key, *self._rows(index))

    def frames(self, index: int, view: str, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Return frames of one view, uint8 [k, H, W, 3] RGB, `indices` counted in the episode."""
        if view not in self.views:
            raise ValueError(
                f"dataset {self.path} has no view {view!r}; it has {', '.join(self.views)}"
            )
        self._rows(index)
        length = int(self.slots.lengths[index])
        beyond = [i for i in indices if not 0 <= i < length]
        if beyond:
            raise ValueError(f"episode {index} has {length} frames; frame {beyond[0]} is not one")
        first = round(float(self.slots.clips[view].start_s[index]) * self.fps)
        path = self.video_file(index, view)
        return decode_frames(path, [first + int(i) for i in indices], fps=self.fps)

    def video_file(self, index: int, view: str) -> Path:
        """Return the mp4 that holds an episode's frames of one view."""
        clips = self.slots.clips[view]
        return fill(
            self.root,
            self.info,
            "video_path",
            VIDEO_PATH,
            video_key=view,
            chunk_index=int(clips.chunk[index]),
            file_index=int(clips.file[index]),
        )

    def problems(self) -> list[Problem]:
        """Return the defects of poses, instructions and videos, without decoding videos."""
        return lerobot_problems(self)

    def check_width(self, states: NDArray[Any]) -> None:
        """Raise DatasetError when states [n, d] are not 20 wide."""
        if states.ndim != 2 or states.shape[1] != STATE_DIM:
            width = states.shape[1] if states.ndim == 2 else 1
            message = (
                f"{width} values a frame, must be {STATE_DIM}: per arm xyz, rotation 6D "
                "(interleaved), gripper, the second arm zero when absent"
            )
            raise self._data_error(message, field=STATE)

    def _bounds(self) -> NDArray[np.int64]:
        """Return row bounds [episodes + 1]; the meta table and the data must agree on them."""
        lengths = self.slots.lengths
        if len(self.data) == 0 or len(lengths) == 0:
            raise self._data_error("the dataset is empty: no episodes; record or copy it again")
        if (lengths < 1).any():
            empty = int((lengths < 1).argmax())
            raise self._data_error("the episode is empty: no frames", episode=empty)
        if len(self.data) <= COMPARED_FRAMES:
            self._compare_owners()
        elif len(self.data) != lengths.sum():
            raise self._data_error(f"{len(self.data)} rows, meta/episodes says {lengths.sum()}")
        return np.concatenate([[0], np.cumsum(lengths)])

    def _compare_owners(self) -> None:
        lengths = self.slots.lengths
        owners = np.concatenate([rows for _, rows in self._numbers("episode_index")])
        if owners.min(initial=0) < 0 or np.any(np.diff(owners) < 0):
            message = "rows are not in the order of meta/episodes; write the dataset again"
            raise self._data_error(message, field="episode_index")
        counts = np.bincount(owners, minlength=len(lengths))
        differ = np.flatnonzero(counts[: len(lengths)] != lengths)
        if len(differ):
            first = int(differ[0])
            message = f"{counts[first]} rows, meta/episodes says {lengths[first]}"
            raise self._data_error(message, episode=first)
        if len(counts) > len(lengths):
            message = (
                f"rows of episode {len(counts) - 1}, meta/episodes has {len(lengths)} episodes"
            )
            raise self._data_error(message, field="episode_index")

    def _tasks(self) -> tuple[NDArray[np.int64], list[str]]:
        """Return the instruction of each episode: that of its first row, as (numbers, texts)."""
        if len(self.data) > COMPARED_FRAMES and self.slots.tasks is not None:
            return self.slots.tasks
        named = read_tasks(self.root)
        first = self.bounds[:-1]
        known = np.full(len(first), -1, dtype=np.int64)
        for start, rows in self._numbers("task_index"):
            mine = (first >= start) & (first < start + len(rows))
            known[mine] = rows[first[mine] - start]
        numbers, codes = np.unique(known, return_inverse=True)
        return codes, [named.get(int(number), "") for number in numbers]

    def _numbers(self, key: str) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield (first row, values) of a column that must hold whole numbers."""
        for first, rows in self.data.blocks(key):
            if rows.dtype.kind not in "iu" or rows.ndim != 1:
                message = "not a whole number in every row; write the dataset again"
                raise self._data_error(message, field=key, row=first)
            yield first, rows

    def _check_stamps(self, index: int, stamps: NDArray[np.float64]) -> None:
        advances = np.diff(stamps, axis=0, prepend=-np.inf) > 0 if stamps.ndim == 1 else [False]
        if not (np.all(advances) and np.isfinite(stamps).all()):
            message = f"time does not advance at frame {int(np.argmin(advances))}"
            message += "; times must increase"
            raise self._data_error(message, episode=index, field="timestamp")

    def _rows(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self.slots.lengths):
            raise ValueError(f"episode {index} is not one of 0..{len(self.slots.lengths) - 1}")
        return int(self.bounds[index]), int(self.bounds[index + 1])

    def _data_error(
        self,
        message: str,
        *,
        episode: int | None = None,
        field: str | None = None,
        row: int | None = None,
    ) -> DatasetError:
        if row is None and episode is not None:
            row = int(self.slots.lengths[:episode].clip(0).sum())
        file = "data" if row is None else self.data.file_of(row)
        problem = Problem(file=file, episode=episode, field=field, message=message)
        return DatasetError(self.path, [problem])


def _data_files(root: Path, info: dict[str, Any]) -> str:
    """Return the pattern of the data files that info.json names, which lie inside the folder."""
    first = fill(root, info, "data_path", DATA_PATH, chunk_index=0, file_index=0)
    template = str(info.get("data_path", DATA_PATH))
    if Path(template).is_absolute():
        return first.relative_to(root.absolute()).as_posix()
    return re.sub(r"(\{[^{}]*\})+", "*", template)
