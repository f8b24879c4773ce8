"""Owns writing any episodes as a LeRobot v3.0 data set: parquet tables, h264 videos, metadata."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xvla.data.writing.targets import check_new
from xvla.data.writing.video import VideoWriter

FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA_PATH = f"data/{FILE}.parquet"
VIDEO_PATH = "videos/{video_key}/" + FILE + ".mp4"
EPISODES_PATH = f"meta/episodes/{FILE}.parquet"
FIRST = {"chunk_index": 0, "file_index": 0}
BLOCK = 64  # pictures encoded at a time
INDEX_COLUMNS = ("frame_index", "episode_index", "index", "task_index")


class Frames(Protocol):
    """Pictures [n, H, W, 3] read in slices: an array, or a view of a dataset."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (n, H, W, 3)."""
        ...

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Return some of the pictures, uint8."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeRecord:
    """One episode of n frames to write.

    `columns` maps a feature's name (`observation.state`, `action`, ...) to float [n, d];
    `frames` maps a view key (`observation.images.main`) to uint8 [n, H, W, 3], or to anything with
    such a shape that is read in slices. `times` [n] in s from the start, where frames are not
    evenly spaced.
    """

    task: str
    columns: Mapping[str, np.ndarray]
    frames: Mapping[str, Frames]
    times: np.ndarray | None = None

    @property
    def length(self) -> int:
        """Return the number of frames."""
        return len(next(iter(self.columns.values())))


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoOptions:
    """How frames are encoded: libx264's rate factor (lower is better), preset, key-frame gap."""

    crf: int = 23
    preset: str = "veryslow"
    gop: int = 10


@dataclass(slots=True)
class _Moments:
    """Running statistics of one feature over the frames seen so far."""

    low: Any = np.inf
    high: Any = -np.inf
    total: Any = 0.0
    squares: Any = 0.0
    count: int = 0

    def add(self, values: np.ndarray, axes: tuple[int, ...]) -> None:
        """Take in a block of values, reduced over `axes`."""
        block = np.asarray(values, dtype=np.float64)
        self.low = np.minimum(self.low, block.min(axis=axes))
        self.high = np.maximum(self.high, block.max(axis=axes))
        self.total = self.total + block.sum(axis=axes)
        self.squares = self.squares + (block**2).sum(axis=axes)
        self.count += int(np.prod([block.shape[axis] for axis in axes]))

    def summary(self, *, frames: int, shape: tuple[int, ...]) -> dict[str, Any]:
        """Return LeRobot's statistics block."""
        mean = self.total / self.count
        std = np.sqrt(np.maximum(self.squares / self.count - mean**2, 0.0))
        named = {"min": self.low, "max": self.high, "mean": mean, "std": std}
        return {
            **{key: np.reshape(value, shape).tolist() for key, value in named.items()},
            "count": [frames],
        }


@dataclass(slots=True)
class _Totals:
    """Everything gathered while episodes stream through."""

    tables: list[pa.Table] = field(default_factory=list)
    episodes: list[dict[str, Any]] = field(default_factory=list)
    tasks: dict[str, int] = field(default_factory=dict)
    moments: dict[str, _Moments] = field(default_factory=dict)
    frames: int = 0


