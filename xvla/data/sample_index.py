"""A one-off index of a dataset: all poses and all start frames as files that processes share.

    <folder>/index.json    what is indexed; written last, so an index without it is unfinished
    <folder>/bounds.npy    int64 [episodes + 1], rows of each episode in the next two
    <folder>/states.float32  [frames, 20];  times.float64  [frames] in s
    <folder>/starts-KEY.int32, .npy    start frames under one set of rules, and their bounds

The two large ones and the start frames are read where a sample needs them, a few bytes at a time:
all processes of a machine share the system's copy, and none holds one (mapped files would count
as theirs). A sample costs three short reads, whatever the number of episodes.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xvla.config import DataConfig
from xvla.data.readers.base import STATE_DIM, Dataset
from xvla.data.resample import episode_anchors, moving
from xvla.data.starts import candidate_starts
from xvla.data.writing.targets import new_file

# Start frames depend on these fields of the configuration and on nothing else.
START_FIELDS = ("prediction_window_s", "num_anchors", "rotation", "start_tail_s", "start_stride")
STATES, TIMES = "states.float32", "times.float64"


class IntFile:
    """The int32 numbers of a file, read where they are asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the numbers at `rows`."""
        if len(rows) > 1024:
            return np.fromfile(self._path, dtype=np.int32)[rows]
        with self._path.open("rb") as stream:
            file = stream.fileno()
            found = b"".join(os.pread(file, 4, 4 * row) for row in rows.tolist())
        return np.frombuffer(found, dtype=np.int32)


class StartFrames:
    """The start frames of some episodes, numbered 0, 1, 2, ... through all of them.

    episodes [E] are numbers of the dataset; bounds [E + 1] and frames [n] say which start frames
    each has.
    """

    def __init__(
        self,
        episodes: NDArray[np.int64],
        bounds: NDArray[np.int64],
        frames: NDArray[np.int32] | IntFile,
    ) -> None:
        """Wrap the three arrays, of which `frames` may be a file."""
        self._episodes, self._bounds, self._frames = episodes, bounds, frames
        self._sizes = np.diff(bounds)[episodes]
        self._ends = np.cumsum(self._sizes)

    def __len__(self) -> int:
        """Return the number of start frames."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def at(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the (episode, frame) of start frames `rows`."""
        place = np.searchsorted(self._ends, rows, side="right")
        inside = rows - (self._ends[place] - self._sizes[place])
        episode = self._episodes[place]
        return episode, np.asarray(self._frames[self._bounds[episode] + inside], dtype=np.int64)


