"""Owns writing any episodes as a LeRobot v3.0 data set: parquet tables, h264 videos, metadata."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xvla.data.writing.targets import new_folder
from xvla.data.writing.video import VideoOptions, VideoWriter

FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA_PATH = f"data/{FILE}.parquet"
VIDEO_PATH = "videos/{video_key}/" + FILE + ".mp4"
EPISODES_PATH = f"meta/episodes/{FILE}.parquet"
FILES_PER_CHUNK = 1000
BLOCK = 64  # pictures encoded at a time
ARM = ("x", "y", "z", "r00", "r01", "r10", "r11", "r20", "r21", "gripper")
# The 20 numbers of a state or an action, the second arm zero when absent.
STATE_NAMES = [f"{arm}_{name}" for arm in ("arm1", "arm2") for name in ARM]
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
    evenly spaced. `stretches` are (first frame, instruction) where it changes within the episode.
    """

    task: str
    columns: Mapping[str, np.ndarray]
    frames: Mapping[str, Frames]
    times: np.ndarray | None = None
    stretches: Sequence[tuple[int, str]] = ()

    @property
    def tasks(self) -> list[str]:
        """Return the instructions in their order, each once."""
        return [*dict.fromkeys([self.task, *(text for _, text in self.stretches)])]

    @property
    def length(self) -> int:
        """Return the number of frames."""
        return len(next(iter(self.columns.values())))

    def slots(self, fps: int) -> int:
        """Return how many frames of `fps` the episode's time takes in its video."""
        last = 0.0 if self.times is None else float(self.times[-1]) * fps
        return max(self.length, int(np.ceil(last - 1e-3)) + 1)