def write_dataset(
    path: str | Path,
    *,
    fps: int,
    robot_type: str,
    views: Mapping[str, tuple[int, int]],
    episodes: Iterable[EpisodeRecord],
    splits: Mapping[str, int],
    names: Mapping[str, list[str]] | None = None,
    video: VideoOptions | None = None,
    extra_info: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write episodes as a LeRobot v3.0 data set and return its info.json as a dict.

    `views` maps a view key to (height, width), main view first; `splits` gives episode counts in
    order, e.g. {"train": 40, "val": 8}, and must add up; `names` labels the dims of features;
    `extra_info` adds keys to info.json. Episodes are consumed one at a time. The set is built
    beside `path` and renamed when complete. Raises ValueError on an existing path or bad episode.
    """
    target = Path(path)
    with aside(target) as root:
        totals = _stream(root, episodes, fps=fps, views=dict(views), video=video or VideoOptions())
        if sum(splits.values()) != len(totals.episodes):
            raise ValueError(
                f"splits {dict(splits)} add up to {sum(splits.values())} but {len(totals.episodes)}"
                " episodes were given; make them agree"
            )
        features = _features(totals, fps=fps, views=views, names=names or {})
        info = _info(totals, features, fps=fps, robot_type=robot_type, splits=splits)
        info.update(extra_info or {})
        _write_tables(root, totals)
        write_json(root / "meta/info.json", info)
        write_json(root / "meta/stats.json", _stats(totals, features))
    return info


@contextmanager
def aside(target: Path) -> Iterator[Path]:
    """Yield a fresh folder beside `target`; rename it to `target` only if all went well."""
    check_new(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    root = target.parent / f".{target.name}.tmp{os.getpid()}"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    try:
        yield root
        if target.exists():
            target.rmdir()
        root.rename(target)
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise


def _stream(
    root: Path,
    episodes: Iterable[EpisodeRecord],
    *,
    fps: int,
    views: dict[str, tuple[int, int]],
    video: VideoOptions,
) -> _Totals:
    """Encode episodes as they come; tables stay in memory (they are small)."""
    totals = _Totals()
    with ExitStack() as stack:
        writers = {}
        for key, (height, width) in views.items():
            file = root / VIDEO_PATH.format(video_key=key, **FIRST)
            file.parent.mkdir(parents=True)
            writer = VideoWriter(
                file,
                fps=fps,
                height=height,
                width=width,
                crf=video.crf,
                preset=video.preset,
                gop=video.gop,
            )
            writers[key] = stack.enter_context(writer)
        for record in episodes:
            _check(record, index=len(totals.episodes), views=views, totals=totals)
            for key, writer in writers.items():
                for first in range(0, record.length, BLOCK):
                    writer.add(record.frames[key][first : first + BLOCK])
            _append(totals, record, fps=fps, views=list(views))
    if not totals.episodes:
        raise ValueError("no episode was given; a data set needs at least one")
    return totals


def _check(
    record: EpisodeRecord, *, index: int, views: dict[str, tuple[int, int]], totals: _Totals
) -> None:
    """Refuse an episode whose parts do not fit each other or the first episode."""
    if not record.task or record.length == 0:
        raise ValueError(f"episode {index} has no instruction or no frames; give both")
    for name, values in record.columns.items():
        if values.ndim != 2 or len(values) != record.length or not np.isfinite(values).all():
            raise ValueError(
                f"episode {index}: {name} has shape {values.shape} or non-finite values; "
                f"it must be finite [{record.length}, d]"
            )
    if totals.tables:
        expected = {*totals.moments} - set(views) - {"timestamp", *INDEX_COLUMNS}
        if set(record.columns) != expected:
            raise ValueError(
                f"episode {index} has columns {sorted(record.columns)}; "
                f"the first episode has {sorted(expected)}; they must be the same"
            )
    if record.times is not None and len(record.times) != record.length:
        raise ValueError(
            f"episode {index}: {len(record.times)} times for {record.length} frames; give one each"
        )
    for key, size in views.items():
        shape = record.frames[key].shape if key in record.frames else None
        if shape != (record.length, *size, 3):
            raise ValueError(
                f"episode {index}: frames of {key} have shape {shape}; "
                f"it must be {(record.length, *size, 3)}"
            )


def _append(totals: _Totals, record: EpisodeRecord, *, fps: int, views: list[str]) -> None:
    """Add one episode's rows, its metadata and its share of the statistics."""
    length, start, number = record.length, totals.frames, len(totals.episodes)
    task = totals.tasks.setdefault(record.task, len(totals.tasks))
    steps = np.arange(length, dtype=np.int64)
    columns: dict[str, np.ndarray] = {
        **{name: np.asarray(v, dtype=np.float32) for name, v in record.columns.items()},
        "timestamp": (steps / fps if record.times is None else record.times).astype(np.float32),
        "frame_index": steps,
        "episode_index": np.full(length, number),
        "index": start + steps,
        "task_index": np.full(length, task),
    }
    totals.tables.append(pa.table({name: _arrow(values) for name, values in columns.items()}))
    for name, values in columns.items():
        totals.moments.setdefault(name, _Moments()).add(values, (0,))
    for key in views:
        pixels = record.frames[key][:: max(1, length // 16)] / 255.0
        totals.moments.setdefault(key, _Moments()).add(pixels, (0, 1, 2))
    row: dict[str, Any] = {
        "episode_index": number,
        "tasks": [record.task],
        "length": length,
        "dataset_from_index": start,
        "dataset_to_index": start + length,
        "data/chunk_index": 0,
        "data/file_index": 0,
    }
    for key in views:
        row |= {f"videos/{key}/chunk_index": 0, f"videos/{key}/file_index": 0}
        row |= {
            f"videos/{key}/from_timestamp": start / fps,
            f"videos/{key}/to_timestamp": (start + length) / fps,
        }
    row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
    totals.episodes.append(row)
    totals.frames += length


def _arrow(values: np.ndarray) -> pa.Array:
    """Return a column: a plain one, or fixed-size lists for [n, d]."""
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _write_tables(root: Path, totals: _Totals) -> None:
    """Write the frames, episodes and tasks tables."""
    data = root / DATA_PATH.format(**FIRST)
    data.parent.mkdir(parents=True)
    write_frames_table(pa.concat_tables(totals.tables), data)
    episodes = root / EPISODES_PATH.format(**FIRST)
    episodes.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(totals.episodes), episodes, compression="zstd")
    pq.write_table(tasks_table(totals.tasks), root / "meta/tasks.parquet")


def write_frames_table(table: pa.Table, path: Path) -> None:
    """Write a table of frames; splitting bytes halves tables of smooth floats."""
    pq.write_table(
        table, path, compression="zstd", use_dictionary=False, use_byte_stream_split=True
    )


def tasks_table(tasks: Mapping[str, int]) -> pa.Table:
    """Return tasks as LeRobot stores them: a pandas frame indexed by the instruction."""
    table = pa.table({"task_index": list(tasks.values()), "task": list(tasks)})
    column = {"metadata": None, "field_name": None}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {**column, "name": "task_index", "pandas_type": "int64", "numpy_type": "int64"}
            | {"field_name": "task_index"},
            {**column, "name": "task", "pandas_type": "unicode", "numpy_type": "object"}
            | {"field_name": "task"},
        ],
        "pandas_version": "2.0.0",
    }
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _features(
    totals: _Totals, *, fps: int, views: Mapping[str, tuple[int, int]], names: Mapping[str, list]
) -> dict[str, Any]:
    """Return info.json's description of every feature."""
    features: dict[str, Any] = {}
    for name, moments in totals.moments.items():
        if name in views or name in ("timestamp", *INDEX_COLUMNS):
            continue
        width = int(np.size(moments.low))
        labels = names.get(name, [f"dim_{i}" for i in range(width)])
        features[name] = {"dtype": "float32", "shape": [width], "names": list(labels)}
    for key, (height, width) in views.items():
        features[key] = {
            "dtype": "video",
            "shape": [height, width, 3],
            "names": ["height", "width", "channels"],
            "info": {
                "video.height": height,
                "video.width": width,
                "video.codec": "h264",
                "video.pix_fmt": "yuv420p",
                "video.is_depth_map": False,
                "video.fps": fps,
                "video.channels": 3,
                "has_audio": False,
            },
        }
    features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    for name in INDEX_COLUMNS:
        features[name] = {"dtype": "int64", "shape": [1], "names": None}
    return features


