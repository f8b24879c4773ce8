"""Reader of LeRobot v2.1 folders: one parquet file and one mp4 a view for each episode."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xvla.data.readers.base import (
    CHECKED_EPISODES,
    CHECKED_FRAMES,
    DatasetError,
    FieldError,
    Problem,
    fail,
    one_line,
)
from xvla.data.readers.episode_files import STATE, TableAndVideo, check_width
from xvla.data.readers.episode_table import EpisodeTable
from xvla.data.readers.lerobot_meta import features_of, positive, split_names, views_of
from xvla.data.readers.paths import fill
from xvla.data.readers.row_tasks import Blocks, contradictions, table_of_rows
from xvla.data.readers.sources import SOURCES, SourceRule
from xvla.data.readers.tables import opened_table, to_matrix
from xvla.mapping import StateMapping

DATA_PATH = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_PATH = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
EPISODES, TASKS = "meta/episodes.jsonl", "meta/tasks.jsonl"
# Read together: opening a file costs as much as reading them.
USUAL = (STATE, "timestamp", "task_index")


class LeRobotV21(TableAndVideo):
    """A LeRobot v2.1 dataset; poses are read an episode at a time and kept, pixels decoded.

    A set whose state is not 20 wide is read by the row of the table of sources that its robot_type
    names.
    """

    format = "lerobot_v21"
    lengths_file = EPISODES

    def __init__(
        self, root: Path, meta: dict[str, Any], mapping: StateMapping | None = None
    ) -> None:
        """Read the meta folder; raises DatasetError when it cannot be read."""
        super().__init__(root, meta, mapping)
        self.listed: list[list[str]] = []  # instructions that the meta folder names, by episode
        self._kept: tuple[Path, pa.Table] | None = None  # of the episode read last
        self.read_meta()

    def read_meta(self) -> None:
        """Set what is known of the set and its episodes without opening them."""
        root, info = self.root, self.meta
        self.no_file = str(info.get("data_path"))  # stands for an episode's file without a name
        self.fps = positive(root, info, "fps")
        self.views = views_of(features_of(root, info), self.mapping.views if self.mapping else ())
        self.rule = None if self.mapping else _rule(root, info)
        named = self.rule.domain if self.rule else root.resolve().name
        self.domain = str(info.get("domain") or named)
        self.chunk_size = int(positive(root, {"chunks_size": 1000, **info}, "chunks_size"))
        rows = list(_lines(root, EPISODES, {"episode_index": int, "length": int}))
        self.numbers = [row["episode_index"] for row in rows]
        splits = split_names(root, info.get("splits"), len(rows))
        separator = self.rule.task_separator if self.rule else ""
        self.listed = [_texts(row.get("tasks"), separator) for row in rows]
        texts = self._task_texts(separator)
        self.episodes = self._table([row["length"] for row in rows], splits, texts)

    def remarks(self) -> list[Problem]:
        """Return warnings of the set as a whole."""
        return [*super().remarks(), *contradictions(self.episodes, self.listed, EPISODES)]

    def read_column(self, index: int, key: str) -> NDArray[Any]:
        """Read a column of an episode's parquet file; raises DatasetError naming the episode."""
        file, root = self.file("data_path", DATA_PATH, index), self.root.absolute()
        if not file.is_file():
            raise FieldError(None, "missing; copy the dataset again")
        try:
            if self._kept is None or self._kept[0] != file or key not in self._kept[1].column_names:
                self._kept = file, _read_usual(root, file, key)
            return to_matrix(root, self._kept[1], key)
        except DatasetError as error:
            problem = error.problems[0]
            fail(root, file, problem.field, problem.message, index)

    def video_file(self, index: int, view: str) -> Path:
        """Return the mp4 of an episode's view."""
        return self.file("video_path", VIDEO_PATH, index, view)

    def data_file(self, index: int) -> str:
        """Return the name of an episode's parquet file."""
        try:
            file = self.file("data_path", DATA_PATH, index)
        except ValueError:
            return self.no_file
        return file.relative_to(self.root.absolute()).as_posix()

    def task_place(self, index: int) -> tuple[str, str]:
        """Return the file and the field that hold an episode's instruction."""
        return self.data_file(index), "tasks"

    def file(self, key: str, default: str, index: int, view: str = "") -> Path:
        """Return a file of an episode, by the template `key` of meta/info.json."""
        number = self.numbers[index]
        return fill(
            self.root,
            self.meta,
            key,
            default,
            episode_chunk=number // self.chunk_size,
            episode_index=number,
            video_key=view,
        )

    def _task_texts(self, separator: str) -> dict[int, str]:
        """Return the instruction by number; the tables of the meta folder must agree on them."""
        if not self.numbers:
            message = "the dataset is empty: no episodes; record or copy it again"
            fail(self.path, EPISODES, None, message)
        if min(self.numbers) < 0 or len(set(self.numbers)) != len(self.numbers):
            message = "episode numbers are below 0 or repeated; write the dataset again"
            fail(self.path, EPISODES, "episode_index", message)
        rows = _lines(self.root, TASKS, {"task_index": int, "task": str})
        texts = {row["task_index"]: first_task(row["task"], separator) for row in rows}
        if missing := {text for row in self.listed for text in row} - {*texts.values()}:
            message = f"{min(missing)!r} of {EPISODES} is not in it; copy it again"
            fail(self.path, TASKS, "task", message)
        return texts

    def _table(self, lengths: list[int], splits: list[str], texts: dict[int, str]) -> EpisodeTable:
        """Return the episodes with the instructions of their rows.

        Of a large set, whose files are too many to open, those of the meta folder: the rows are
        compared with them when they are read.
        """
        frames = sum(max(1, length) for length in lengths)
        if len(lengths) > CHECKED_EPISODES or frames > CHECKED_FRAMES:
            self.unread_tasks = texts
            return EpisodeTable.of(lengths, splits, [row[0] if row else "" for row in self.listed])
        # Where the rows cannot be read, a number of its own stands for what the meta folder says.
        first = {-1 - e: row[0] for e, row in enumerate(self.listed) if row}
        blocks = self._row_tasks(lengths)
        return table_of_rows(np.array(lengths), splits, blocks, {**texts, **first})

    def _row_tasks(self, lengths: list[int]) -> Blocks:
        """Yield (first row, task numbers) of each episode."""
        first = 0
        for index, length in enumerate(lengths):
            numbers = self._own_numbers(index)
            if numbers is None or len(numbers) != length:
                numbers = np.full(max(1, length), -1 - index)
            yield first, numbers
            first += len(numbers)

    def _own_numbers(self, index: int) -> NDArray[np.int64] | None:
        """Return the task numbers of an episode's rows, None where they cannot be read."""
        try:
            rows = self.read_column(index, "task_index")
        except (DatasetError, FieldError):
            return None  # said when the episode is read
        return rows if rows.dtype.kind in "iu" and rows.ndim == 1 else None


