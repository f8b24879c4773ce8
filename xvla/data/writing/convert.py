"""Any dataset that can be read, X-VLA's HDF5 sets above all, written as LeRobot v3.0."""

import hashlib
import json
import pickle
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xvla.data.readers.base import Dataset, DatasetError, Problem, errors_of
from xvla.data.readers.episode_files import TableAndVideo
from xvla.data.readers.episode_table import EpisodeInfo
from xvla.data.readers.formats import open_dataset
from xvla.data.verify import content_files
from xvla.data.writing.lerobot import (
    BLOCK,
    STATE_NAMES,
    EpisodeRecord,
    Pictures,
    write_file,
    write_meta,
)
from xvla.data.writing.targets import check_new, new_file, put_in_place
from xvla.data.writing.video import VideoOptions
from xvla.progress import Advance, OpenBar, silent

SET = "set"  # where the set grows, beside the records of its finished files
LAYOUT = 4  # raise when unfinished conversions of older code cannot be gone on with


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """How a set is written: pictures resized to a square of `size` pixels (0: as they are)."""

    size: int = 0
    crf: int = 20
    preset: str = "medium"
    gop: int = 10
    episodes_per_file: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Episodes that become the `number`-th file of the new set, with their numbers in it."""

    source: str
    folder: str
    number: int
    episodes: tuple[int, ...]
    first_episode: int
    first_frame: int
    tasks: dict[str, int]
    pictures: Pictures
    size: int

    @property
    def record(self) -> Path:
        """The file with the `Written` of each episode; there when the part is complete."""
        return Path(self.folder) / f"{self.number:05d}.pickle"


def convert_dataset(
    source: str | Path,
    out: str | Path,
    *,
    options: ConvertOptions | None = None,
    workers: int = 1,
    skip_bad: bool = False,
    progress: OpenBar = silent,
) -> dict[str, Any]:
    """Write the dataset `source` as a LeRobot v3.0 set at `out`; return a JSON-able summary.

    Poses become `observation.state` and `action` (the next frame's pose). The set grows in a
    hidden folder beside `out`, so an interrupted call goes on where it stopped; `out` appears
    complete or not at all. `skip_bad` leaves defective episodes out and names them, which
    decodes every picture once more. `progress` counts episodes.

    Raises:
        ValueError: an existing `out`, a defective dataset, a rate that is no whole number.
    """
    began, out = time.time(), Path(out)
    options = options or ConvertOptions()
    _check_request(out, options, workers)
    dataset, problems = _opened(source, skip_bad=skip_bad)
    order, splits = _order(dataset, problems)
    folder = out.parent / f".{out.name}.parts-{_digest(dataset, order, options)}"
    (folder / SET).mkdir(parents=True, exist_ok=True)
    pictures = _pictures(dataset, order[0], options)
    parts = _parts(dataset, str(source), folder, order, pictures, options)
    waiting = [part for part in parts if not part.record.exists()]
    _write_parts(waiting, workers=workers, progress=progress, done=len(parts) - len(waiting))
    shutil.rmtree(folder / SET / "meta", ignore_errors=True)  # of a call stopped while it wrote it
    info = write_meta(
        folder / SET,
        (pickle.loads(part.record.read_bytes()) for part in parts),
        pictures,
        robot_type=str(dataset.meta.get("robot_type") or dataset.domain),
        splits=splits,
        names={"observation.state": STATE_NAMES, "action": STATE_NAMES},
        extra_info={"domain": dataset.domain, "converted_from": dataset.format},
    )
    put_in_place(folder / SET, out)
    shutil.rmtree(folder)
    return {
        "path": str(out),
        "domain": dataset.domain,
        "episodes": info["total_episodes"],
        "frames": info["total_frames"],
        "fps": info["fps"],
        "splits": info["splits"],
        "views": view_names(dataset),
        "files_resumed": len(parts) - len(waiting),
        "skipped": [problem.to_dict() for problem in problems],
        "seconds": round(time.time() - began, 2),
    }


def _pictures(dataset: Dataset, episode: int, options: ConvertOptions) -> Pictures:
    """Return the views of the new set, of the size that they have in an episode."""
    shapes = {
        name: _View(dataset, episode, view, options.size).shape
        for view, name in view_names(dataset).items()
    }
    return Pictures(
        fps=round(dataset.fps),
        views={name: (shape[1], shape[2]) for name, shape in shapes.items()},
        video=VideoOptions(crf=options.crf, preset=options.preset, gop=options.gop),
    )


def _parts(
    dataset: Dataset,
    source: str,
    folder: Path,
    order: Sequence[int],
    pictures: Pictures,
    options: ConvertOptions,
) -> list[_Part]:
    """Cut the episodes into files; each is told the numbers that it has in the whole set."""
    table, step = dataset.episodes, options.episodes_per_file
    before = np.concatenate([[0], np.cumsum(table.lengths[list(order)])]).tolist()
    texts = [[text for _, text in table.stretches(episode)] for episode in order]
    numbers = {text: number for number, text in enumerate(dict.fromkeys(chain(*texts)))}
    return [
        _Part(
            source=source,
            folder=str(folder),
            number=number,
            episodes=tuple(order[first : first + step]),
            first_episode=first,
            first_frame=before[first],
            tasks={text: numbers[text] for text in chain(*texts[first : first + step])},
            pictures=pictures,
            size=options.size,
        )
        for number, first in enumerate(range(0, len(order), step))
    ]


def _opened(source: str | Path, *, skip_bad: bool) -> tuple[Dataset, list[Problem]]:
    """Open the dataset to convert; return what is wrong with the episodes to leave out."""
    dataset = open_dataset(source, check=False)
    if isinstance(dataset, TableAndVideo) and (lost := dataset.unread_views):
        raise ValueError(
            f"dataset {source} has pictures of dtype image ({', '.join(lost)}), which are not "
            "read: the new set would be without them; write them as videos first"
        )
    problems = errors_of(dataset.problems())
    if skip_bad:
        problems += _undecodable(dataset, {problem.episode for problem in problems})
    if problems and (not skip_bad or not _order(dataset, problems)[0]):
        raise DatasetError(str(source), problems)
    if dataset.fps != round(dataset.fps):
        raise ValueError(f"dataset {source} has {dataset.fps} frames a second, not a whole number")
    return dataset, problems


def view_names(dataset: Dataset) -> dict[str, str]:
    """Return LeRobot's name by view: `observation.images.` and the last word of the source's."""
    short = {view: view.replace("/", ".").split(".")[-1] for view in dataset.views}
    twice = {name for name, count in Counter(short.values()).items() if count > 1}
    return {
        view: view
        if view.startswith("observation.images.")
        else f"observation.images.{view.replace('/', '_') if name in twice else name}"
        for view, name in short.items()
    }


class _View:
    """One view of one episode as pictures [n, H, W, 3], decoded a slice at a time."""

    def __init__(self, dataset: Dataset, index: int, view: str, size: int) -> None:
        self.read: Callable[[Sequence[int]], NDArray[np.uint8]]
        self.read = partial(dataset.frames, index, view)
        self.size = size
        self.shape = (dataset.episodes[index].length, *self._fit(self.read([0])).shape[1:])

    def __getitem__(self, rows: slice) -> NDArray[np.uint8]:
        return self._fit(self.read(range(*rows.indices(self.shape[0]))))

    def _fit(self, pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize, or else cut to even sides, which the video format needs."""
        if not self.size:
            height, width = pictures.shape[1:3]
            return pictures[:, : height - height % 2, : width - width % 2]
        square = (self.size, self.size)
        resized = [
            np.asarray(Image.fromarray(picture).resize(square, Image.Resampling.BICUBIC))
            for picture in pictures
        ]
        return np.stack(resized)


def _undecodable(dataset: Dataset, bad: set[int | None]) -> list[Problem]:
    """Return the episodes, other than those in `bad`, with a picture that cannot be decoded."""
    return [
        problem
        for episode in dataset.episodes
        for view in (dataset.views if episode.id not in bad else ())
        for problem in _view_problems(dataset, episode, view)
    ]


def _view_problems(dataset: Dataset, episode: EpisodeInfo, view: str) -> list[Problem]:
    try:
        for first in range(0, episode.length, BLOCK):
            rows = range(first, min(first + BLOCK, episode.length))
            dataset.frames(episode.id, view, rows)
    except DatasetError as error:
        return error.problems
    except ValueError as error:
        return [Problem(file="videos", episode=episode.id, field=view, message=str(error))]
    return []


def _order(dataset: Dataset, problems: Sequence[Problem]) -> tuple[list[int], dict[str, int]]:
    """Return the good episodes, split by split, and each split's count; no split is `train`."""
    bad = {problem.episode for problem in problems}
    good = [episode for episode in dataset.episodes if episode.id not in bad]
    names = list(dict.fromkeys(episode.split or "train" for episode in good))
    names.sort(key=lambda name: name != "train")
    groups = {name: [e.id for e in good if (e.split or "train") == name] for name in names}
    order = [episode for group in groups.values() for episode in group]
    return order, {name: len(group) for name, group in groups.items()}


def _digest(dataset: Dataset, order: Sequence[int], options: ConvertOptions) -> str:
    """Return a name for this conversion, so that only its own finished files are reused."""
    root = Path(dataset.path)
    states = ((name, (root / name).stat()) for name in content_files(root))
    files = [(name, state.st_size, state.st_mtime_ns) for name, state in states]
    key = [LAYOUT, dataset.path, dataset.domain, dataset.fps, list(order), files, asdict(options)]
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:8]