def _info(
    totals: _Totals, features: dict[str, Any], *, fps: int, robot_type: str, splits: Mapping
) -> dict[str, Any]:
    """Return info.json as LeRobot v3.0 reads it."""
    return {
        "codebase_version": "v3.0",
        "robot_type": robot_type,
        "total_episodes": len(totals.episodes),
        "total_frames": totals.frames,
        "total_tasks": len(totals.tasks),
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 500,
        "fps": fps,
        "splits": split_spans(splits),
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": features,
    }


def split_spans(splits: Mapping[str, int]) -> dict[str, str]:
    """Return info.json's spans of episode counts: {"train": 40} is {"train": "0:40"}."""
    edges = np.cumsum([0, *splits.values()])
    return {name: f"{edges[i]}:{edges[i + 1]}" for i, name in enumerate(splits) if splits[name]}


def _stats(totals: _Totals, features: dict[str, Any]) -> dict[str, Any]:
    """Return stats.json; images per channel in 0..1 as [3, 1, 1], from about 16 frames each."""
    return {
        name: totals.moments[name].summary(
            frames=totals.frames,
            shape=(3, 1, 1) if feature["dtype"] == "video" else tuple(feature["shape"]),
        )
        for name, feature in features.items()
    }


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file of a dataset's meta folder."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