@dataclass(slots=True)
class Moments:
    """Sums of one feature over some frames, from which its statistics are made."""

    low: Any = np.inf
    high: Any = -np.inf
    total: Any = 0.0
    squares: Any = 0.0
    count: int = 0

    @classmethod
    def of(cls, values: np.ndarray, axes: tuple[int, ...]) -> "Moments":
        """Sum up a block of values over `axes`."""
        block = np.asarray(values, dtype=np.float64)
        return cls(
            low=block.min(axis=axes),
            high=block.max(axis=axes),
            total=block.sum(axis=axes),
            squares=(block**2).sum(axis=axes),
            count=int(np.prod([block.shape[axis] for axis in axes])),
        )

    def add(self, other: "Moments") -> None:
        """Take in the next episode's sums: a sum of floats depends on its order."""
        self.low = np.minimum(self.low, other.low)
        self.high = np.maximum(self.high, other.high)
        self.total = self.total + other.total
        self.squares = self.squares + other.squares
        self.count += other.count

    def summary(self, *, frames: int, shape: tuple[int, ...]) -> dict[str, Any]:
        """Return LeRobot's statistics block."""
        mean = self.total / self.count
        std = np.sqrt(np.maximum(self.squares / self.count - mean**2, 0.0))
        named = {"min": self.low, "max": self.high, "mean": mean, "std": std}
        return {
            **{key: np.reshape(value, shape).tolist() for key, value in named.items()},
            "count": [frames],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """An episode that a file holds: its instructions, its frames, its sums by feature.

    `slots` is what it takes of its videos, in frames: more than `length` where those are uneven.
    """

    tasks: list[str]
    length: int
    slots: int
    moments: Mapping[str, Moments]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """The views of a set, key to (height, width), main view first, and how they are encoded."""

    fps: int
    views: Mapping[str, tuple[int, int]]
    video: VideoOptions = field(default_factory=VideoOptions)


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
    pictures = Pictures(fps=fps, views=views, video=video or VideoOptions())
    with new_folder(Path(path)) as root:
        files = [write_file(root, episodes, pictures)]
        return write_meta(
            root,
            files,
            pictures,
            robot_type=robot_type,
            splits=splits,
            names=names or {},
            extra_info=extra_info or {},
        )


def write_file(
    root: Path,
    episodes: Iterable[EpisodeRecord],
    pictures: Pictures,
    *,
    number: int = 0,
    first_episode: int = 0,
    first_frame: int = 0,
    tasks: Mapping[str, int] | None = None,
) -> list[Written]:
    """Write episodes as the `number`-th file of a set: a table, and a video for each view.

    Its first episode and frame have these numbers in the set; `tasks` numbers the instructions,
    by default in the order of their first episodes. Tables stay in memory (they are small).
    Raises ValueError for an episode that does not fit.
    """
    place, views = file_place(number), pictures.views
    task_numbers = dict(tasks or {})
    written: list[Written] = []
    tables: list[pa.Table] = []
    frame, clip = first_frame, 0
    with ExitStack() as stack:
        writers = {key: stack.enter_context(_video(root, key, pictures, place)) for key in views}
        for record in episodes:
            index = first_episode + len(written)
            _check(record, index=index, views=views, before=written)
            for key, writer in writers.items():
                _film(writer, record, key, clip / pictures.fps)
            clip += record.slots(pictures.fps)
            for text in record.tasks:
                task_numbers.setdefault(text, len(task_numbers))
            columns = _columns(record, pictures.fps, episode=index, frame=frame, tasks=task_numbers)
            tables.append(pa.table({name: _arrow(values) for name, values in columns.items()}))
            written.append(_summed(record, columns, pictures))
            frame += record.length
    if not written:
        raise ValueError("no episode was given; a data set needs at least one")
    data = root / DATA_PATH.format(**place)
    data.parent.mkdir(parents=True, exist_ok=True)
    # Splitting bytes halves tables of smooth floats.
    pq.write_table(
        pa.concat_tables(tables),
        data,
        compression="zstd",
        use_dictionary=False,
        use_byte_stream_split=True,
    )
    return written


def write_meta(
    root: Path,
    files: Iterable[Sequence[Written]],
    pictures: Pictures,
    *,
    robot_type: str,
    splits: Mapping[str, int],
    names: Mapping[str, list[str]],
    extra_info: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the meta folder of a set whose `files`, numbered 0, 1, ..., hold these episodes.

    Returns info.json. Raises ValueError for splits that do not add up.
    """
    rows: list[dict[str, Any]] = []
    tasks: dict[str, int] = {}
    moments: dict[str, Moments] = {}
    frames = 0
    for number, episodes in enumerate(files):
        clip = 0  # from where the file's videos begin
        for episode in episodes:
            for text in episode.tasks:
                tasks.setdefault(text, len(tasks))
            rows.append(_row(episode, pictures, number, len(rows), frame=frames, clip=clip))
            frames += episode.length
            clip += episode.slots
            for name, sums in episode.moments.items():
                moments.setdefault(name, Moments()).add(sums)
    if sum(splits.values()) != len(rows):
        raise ValueError(
            f"splits {dict(splits)} add up to {sum(splits.values())} but {len(rows)}"
            " episodes were given; make them agree"
        )
    features = _features(moments, pictures, names=names)
    info = {
        "codebase_version": "v3.0",
        "robot_type": robot_type,
        "total_episodes": len(rows),
        "total_frames": frames,
        "total_tasks": len(tasks),
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 500,
        "fps": pictures.fps,
        "splits": split_spans(splits),
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": features,
        **extra_info,
    }
    table = root / EPISODES_PATH.format(**file_place(0))
    table.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), table, compression="zstd")
    pq.write_table(_tasks_table(tasks), root / "meta/tasks.parquet")
    _write_json(root / "meta/info.json", info)
    _write_json(root / "meta/stats.json", _stats(moments, features, frames))
    return info


def file_place(number: int) -> dict[str, int]:
    """Return where the `number`-th file of a set lies, as its templates name it."""
    return dict(zip(("chunk_index", "file_index"), divmod(number, FILES_PER_CHUNK), strict=True))


def _video(root: Path, key: str, pictures: Pictures, place: Mapping[str, int]) -> VideoWriter:
    file = root / VIDEO_PATH.format(video_key=key, **place)
    file.parent.mkdir(parents=True, exist_ok=True)
    height, width = pictures.views[key]
    return VideoWriter(file, pictures.video, fps=pictures.fps, height=height, width=width)


def _film(writer: VideoWriter, record: EpisodeRecord, key: str, start_s: float) -> None:
    """Append an episode's pictures of one view, at the times of its rows from `start_s` on."""
    times = None
    if record.times is not None and not np.allclose(
        record.times, np.arange(record.length) / writer.fps, rtol=0, atol=1e-6
    ):
        times = start_s + np.asarray(record.times)
    for first in range(0, record.length, BLOCK):
        rows = slice(first, first + BLOCK)
        writer.add(record.frames[key][rows], None if times is None else times[rows].tolist())


def _check(
    record: EpisodeRecord,
    *,
    index: int,
    views: Mapping[str, tuple[int, int]],
    before: Sequence[Written],
) -> None:
    """Refuse an episode whose parts do not fit each other or the first episode."""
    if not all(record.tasks) or record.length == 0:
        raise ValueError(f"episode {index} has no instruction or no frames; give both")
    for name, values in record.columns.items():
        if values.ndim != 2 or len(values) != record.length or not np.isfinite(values).all():
            raise ValueError(
                f"episode {index}: {name} has shape {values.shape} or non-finite values; "
                f"it must be finite [{record.length}, d]"
            )
    if before:
        expected = {*before[0].moments} - set(views) - {"timestamp", *INDEX_COLUMNS}
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


def _columns(
    record: EpisodeRecord, fps: int, *, episode: int, frame: int, tasks: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Return the columns of an episode's rows, of which `frame` is the first one's number."""
    steps = np.arange(record.length, dtype=np.int64)
    task = np.full(record.length, tasks[record.task])
    for first, text in record.stretches:
        task[first:] = tasks[text]
    return {
        **{name: np.asarray(v, dtype=np.float32) for name, v in record.columns.items()},
        "timestamp": (steps / fps if record.times is None else record.times).astype(np.float32),
        "frame_index": steps,
        "episode_index": np.full(record.length, episode),
        "index": frame + steps,
        "task_index": task,
    }


def _summed(
    record: EpisodeRecord, columns: Mapping[str, np.ndarray], pictures: Pictures
) -> Written:
    """Return an episode's share of the statistics; of pictures about 16 frames are taken."""
    moments = {name: Moments.of(values, (0,)) for name, values in columns.items()}
    for key in pictures.views:
        pixels = record.frames[key][:: max(1, record.length // 16)] / 255.0
        moments[key] = Moments.of(pixels, (0, 1, 2))
    return Written(
        tasks=record.tasks,
        length=record.length,
        slots=record.slots(pictures.fps),
        moments=moments,
    )


def _row(
    episode: Written, pictures: Pictures, file: int, number: int, *, frame: int, clip: int
) -> dict[str, Any]:
    """Return an episode's row of meta/episodes; its clips begin `clip` frames into theirs."""
    place, end = file_place(file), frame + episode.length
    row: dict[str, Any] = {
        "episode_index": number,
        "tasks": episode.tasks,
        "length": episode.length,
        "dataset_from_index": frame,
        "dataset_to_index": end,
        **{f"data/{name}": value for name, value in place.items()},
    }
    for key in pictures.views:
        row |= {f"videos/{key}/{name}": value for name, value in place.items()}
        row[f"videos/{key}/from_timestamp"] = clip / pictures.fps
        row[f"videos/{key}/to_timestamp"] = (clip + episode.slots) / pictures.fps
    return row | {f"meta/episodes/{name}": value for name, value in file_place(0).items()}


def _arrow(values: np.ndarray) -> pa.Array:
    """Return a column: a plain one, or fixed-size lists for [n, d]."""
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _tasks_table(tasks: Mapping[str, int]) -> pa.Table:
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
    moments: Mapping[str, Moments], pictures: Pictures, *, names: Mapping[str, list]
) -> dict[str, Any]:
    """Return info.json's description of every feature."""
    features: dict[str, Any] = {}
    for name, sums in moments.items():
        if name in pictures.views or name in ("timestamp", *INDEX_COLUMNS):
            continue
        width = int(np.size(sums.low))
        labels = names.get(name, [f"dim_{i}" for i in range(width)])
        features[name] = {"dtype": "float32", "shape": [width], "names": list(labels)}
    for key, (height, width) in pictures.views.items():
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
                "video.fps": pictures.fps,
                "video.channels": 3,
                "has_audio": False,
            },
        }
    features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    for name in INDEX_COLUMNS:
        features[name] = {"dtype": "int64", "shape": [1], "names": None}
    return features


def split_spans(splits: Mapping[str, int]) -> dict[str, str]:
    """Return info.json's spans of episode counts: {"train": 40} is {"train": "0:40"}."""
    edges = np.cumsum([0, *splits.values()])
    return {name: f"{edges[i]}:{edges[i + 1]}" for i, name in enumerate(splits) if splits[name]}


def _stats(
    moments: Mapping[str, Moments], features: Mapping[str, Any], frames: int
) -> dict[str, Any]:
    """Return stats.json; images per channel in 0..1 as [3, 1, 1], from about 16 frames each."""
    return {
        name: moments[name].summary(
            frames=frames,
            shape=(3, 1, 1) if feature["dtype"] == "video" else tuple(feature["shape"]),
        )
        for name, feature in features.items()
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