def _write_parts(parts: Sequence[_Part], *, workers: int, progress: OpenBar, done: int) -> None:
    """Write the files that are missing."""
    total = sum(len(part.episodes) for part in parts)
    label = f"converting ({done} files from before)" if done else "converting"
    with progress(label, total) as advance:
        if workers == 1 or len(parts) < 2:
            for part in parts:
                _write_part(part, advance)
            return
        with get_context("spawn").Pool(min(workers, len(parts))) as pool:
            for count in pool.imap_unordered(_write_part, parts):
                advance(count)


def _write_part(part: _Part, advance: Advance | None = None) -> int:
    """Write one file of the new set; return the number of its episodes."""
    dataset = open_dataset(part.source, check=False)
    names = view_names(dataset)

    def read() -> Iterator[EpisodeRecord]:
        for index in part.episodes:
            times, states, task = dataset.episode(index)
            stretches = dataset.episodes.stretches(index)
            frames = {name: _View(dataset, index, view, part.size) for view, name in names.items()}
            columns = {
                "observation.state": states,
                "action": np.concatenate([states[1:], states[-1:]]),
            }
            yield EpisodeRecord(
                task=task, columns=columns, frames=frames, times=times, stretches=stretches
            )
            if advance:
                advance(1)

    written = write_file(
        Path(part.folder) / SET,
        read(),
        part.pictures,
        number=part.number,
        first_episode=part.first_episode,
        first_frame=part.first_frame,
        tasks=part.tasks,
    )
    with new_file(part.record) as stream:
        pickle.dump(written, stream)
    return len(part.episodes)


def _check_request(out: Path, options: ConvertOptions, workers: int) -> None:
    check_new(out)
    if workers < 1 or options.episodes_per_file < 1:
        raise ValueError(
            f"workers {workers} and episodes_per_file {options.episodes_per_file} must be 1 or more"
        )
    if not 0 <= options.crf <= 51:
        raise ValueError(f"crf {options.crf}: give h264's rate factor, 0 (exact) to 51")
    if options.size and (options.size < 16 or options.size % 2):
        raise ValueError(f"size {options.size}: give an even number of pixels, 16 or more, or 0")