class SampleIndex:
    """An index on disk, opened: poses by episode and start frames."""

    def __init__(self, dataset: Dataset, folder: Path) -> None:
        """Map the files of `folder`; raises ValueError when they are not there or do not fit."""
        self.folder = folder
        record = _record(folder)
        wanted = dataset_identity(dataset)
        for key, value in wanted.items():
            if record.get(key) != value:
                raise ValueError(
                    f"index {folder} has {key} = {record.get(key)!r}, the dataset "
                    f"{dataset.path} has {value!r}; delete the index and build it again"
                )
        self.broken = {int(number): text for number, text in record.get("broken", {}).items()}
        self._bounds = np.load(folder / "bounds.npy", mmap_mode="r")

    def episode(self, number: int) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Return times [n] in s and states [n, 20]; ValueError for an episode in `broken`."""
        if number in self.broken:
            raise ValueError(self.broken[number])
        first, last = int(self._bounds[number]), int(self._bounds[number + 1])
        return (
            _stretch(self.folder / TIMES, np.float64, first, last),
            _stretch(self.folder / STATES, np.float32, first * STATE_DIM, last * STATE_DIM).reshape(
                -1, STATE_DIM
            ),
        )

    def starts(self, config: DataConfig, episodes: Iterable[int]) -> StartFrames:
        """Return the start frames of `episodes`; ValueError when indexed under other rules."""
        paths = start_files(self.folder, config)
        if not all(path.exists() for path in paths):
            rules = {key: getattr(config, key) for key in START_FIELDS}
            raise ValueError(f"index {self.folder} has no start frames for {rules}; build it again")
        bounds = np.load(paths[0], mmap_mode="r")
        return StartFrames(np.fromiter(episodes, dtype=np.int64), bounds, IntFile(paths[1]))


def _stretch(path: Path, kind: type, first: int, last: int) -> NDArray[Any]:
    """Return numbers first..last of a binary file; ValueError when it ends before."""
    size = np.dtype(kind).itemsize
    values: NDArray[Any] = np.fromfile(path, dtype=kind, count=last - first, offset=first * size)
    if len(values) != last - first:
        raise ValueError(f"{path} is truncated; delete the index and build it again")
    return values


def index_cost(dataset: Dataset) -> dict[str, int]:
    """Return {"frames", "bytes"} that an index with one set of start frames takes at most."""
    frames = dataset.episodes.num_frames
    return {
        "frames": frames,
        "bytes": frames * (4 * STATE_DIM + 8 + 4) + 16 * len(dataset.episodes),
    }


def build_index(
    dataset: Dataset,
    folder: Path,
    config: DataConfig,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the poses of `dataset` and its start frames under `config`; keep what is there.

    `on_progress(done, total)` counts episodes. One that cannot be read has no start frames; the
    index names it. Raises ValueError when `folder` holds the index of other data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "index.json").exists():
        broken = _write_poses(dataset, folder, on_progress)
        text = json.dumps({**dataset_identity(dataset), "broken": broken})
        with new_file(folder / "index.json") as stream:
            stream.write(text.encode())
    index = SampleIndex(dataset, folder)
    files = start_files(folder, config)
    if not all(file.exists() for file in files):
        _write_starts(dataset, index, config, files)
    return folder


def _write_poses(
    dataset: Dataset, folder: Path, on_progress: Callable[[int, int], None] | None
) -> dict[int, str]:
    """Write the poses; return what is wrong with the episodes whose place is left empty."""
    broken: dict[int, str] = {}
    lengths = dataset.episodes.lengths
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    with (folder / STATES).open("wb") as states_file, (folder / TIMES).open("wb") as times_file:
        for number in range(len(lengths)):
            length = int(lengths[number])
            try:
                times, states, _ = dataset.episode(number)
            except ValueError as error:
                broken[number] = str(error)
                times, states = np.zeros(length), np.zeros((length, STATE_DIM), dtype=np.float32)
            times_file.write(times.astype(np.float64).tobytes())
            states_file.write(states.astype(np.float32).tobytes())
            if on_progress and number % 1000 == 999:
                on_progress(number + 1, len(lengths))
    np.save(folder / "bounds.npy", bounds)
    return broken


def _write_starts(
    dataset: Dataset, index: SampleIndex, config: DataConfig, files: tuple[Path, Path]
) -> None:
    sizes = []
    with new_file(files[1]) as stream:
        for number in range(len(dataset.episodes)):
            if number in index.broken:
                sizes.append(0)
                continue
            candidates = candidate_starts(dataset, number, config)
            if dataset.has_arm_clocks:
                poses = dataset.poses(number).recorded()
            else:
                poses = dict(zip(("times", "states"), index.episode(number), strict=True))
            starts = episode_starts(poses, candidates, config)
            sizes.append(len(starts))
            stream.write(starts.astype(np.int32).tobytes())
    with new_file(files[0]) as stream:
        np.save(stream, np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]))


def episode_starts(
    poses: dict[str, NDArray[Any]], candidates: NDArray[np.int64], config: DataConfig
) -> NDArray[np.int64]:
    """Return the candidates that training may start from, as `training_starts` does.

    `poses` are times [n], states [n, 20] and, for arms with clocks of their own, arm_times [n, 2].
    """
    starts = candidates[:: config.start_stride]
    chunks = episode_anchors(
        **poses,
        starts=starts,
        window_s=config.prediction_window_s,
        num_anchors=config.num_anchors,
        rotation=config.rotation,
    )
    return starts[moving(chunks)]


def start_files(folder: Path, config: DataConfig) -> tuple[Path, Path]:
    """Return the two files of the start frames under the rules of `config`."""
    rules = json.dumps([getattr(config, key) for key in START_FIELDS])
    key = hashlib.sha256(rules.encode()).hexdigest()[:12]
    return folder / f"starts-{key}.npy", folder / f"starts-{key}.int32"


def dataset_identity(dataset: Dataset) -> dict[str, Any]:
    """Return what tells the dataset of an index from others: its lengths and its meta file."""
    lengths = dataset.episodes.lengths
    text = json.dumps(dataset.meta, sort_keys=True)
    return {
        "meta_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "fps": dataset.fps,
        "episodes": len(lengths),
        "frames": int(lengths.sum()),
        "lengths_sha256": hashlib.sha256(lengths.tobytes()).hexdigest(),
    }


def _record(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "index.json").read_text())
    except FileNotFoundError:
        raise ValueError(f"no finished index at {folder}; build it first") from None
