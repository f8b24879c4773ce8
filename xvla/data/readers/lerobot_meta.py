"""The meta folder of a LeRobot v3.0 set: views, tasks, splits, and where each episode lies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xvla.data.readers.base import DatasetError, EpisodeInfo, Problem
from xvla.data.readers.tables import column_names, read_tables

EPISODE_FILES = "meta/episodes/*/*.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """Where an episode's frames of one view lie: file numbers and the time of its first frame."""

    chunk: int
    file: int
    start_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One row of meta/episodes: number, length in frames, and a clip for each view."""

    index: int
    length: int
    clips: dict[str, Clip]


def views_of(root: Path, info: dict[str, Any]) -> tuple[str, ...]:
    """Return the video features of info.json in their order (the first is the main view)."""
    features = info.get("features")
    if not isinstance(features, dict):
        message = "missing; it must list the columns and views"
        problem = Problem(file="meta/info.json", field="features", message=message)
        raise DatasetError(str(root), [problem])
    return tuple(
        key
        for key, value in features.items()
        if isinstance(value, dict) and value.get("dtype") == "video"
    )


def read_slots(root: Path, views: Sequence[str]) -> list[Slot]:
    """Read meta/episodes; episodes must be numbered 0, 1, 2, ..."""
    fields = {"chunk": "chunk_index", "file": "file_index", "start_s": "from_timestamp"}
    names = [f"videos/{view}/{name}" for view in views for name in fields.values()]
    rows = read_tables(root, EPISODE_FILES, ["episode_index", "length", *names]).to_pylist()
    slots = [
        Slot(
            index=int(row["episode_index"]),
            length=int(row["length"]),
            clips={
                view: Clip(**{key: row[f"videos/{view}/{name}"] for key, name in fields.items()})
                for view in views
            },
        )
        for row in rows
    ]
    if [slot.index for slot in slots] != list(range(len(slots))):
        message = "episodes are not numbered 0, 1, 2, ...; write the dataset again"
        problem = Problem(file="meta/episodes", field="episode_index", message=message)
        raise DatasetError(str(root), [problem])
    return slots


def read_tasks(root: Path) -> dict[int, str]:
    """Read meta/tasks.parquet: instruction by task_index.

    LeRobot writes it with pandas, the instruction being the index, so the text column is called
    `task` or `__index_level_0__` depending on the version.
    """
    names = column_names(root, "meta/tasks.parquet")
    text = next((name for name in ("task", "__index_level_0__") if name in names), "task")
    table = read_tables(root, "meta/tasks.parquet", ["task_index", text])
    indices = table.column("task_index").to_pylist()
    texts = table.column(text).to_pylist()
    return {int(index): (words or "").strip() for index, words in zip(indices, texts, strict=True)}


def episode_infos(
    root: Path, info: dict[str, Any], slots: Sequence[Slot], task_of: Callable[[int], str]
) -> tuple[EpisodeInfo, ...]:
    """Join slots, instructions and the splits of info.json ("train": "0:40", end exclusive)."""
    split = split_names(root, info.get("splits"), len(slots))
    return tuple(
        EpisodeInfo(id=s.index, task=task_of(s.index), length=s.length, split=split[s.index])
        for s in slots
    )


def split_names(root: Path, splits: Any, count: int, *, file: str = "meta/info.json") -> list[str]:
    """Return the split of each of `count` episodes, "" where none is named.

    Raises:
        DatasetError: `splits` is no object of spans, or spans overlap or end too late.
    """
    if not isinstance(splits or {}, dict):
        message = f"{splits!r}, must be an object like {{'train': '0:40', 'val': '40:48'}}"
        raise DatasetError(str(root), [Problem(file=file, field="splits", message=message)])
    names = [""] * count
    for name, span in (splits or {}).items():
        first, last = _span(root, name, span, count)
        if any(names[first:last]):
            message = f"{name} = {span!r} overlaps another split; episodes belong to one split"
            raise DatasetError(str(root), [Problem(file=file, field="splits", message=message)])
        names[first:last] = [name] * (last - first)
    return names


def _span(root: Path, name: str, span: Any, count: int) -> tuple[int, int]:
    first, _, last = str(span).partition(":")
    if first.isdigit() and last.isdigit() and int(first) <= int(last) <= count:
        return int(first), int(last)
    message = f"{name} = {span!r}, must be 'first:last' with last <= {count} episodes"
    problem = Problem(file="meta/info.json", field="splits", message=message)
    raise DatasetError(str(root), [problem])
