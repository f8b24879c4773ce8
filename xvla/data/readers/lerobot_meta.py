"""The meta folder of a LeRobot v3.0 set: views, tasks, splits, and where each episode lies."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xvla.data.readers.base import Problem, fail
from xvla.data.readers.tables import column_names, is_list, read_tables, to_array

FOLDER = "meta/episodes"
EPISODE_FILES = f"{FOLDER}/*/*.parquet"
CLIP_FIELDS = ("chunk_index", "file_index", "from_timestamp")
DATA_FIELDS = ("data/chunk_index", "data/file_index")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clips:
    """Where the episodes' frames of one view lie: file numbers and the time of the first frame."""

    chunk: NDArray[np.int64]
    file: NDArray[np.int64]
    start_s: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """The columns of meta/episodes that are used: lengths [n] in frames, clips by view.

    `tasks` is the instruction of each episode as (numbers [n], texts), None where the table does
    not name exactly one. `data` [n, 2] are the chunk and the number of each episode's data file,
    None where the table does not say.
    """

    lengths: NDArray[np.int64]
    clips: dict[str, Clips]
    tasks: tuple[NDArray[np.int64], list[str]] | None
    data: NDArray[np.int64] | None


class DataFile(NamedTuple):
    """One data file of a set by its numbers, as templates of info.json take them."""

    chunk_index: int
    file_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One feature of info.json; `width` numbers a frame, 0 where its shape does not say."""

    name: str
    dtype: str
    width: int
    names: object
    is_depth: bool


Features = dict[str, Feature]


def features_of(root: Path, info: dict[str, Any]) -> Features:
    """Return the features of info.json, by name; raises DatasetError when it lists none."""
    features = info.get("features")
    if not isinstance(features, dict):
        fail(root, "meta/info.json", "features", "missing; it must list the columns and views")
    return {
        name: Feature(
            name=name,
            dtype=str(value.get("dtype")),
            width=_width(value.get("shape")),
            names=value.get("names"),
            is_depth=_is_depth(value),
        )
        for name, value in features.items()
        if isinstance(value, dict)
    }


def views_of(features: Features, named: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the video features in their order (the first is the main view).

    A map of depths is no view unless it is `named`, as a mapping may name all views.
    """
    videos = (feature for feature in features.values() if feature.dtype == "video")
    return tuple(named) or tuple(video.name for video in videos if not video.is_depth)


def _width(shape: Any) -> int:
    whole = isinstance(shape, list) and all(isinstance(size, int) for size in shape)
    return int(np.prod(shape)) if whole else 0


def _is_depth(feature: Any) -> bool:
    """Tell whether a feature of info.json is a map of depths, by any of LeRobot's spellings."""
    info = feature.get("info") or feature.get("video_info")
    places = [feature, info if isinstance(info, dict) else {}]
    return any(place.get(key) for place in places for key in ("is_depth_map", "video.is_depth_map"))


def positive(root: Path, info: dict[str, Any], key: str) -> float:
    """Return a number above 0 of meta/info.json; raises DatasetError otherwise."""
    value = info.get(key)
    number = float(value) if isinstance(value, int | float) else 0.0
    if isinstance(value, bool) or not 1e-3 <= number <= 1e6:
        fail(root, "meta/info.json", key, f"{value!r}, must be a number above 0")
    return number


def read_slots(root: Path, views: Sequence[str]) -> Slots:
    """Read meta/episodes; episodes must be numbered 0, 1, 2, ..."""
    names = [f"videos/{view}/{name}" for view in views for name in CLIP_FIELDS]
    known = column_names(root, EPISODE_FILES)
    tasks = ["tasks"] if "tasks" in known else []
    data = [*DATA_FIELDS] if {*DATA_FIELDS} <= {*known} else []
    table = read_tables(root, EPISODE_FILES, ["episode_index", "length", *names, *tasks, *data])
    for name in ["episode_index", "length", *names, *data]:
        if table.column(name).null_count:
            fail(root, FOLDER, name, "an episode has no value; write the dataset again")
    numbers = _numbers(root, table, "episode_index").astype(np.int64)
    if not np.array_equal(numbers, np.arange(len(numbers))):
        message = "episodes are not numbered 0, 1, 2, ...; write the dataset again"
        fail(root, FOLDER, "episode_index", message)
    return Slots(
        lengths=_numbers(root, table, "length").astype(np.int64),
        clips={view: _clips(root, table, view) for view in views},
        tasks=_one_task_each(table) if tasks else None,
        data=np.stack([_numbers(root, table, name) for name in data], axis=1).astype(np.int64)
        if data
        else None,
    )


