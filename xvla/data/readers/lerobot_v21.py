"""Reader of LeRobot v2.1 folders: one parquet file and one mp4 a view for each episode."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from xvla.data.readers.base import DatasetError, FieldError, fail, one_line
from xvla.data.readers.episode_files import STATE, TableAndVideo, check_width
from xvla.data.readers.episode_table import EpisodeTable
from xvla.data.readers.lerobot_meta import positive, split_names, views_of
from xvla.data.readers.paths import fill
from xvla.data.readers.sources import SOURCES, SourceRule
from xvla.data.readers.tables import read_table, to_matrix

DATA_PATH = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_PATH = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
EPISODES, TASKS = "meta/episodes.jsonl", "meta/tasks.jsonl"


class LeRobotV21(TableAndVideo):
    """A LeRobot v2.1 dataset; poses are read an episode at a time and kept, pixels decoded.

    A set whose state is not 20 wide is read by the row of the table of sources that its robot_type
    names.
    """

    format = "lerobot_v21"
    lengths_file = EPISODES

    def __init__(self, root: Path, meta: dict[str, Any]) -> None:
        """Read the meta folder; raises DatasetError when it cannot be read."""
        super().__init__(root, meta)
        self.read_meta()

    def read_meta(self) -> None:
        """Set what is known of the set and its episodes without opening them."""
        root, info = self.root, self.meta
        self.no_file = str(info.get("data_path"))  # stands for an episode's file without a name
        self.fps = positive(root, info, "fps")
        self.views = views_of(root, info)
        self.rule = _rule(root, info)
        named = self.rule.domain if self.rule else root.resolve().name
        self.domain = str(info.get("domain") or named)
        self.chunk_size = int(positive(root, {"chunks_size": 1000, **info}, "chunks_size"))
        rows = list(_lines(root, EPISODES, {"episode_index": int, "length": int}))
        self.numbers = [row["episode_index"] for row in rows]
        splits = split_names(root, info.get("splits"), len(rows))
        separator = self.rule.task_separator if self.rule else ""
        tasks = [first_task(row.get("tasks"), separator) for row in rows]
        self.episodes = EpisodeTable.of([row["length"] for row in rows], splits, tasks)
        self._check_numbers({task for task in tasks if task}, separator)

    def read_column(self, index: int, key: str) -> NDArray[Any]:
        """Read a column of an episode's parquet file; raises DatasetError naming the episode."""
        file, root = self.file("data_path", DATA_PATH, index), self.root.absolute()
        if not file.is_file():
            raise FieldError(None, "missing; copy the dataset again")
        try:
            return to_matrix(root, read_table(root, file, [key]), key)
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

    def _check_numbers(self, tasks: set[str], separator: str) -> None:
        if not self.numbers:
            message = "the dataset is empty: no episodes; record or copy it again"
            fail(self.path, EPISODES, None, message)
        if min(self.numbers) < 0 or len(set(self.numbers)) != len(self.numbers):
            message = "episode numbers are below 0 or repeated; write the dataset again"
            fail(self.path, EPISODES, "episode_index", message)
        rows = _lines(self.root, TASKS, {"task_index": int, "task": str})
        if missing := tasks - {first_task(row["task"], separator) for row in rows}:
            message = f"{min(missing)!r} of {EPISODES} is not in it; copy it again"
            fail(self.path, TASKS, "task", message)


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


def first_task(tasks: Any, separator: str) -> str:
    """Return the first of an episode's instructions, up to `separator`; "" when there is none."""
    first = tasks[0] if isinstance(tasks, list) and tasks else tasks
    text = first if isinstance(first, str) else ""
    return (text.split(separator)[0] if separator else text).strip()
