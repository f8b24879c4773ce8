"""Reader of LeRobot v3.0 folders: many episodes a parquet file, many episodes an mp4 file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xvla.data.readers.base import (
    STATE_DIM,
    DatasetError,
    Episode,
    EpisodeInfo,
    Problem,
)
from xvla.data.readers.checks import lerobot_problems
from xvla.data.readers.lerobot_meta import Slot, episode_infos, read_slots, read_tasks, views_of
from xvla.data.readers.tables import column_names, read_tables, to_matrix
from xvla.data.readers.video import decode_frames

DATA_FILES = "data/*/*.parquet"
STATE = "observation.state"


class LeRobotV3:
    """A LeRobot v3.0 dataset; pixels are decoded on demand, poses are held in memory.

    `domain` is the name that info.json declares, or else the folder's.
    """

    def __init__(self, root: Path, info: dict[str, Any]) -> None:
        """Read the tables of `root`; raises DatasetError when they cannot be read."""
        self.path = str(root.resolve())
        self.root = root
        self.info = info
        self.domain = str(info.get("domain") or root.resolve().name)
        self.fps = self._positive("fps")
        self.views = views_of(root, info)
        self.slots: list[Slot] = read_slots(root, self.views)
        self.tasks = read_tasks(root)
        self.data_columns = column_names(root, DATA_FILES)
        self.table = self._read_data()
        self._columns: dict[str, NDArray[Any]] = {}
        self.states = self._read_states()
        self.bounds = self._bounds()
        self.episodes: tuple[EpisodeInfo, ...] = episode_infos(root, info, self.slots, self._task)

    def episode(self, index: int) -> Episode:
        """Return times [n] in s from the episode's start, states [n, 20] and the instruction.

        Times are frame_index / fps in float64; stored timestamps (float32 in LeRobot) are used
        only where they differ from that grid by more than a hundredth of a frame.
        """
        rows = self._rows(index)
        stamps = self._column("timestamp")[rows].astype(np.float64)
        times = np.arange(len(stamps), dtype=np.float64) / self.fps
        if len(stamps) and np.abs(stamps - stamps[0] - times).max() > 0.01 / self.fps:
            times = stamps - stamps[0]
        return Episode(times, self.states[rows], self.episodes[index].task)

    def column(self, index: int, key: str) -> NDArray[Any]:
        """Return the column `key` of an episode, [n] or [n, d]; ValueError if there is none."""
        if key not in self.data_columns:
            raise ValueError(
                f"dataset {self.path} has no column {key!r}; it has {', '.join(self.data_columns)}"
            )
        return self._column(key)[self._rows(index)]

    def frames(self, index: int, view: str, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Return frames of one view, uint8 [k, H, W, 3] RGB, `indices` counted in the episode."""
        if view not in self.views:
            raise ValueError(
                f"dataset {self.path} has no view {view!r}; it has {', '.join(self.views)}"
            )
        length = self.episodes[index].length
        beyond = [i for i in indices if not 0 <= i < length]
        if beyond:
            raise ValueError(f"episode {index} has {length} frames; frame {beyond[0]} is not one")
        clip = self.slots[index].clips[view]
        first = round(clip.start_s * self.fps)
        path = self.video_file(index, view)
        return decode_frames(path, [first + int(i) for i in indices], fps=self.fps)

    def video_file(self, index: int, view: str) -> Path:
        """Return the mp4 that holds an episode's frames of one view."""
        clip = self.slots[index].clips[view]
        template = self.info.get(
            "video_path", "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        )
        name = template.format(video_key=view, chunk_index=clip.chunk, file_index=clip.file)
        return self.root / name

    def problems(self) -> list[Problem]:
        """Return the defects of poses, instructions and videos, without decoding videos."""
        return lerobot_problems(self)

    def _read_data(self) -> pa.Table:
        wanted = [STATE, "timestamp", "episode_index", "task_index"]
        if "action" in self.data_columns:
            wanted.append("action")
        table = read_tables(self.root, DATA_FILES, wanted)
        if table.num_rows == 0 or not self.slots:
            message = "the dataset is empty: no episodes; record or copy it again"
            raise DatasetError(self.path, [Problem(file="data", message=message)])
        return table

    def _read_states(self) -> NDArray[np.float32]:
        """Return all poses of the set, [frames, 20] float32."""
        states = to_matrix(self.root, self.table, STATE).astype(np.float32, copy=False)
        if states.ndim != 2 or states.shape[1] != STATE_DIM:
            width = states.shape[1] if states.ndim == 2 else 1
            message = (
                f"{width} values a frame, must be {STATE_DIM}: per arm xyz, rotation 6D "
                "(interleaved), gripper, the second arm zero when absent"
            )
            raise DatasetError(self.path, [Problem(file="data", field=STATE, message=message)])
        states.setflags(write=False)
        return states

    def _bounds(self) -> NDArray[np.int64]:
        """Return row bounds [episodes + 1]; the meta table and the data must agree on them."""
        owners = self._column("episode_index")
        counts = np.bincount(owners, minlength=len(self.slots))
        for slot in self.slots:
            if counts[slot.index] != slot.length or slot.length == 0:
                message = (
                    f"{counts[slot.index]} rows, meta/episodes says {slot.length}"
                    if slot.length
                    else "the episode is empty: no frames"
                )
                problem = Problem(file="data", episode=slot.index, message=message)
                raise DatasetError(self.path, [problem])
        if len(counts) > len(self.slots) or np.any(np.diff(owners) < 0):
            message = "rows are not in the order of meta/episodes; write the dataset again"
            problem = Problem(file="data", field="episode_index", message=message)
            raise DatasetError(self.path, [problem])
        return np.concatenate([[0], np.cumsum(counts)])

    def _rows(self, index: int) -> slice:
        if not 0 <= index < len(self.slots):
            raise ValueError(f"episode {index} is not one of 0..{len(self.slots) - 1}")
        return slice(int(self.bounds[index]), int(self.bounds[index + 1]))

    def _column(self, key: str) -> NDArray[Any]:
        """Return a column of the whole set, converted once."""
        if key not in self._columns:
            known = key in self.table.column_names
            table = self.table if known else read_tables(self.root, DATA_FILES, [key])
            self._columns[key] = to_matrix(self.root, table, key)
        return self._columns[key]

    def _task(self, index: int) -> str:
        task = int(self._column("task_index")[self.bounds[index]])
        return self.tasks.get(task, "")

    def _positive(self, key: str) -> float:
        value = self.info.get(key)
        if not isinstance(value, int | float) or not value > 0:
            problem = Problem(
                file="meta/info.json", field=key, message=f"{value!r}, must be a number above 0"
            )
            raise DatasetError(self.path, [problem])
        return float(value)
