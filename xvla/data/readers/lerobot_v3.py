"""Reader of LeRobot v3.0 folders: many episodes a parquet file, many episodes an mp4 file."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from xvla.data.readers.base import FieldError, Poses, Problem, fail
from xvla.data.readers.episode_files import TableAndVideo
from xvla.data.readers.episode_table import EpisodeTable
from xvla.data.readers.lerobot_meta import (
    FOLDER,
    Slots,
    features_of,
    named_files,
    overlapping,
    positive,
    read_listed_tasks,
    read_slots,
    read_tasks,
    split_names,
    views_of,
)
from xvla.data.readers.paths import fill
from xvla.data.readers.row_groups import RowGroups
from xvla.data.readers.row_tasks import contradictions, table_of_rows
from xvla.data.readers.tables import matching
from xvla.mapping import StateMapping

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
# Up to this many frames the rows' owners are compared with meta/episodes when the set is opened;
# of a larger set those of an episode are when it is read.
COMPARED_FRAMES = 500_000


class LeRobotV3(TableAndVideo):
    """A LeRobot v3.0 dataset: a few columns of its meta tables are in memory, nothing else.

    `domain` is the name that info.json declares, or else the folder's.
    """

    format = "lerobot_v3"
    lengths_file = "meta/episodes"

    def __init__(
        self, root: Path, info: dict[str, Any], mapping: StateMapping | None = None
    ) -> None:
        """Read the meta tables of `root`; raises DatasetError when they cannot be read."""
        super().__init__(root, info, mapping)
        # A template that leaves the folder does so for the first episode as well.
        fill(root, info, "video_path", VIDEO_PATH, video_key="view", chunk_index=0, file_index=0)
        self.domain = str(info.get("domain") or root.resolve().name)
        self.fps = positive(root, info, "fps")
        self.views = views_of(features_of(root, info), self.mapping.views if self.mapping else ())
        self.slots = read_slots(root, self.views)
        files, self.leftover = _data_files(root, info, self.slots)
        self.data = RowGroups(root, files)
        self.bounds = self._bounds()
        self._videos: dict[tuple[str, int, int], Path] = {}  # many episodes share one
        splits = split_names(root, info.get("splits"), len(self.slots.lengths))
        self.episodes = self._table(splits)
        shared = reversed(overlapping(self.slots, self.fps))
        self.broken = {problem.episode or 0: problem for problem in shared}

    def read_poses(self, index: int) -> Poses:
        """Read and check one episode's poses; raises FieldError or DatasetError."""
        if (self.read_column(index, "episode_index") != index).any():
            raise FieldError(None, "rows of another episode; write it again")
        return super().read_poses(index)

    def read_column(self, index: int, key: str) -> NDArray[Any]:
        """Read the rows of an episode; raises DatasetError when they cannot be read."""
        return self.data.rows(key, int(self.bounds[index]), int(self.bounds[index + 1]))

    def remarks(self) -> list[Problem]:
        """Return warnings of the set as a whole."""
        message = "not named by meta/episodes, so not read; delete it if it is a leftover"
        left = [Problem(file=name, message=message, severity="warning") for name in self.leftover]
        listed = read_listed_tasks(self.root)
        return [*super().remarks(), *left, *contradictions(self.episodes, listed, FOLDER)]

    def data_file(self, index: int) -> str:
        """Return the name of the parquet file that holds an episode's first row."""
        return self.data.file_of(int(self.bounds[index]))

    def task_place(self, index: int) -> tuple[str, str]:
        """Return the file and the field that hold an episode's instruction."""
        return "meta/tasks.parquet", "task"

    def start_s(self, index: int, view: str) -> float:
        """Return the time in its video, in s, at which an episode begins."""
        return float(self.slots.clips[view].start_s[index])

    def video_file(self, index: int, view: str) -> Path:
        """Return the mp4 that holds an episode's frames of one view."""
        clips = self.slots.clips[view]
        place = (view, int(clips.chunk[index]), int(clips.file[index]))
        if place not in self._videos:
            names = dict(zip(("video_key", "chunk_index", "file_index"), place, strict=True))
            self._videos[place] = fill(self.root, self.meta, "video_path", VIDEO_PATH, **names)
        return self._videos[place]

    def _bounds(self) -> NDArray[np.int64]:
        """Return row bounds [episodes + 1]; the meta table and the data must agree on them."""
        lengths = self.slots.lengths
        if len(self.data) == 0 or len(lengths) == 0:
            self._fail("the dataset is empty: no episodes; record or copy it again")
        if (lengths < 1).any():
            self._fail("the episode is empty: no frames", episode=int((lengths < 1).argmax()))
        if len(self.data) <= COMPARED_FRAMES:
            self._compare_owners()
        elif len(self.data) != lengths.sum():
            self._fail(f"{len(self.data)} rows, meta/episodes says {lengths.sum()}")
        return np.concatenate([[0], np.cumsum(lengths)])

    def _compare_owners(self) -> None:
        lengths = self.slots.lengths
        owners = np.concatenate([rows for _, rows in self._numbers("episode_index")])
        if owners.min(initial=0) < 0 or np.any(np.diff(owners) < 0):
            message = "rows are not in the order of meta/episodes; write the dataset again"
            self._fail(message, field="episode_index")
        counts = np.bincount(owners, minlength=len(lengths))
        differ = np.flatnonzero(counts[: len(lengths)] != lengths)
        if len(differ):
            first = int(differ[0])
            message = f"{counts[first]} rows, meta/episodes says {lengths[first]}"
            self._fail(message, episode=first)
        if len(counts) > len(lengths):
            message = (
                f"rows of episode {len(counts) - 1}, meta/episodes has {len(lengths)} episodes"
            )
            self._fail(message, field="episode_index")

    def _table(self, splits: list[str]) -> EpisodeTable:
        """Return the episodes with the instructions of their rows.

        Of a large set whose meta table names one instruction an episode, the rows are compared
        with it when they are read.
        """
        texts = read_tasks(self.root)
        if len(self.data) > COMPARED_FRAMES and self.slots.tasks is not None:
            self.unread_tasks = texts
            return EpisodeTable(self.slots.lengths, splits, self.slots.tasks)
        return table_of_rows(self.slots.lengths, splits, self._numbers("task_index"), texts)

    def _numbers(self, key: str) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield (first row, values) of a column that must hold whole numbers."""
        for first, rows in self.data.blocks(key):
            if rows.dtype.kind not in "iu" or rows.ndim != 1:
                message = "not a whole number in every row; write the dataset again"
                fail(self.path, self.data.file_of(first), key, message)
            yield first, rows

    def _fail(
        self, message: str, *, episode: int | None = None, field: str | None = None
    ) -> NoReturn:
        """Raise DatasetError for the tables as a whole, or for an episode's first row in them."""
        file = "data"
        if episode is not None:
            file = self.data.file_of(int(self.slots.lengths[:episode].clip(0).sum()))
        fail(self.path, file, field, message, episode)


def _data_files(root: Path, info: dict[str, Any], slots: Slots) -> tuple[list[Path], list[str]]:
    """Return the data files that meta/episodes names, and the names of others that lie there.

    Where it names none, all that match the template of info.json, which lie inside the folder.
    """
    first = fill(root, info, "data_path", DATA_PATH, chunk_index=0, file_index=0)
    template = str(info.get("data_path", DATA_PATH))
    pattern = re.sub(r"(\{[^{}]*\})+", "*", template)
    if Path(template).is_absolute():
        pattern = first.relative_to(root.absolute()).as_posix()
    there, named = matching(root, pattern), named_files(slots)
    if named is None:
        return there, []
    base = root.absolute()
    names = [fill(root, info, "data_path", DATA_PATH, **file._asdict()) for file in named]
    files = [root / file.relative_to(base) for file in dict.fromkeys(names)]
    for file in files:
        if not file.is_file():
            fail(root, file, None, "missing, meta/episodes names it; copy the dataset again")
    return files, [file.relative_to(root).as_posix() for file in there if file not in {*files}]