def _lines(root: Path, name: str, fields: dict[str, type]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file of JSON lines, which must have `fields` of the given types.

    Raises:
        DatasetError: no such file, a line that is no JSON object, a missing field.
    """
    try:
        text = (root / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        fail(root, name, None, "missing; copy the dataset again")
    except (OSError, UnicodeDecodeError) as error:
        fail(root, name, None, f"not readable ({one_line(error)}); copy it again")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            fail(root, name, None, f"line {number} is not JSON; copy it again")
        for field, kind in fields.items():
            value = row.get(field) if isinstance(row, dict) else None
            if not isinstance(value, kind) or isinstance(value, bool):
                message = f"line {number} has {value!r}, must be of type {kind.__name__}"
                fail(root, name, field, message)
        yield row


def _rule(root: Path, info: dict[str, Any]) -> SourceRule | None:
    """Return the source's row when the set keeps its poses in columns of its own."""
    feature = info["features"].get(STATE)
    shape = feature.get("shape") if isinstance(feature, dict) else None
    try:
        check_width(shape if isinstance(shape, list) else ())
    except FieldError as error:
        row = SOURCES.get(str(info.get("robot_type")))
        if row and row.container == "parquet":
            return row
        fail(root, "meta/info.json", STATE, row.refusal if row and row.refusal else error.message)
    return None


def _read_usual(root: Path, file: Path, key: str) -> pa.Table:
    """Read the column `key` and those that are wanted with it."""
    with opened_table(root, file, [key]) as parquet:
        there = {key, *USUAL} & {*parquet.schema_arrow.names}
        return parquet.read(columns=sorted(there))


def _texts(tasks: Any, separator: str) -> list[str]:
    """Return the instructions of a row of the meta folder, without empty ones."""
    listed = tasks if isinstance(tasks, list) else [tasks]
    return [text for text in (first_task(task, separator) for task in listed) if text]


def first_task(tasks: Any, separator: str) -> str:
    """Return the first of an episode's instructions, up to `separator`; "" when there is none."""
    first = tasks[0] if isinstance(tasks, list) and tasks else tasks
    text = first if isinstance(first, str) else ""
    return (text.split(separator)[0] if separator else text).strip()