def read_listed_tasks(root: Path) -> list[list[str]]:
    """Return the instructions that meta/episodes lists of each episode; none where it does not."""
    if "tasks" not in column_names(root, EPISODE_FILES):
        return []
    rows = read_tables(root, EPISODE_FILES, ["tasks"]).column("tasks").to_pylist()
    rows = [[row] if isinstance(row, str) else row or [] for row in rows]
    return [[text.strip() for text in row if isinstance(text, str)] for row in rows]


def named_files(slots: Slots) -> list[DataFile] | None:
    """Return the data files that meta/episodes names, in the order of their first episodes."""
    if slots.data is None:
        return None
    _, first = np.unique(slots.data, axis=0, return_index=True)
    return [DataFile(*slots.data[episode].tolist()) for episode in np.sort(first)]


def overlapping(slots: Slots, fps: float) -> list[Problem]:
    """Return two errors for each pair of episodes whose clips of one video share frames.

    Which of the two is wrong is not known: neither can be used.
    """
    found: list[Problem] = []
    for view, clips in slots.clips.items():
        order = np.lexsort((clips.start_s, clips.file, clips.chunk))
        end = clips.start_s + slots.lengths / fps
        one, two = order[:-1], order[1:]
        same = (clips.file[one] == clips.file[two]) & (clips.chunk[one] == clips.chunk[two])
        # Half a frame is rounding; LeRobot's own starts are sums of floats.
        shared = same & (clips.start_s[two] < end[one] - 0.5 / fps)
        for pair in zip(one[shared].tolist(), two[shared].tolist(), strict=True):
            found += _overlap(view, pair, clips.start_s, end)
    return found


def _overlap(
    view: str, pair: tuple[int, int], start: NDArray[np.float64], end: NDArray[np.float64]
) -> list[Problem]:
    one, two = pair
    spans = [f"episode {e} at {start[e]:.4g} to {end[e]:.4g} s" for e in (one, two)]
    message = (
        f"clips of one video overlap: {spans[0]}, {spans[1]}; a from_timestamp is wrong, so the "
        "pictures of one of them belong to the other; write meta/episodes again"
    )
    field = f"videos/{view}/from_timestamp"
    return [Problem(file=FOLDER, episode=e, field=field, message=message) for e in (one, two)]


def _clips(root: Path, table: pa.Table, view: str) -> Clips:
    chunk, file, start = (_numbers(root, table, f"videos/{view}/{name}") for name in CLIP_FIELDS)
    return Clips(
        chunk=chunk.astype(np.int64), file=file.astype(np.int64), start_s=start.astype(np.float64)
    )


def _numbers(root: Path, table: pa.Table, name: str) -> NDArray[Any]:
    values = to_array(table.column(name).combine_chunks())
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        fail(root, FOLDER, name, "not a number in every row; write the dataset again")
    return values


def _one_task_each(table: pa.Table) -> tuple[NDArray[np.int64], list[str]] | None:
    column = table.column("tasks").combine_chunks()
    if not is_list(column.type) or not _is_text(column.type.value_type):
        return None
    if column.null_count or np.any(np.diff(to_array(column.offsets)) != 1):
        return None
    coded = column.flatten().dictionary_encode()
    if coded.null_count:
        return None
    texts = [(text or "").strip() for text in coded.dictionary.to_pylist()]
    return to_array(coded.indices).astype(np.int64), texts


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


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


def split_names(root: Path, splits: Any, count: int, *, file: str = "meta/info.json") -> list[str]:
    """Return the split of each of `count` episodes, "" where none is named.

    Raises:
        DatasetError: `splits` is no object of spans, or spans overlap or end too late.
    """
    if not isinstance(splits or {}, dict):
        message = f"{splits!r}, must be an object like {{'train': '0:40', 'val': '40:48'}}"
        fail(root, file, "splits", message)
    names = [""] * count
    for name, span in (splits or {}).items():
        first, last = _span(root, name, span, count=count, file=file)
        if any(names[first:last]):
            message = f"{name} = {span!r} overlaps another split; episodes belong to one split"
            fail(root, file, "splits", message)
        names[first:last] = [name] * (last - first)
    return names


def _span(root: Path, name: str, span: Any, *, count: int, file: str) -> tuple[int, int]:
    first, _, last = str(span).partition(":")
    if not (first.isdigit() and last.isdigit() and int(first) <= int(last) <= count):
        message = f"{name} = {span!r}, must be 'first:last' with last <= {count} episodes"
        fail(root, file, "splits", message)
    return int(first), int(last)
