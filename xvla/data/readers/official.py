"""Reader of X-VLA's own sets: a meta JSON that lists HDF5 files, or parquet and mp4 episodes."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xvla.data.readers.base import DatasetError, EpisodeInfo, Problem
from xvla.data.readers.hdf5 import num_rows, opened, read_array, read_pictures, read_text
from xvla.data.readers.lerobot_meta import split_names
from xvla.data.readers.lerobot_v21 import DATA_PATH, VIDEO_PATH, read_column, task_of
from xvla.data.readers.meta_json import instruction_variants, list_field, source_rule, wrong
from xvla.data.readers.paths import inside
from xvla.data.readers.per_episode import EpisodeFiles
from xvla.data.readers.poses import FieldError, Poses, build_poses
from xvla.data.readers.sources import SourceRule
from xvla.data.readers.video import count_frames, decode_frames

CHUNK = 1000
ELSEWHERE = 'data elsewhere needs "root_path" in the meta file'


def open_official(root: Path, file: Path, meta: dict[str, Any]) -> "OfficialSet":
    """Open the set of one meta file; paths in it are relative to `root` and stay inside it.

    `root_path` in the meta file names another folder. `rotation` in it states the convention of
    a source whose own is not published; `image_channels: "bgr"` says that red and blue are
    swapped in the encoded pictures.

    Raises:
        DatasetError: an unknown source or one that is refused, a wrong field.
    """
    name = file.name
    given = meta.get("root_path")
    if given is not None and not isinstance(given, str):
        raise wrong(root, name, "root_path", f"{given!r}, must be a folder")
    base = (file.parent / given) if given else root
    if not base.is_dir():
        raise wrong(root, name, "root_path", f"{given!r} is no folder; say where the data lie")
    rule = source_rule(base, name, meta)
    kind = ParquetSet if rule.container == "parquet" else Hdf5Set
    dataset = kind(base, name, meta, rule)
    # Two sets may share a folder of data: a set is known by the folder of its meta file.
    dataset.path = str(root.resolve())
    return dataset


class OfficialSet(EpisodeFiles):
    """What both containers share: the meta file's fields and the rule of the source."""

    rule: SourceRule
    items: list[Any]

    def __init__(self, root: Path, name: str, meta: dict[str, Any], rule: SourceRule) -> None:
        """Read the list of episodes; raises DatasetError when a field is wrong."""
        super().__init__()
        self.path, self.root, self.meta_name, self.meta = str(root.resolve()), root, name, meta
        self.rule = rule
        self.domain, self.fps = rule.domain, rule.rate_hz
        self.items = list_field(root, name, meta, "datalist")
        if not self.items:
            raise wrong(root, name, "datalist", "the dataset is empty: it lists no episodes")
        self.splits = split_names(root, meta.get("splits"), len(self.items), file=name)
        self.instruction_variants = instruction_variants(root, name, meta)

    def _inside(self, index: int, path: Any) -> Path:
        """Return a path of the datalist, which must be a text and stay inside the folder."""
        if not isinstance(path, str) or not path:
            raise FieldError("datalist", f"{path!r}, must be a path")
        return inside(
            self.root,
            path,
            file=self.meta_name,
            field="datalist",
            episode=index,
            allowed=ELSEWHERE,
        )

    def _infos(self) -> tuple[EpisodeInfo, ...]:
        """Return the episodes; one that cannot be opened has length 0 and is kept as broken."""
        infos = []
        for index in range(len(self.items)):
            try:
                length, task = self.named(index, partial(self.facts, index))
            except DatasetError as error:
                self.broken[index] = error.problems[0]
                length, task = 0, ""
            infos.append(EpisodeInfo(id=index, task=task, length=length, split=self.splits[index]))
        return tuple(infos)

    @abstractmethod
    def facts(self, index: int) -> tuple[int, str]:
        """Return length in frames and instruction; raises FieldError or DatasetError."""

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root.absolute()).as_posix()


class Hdf5Set(OfficialSet):
    """One HDF5 file an episode: poses and instruction by key, pictures as arrays or JPEG bytes."""

    def __init__(self, root: Path, name: str, meta: dict[str, Any], rule: SourceRule) -> None:
        """Open every file once for its length and instruction."""
        super().__init__(root, name, meta, rule)
        self.views = tuple(list_field(root, name, meta, "observation_key"))
        self.text_key = meta.get("language_instruction_key")
        if not self.views or not all(isinstance(view, str) for view in self.views):
            raise wrong(root, name, "observation_key", "must list the keys of the pictures")
        if not isinstance(self.text_key, str):
            raise wrong(root, name, "language_instruction_key", "must be the key of a text")
        channels = meta.get("image_channels", "rgb")
        if channels not in ("rgb", "bgr"):
            raise wrong(root, name, "image_channels", f"{channels!r}; allowed: rgb, bgr")
        self.bgr = channels == "bgr"
        self.episodes = self._infos()

    def facts(self, index: int) -> tuple[int, str]:
        """Return length in frames and instruction; raises FieldError or DatasetError."""
        with opened(self._file(index)) as file:
            length = num_rows(file, self.rule.arms[0].key)
            if length < 1:
                raise FieldError(self.rule.arms[0].key, "the episode is empty: no frames")
            return length, read_text(file, str(self.text_key))

    def read_poses(self, index: int) -> Poses:
        """Read and check one episode's poses; raises FieldError or DatasetError."""
        with opened(self._file(index)) as file:
            return build_poses(self.rule, lambda key: read_array(file, key))

    def column(self, index: int, key: str) -> NDArray[Any]:
        """Return any array of the episode's file; ValueError if there is none."""
        self.check_index(index)

        def read() -> NDArray[Any]:
            with opened(self._file(index)) as file:
                return read_array(file, key)

        return self.named(index, read)

    def frames(self, index: int, view: str, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Return frames of one view, uint8 [k, H, W, 3] RGB, `indices` counted in the episode.

        Where the source's first picture is dropped and the last pose is left without one, the
        last picture stands in: no sample starts there.
        """
        self.check_index(index, view)
        numbers = self.check_frames(index, indices)

        def read() -> NDArray[np.uint8]:
            with opened(self._file(index)) as file:
                shift = self.rule.first_image
                last = num_rows(file, view) - 1 if shift else None
                rows = [n + shift if last is None else min(n + shift, last) for n in numbers]
                return read_pictures(file, view, rows, bgr=self.bgr)

        return self.named(index, read)

    def data_file(self, index: int) -> str:
        """Return the path of an episode's file in the meta file's words."""
        path = _path(self.items[index])
        return path if path and isinstance(path, str) else self.meta_name

    def task_field(self) -> str:
        """Return the key of the instruction."""
        return str(self.text_key)

    def check_view(self, index: int, view: str) -> None:
        """Raise FieldError when a view has too few pictures, or its ends cannot be decoded."""
        length = self.episodes[index].length
        with opened(self._file(index)) as file:
            count = num_rows(file, view)
            if count < length:
                raise FieldError(view, f"{count} pictures, the poses have {length} rows")
            read_pictures(file, view, [0, length - 1])

    def _file(self, index: int) -> Path:
        return self._inside(index, _path(self.items[index]))


class ParquetSet(OfficialSet):
    """AGIBOT's layout: LeRobot's parquet and mp4 an episode, listed with their action segments."""

    def __init__(self, root: Path, name: str, meta: dict[str, Any], rule: SourceRule) -> None:
        """Read the list of episodes."""
        super().__init__(root, name, meta, rule)
        self.views = rule.views
        self.episodes = self._infos()

    def facts(self, index: int) -> tuple[int, str]:
        """Return length in frames and instruction; raises FieldError or DatasetError."""
        item = self._item(index)
        length = item.get("length")
        if not isinstance(length, int) or length < 1:
            raise FieldError("length", f"{length!r}, must be a number of frames above 0")
        self.start_range_of(item, length)
        return length, task_of(item, self.rule.task_separator)

    def start_range(self, index: int) -> tuple[int, int]:
        """Return the range of start frames: the action segments, without the tail."""
        return self.start_range_of(self._item(index), self.episodes[index].length)

    def start_range_of(self, item: dict[str, Any], length: int) -> tuple[int, int]:
        """Return the same for an item of the datalist; raises FieldError."""
        segments = item.get("action_config")
        try:
            first, last = int(segments[0]["start_frame"]), int(segments[-1]["end_frame"])  # type: ignore[index]
        except (KeyError, IndexError, TypeError, ValueError):
            raise FieldError(
                "action_config", "must list segments with start_frame and end_frame"
            ) from None
        if not 0 <= first <= last:
            raise FieldError("action_config", f"frames {first}..{last} are no range")
        return first, min(last, length) - self.rule.tail

    def read_poses(self, index: int) -> Poses:
        """Read and check one episode's poses; raises FieldError or DatasetError."""
        poses = build_poses(self.rule, lambda key: self.column(index, key))
        length = self.episodes[index].length
        if len(poses.states) != length:
            raise FieldError(None, f"{len(poses.states)} rows, the meta file says {length}")
        return poses

    def column(self, index: int, key: str) -> NDArray[Any]:
        """Return a column of the episode's parquet file; ValueError if there is none."""
        self.check_index(index)
        file = self._episode_file(index, DATA_PATH)
        return read_column(self.root.absolute(), file, key, index)

    def frames(self, index: int, view: str, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Return frames of one view, uint8 [k, H, W, 3] RGB, `indices` counted in the episode."""
        self.check_index(index, view)
        numbers = self.check_frames(index, indices)
        return decode_frames(self._episode_file(index, VIDEO_PATH, view), numbers, fps=self.fps)

    def data_file(self, index: int) -> str:
        """Return the name of an episode's parquet file."""
        try:
            return self._name(self._episode_file(index, DATA_PATH))
        except ValueError:
            return self.meta_name

    def task_field(self) -> str:
        """Return the field of the datalist that holds the instruction."""
        return "tasks"

    def check_view(self, index: int, view: str) -> None:
        """Raise DatasetError when the video is missing, damaged or shorter than its table."""
        path = self._episode_file(index, VIDEO_PATH, view)
        length = self.episodes[index].length
        try:
            found = count_frames(path, fps=self.fps)
            message = f"the video has {found} frames, the table needs {length}"
            if found >= length:
                return
        except ValueError as error:
            message = str(error)
        problem = Problem(file=self._name(path), episode=index, field=view, message=message)
        raise DatasetError(self.path, [problem])

    def _item(self, index: int) -> dict[str, Any]:
        item = self.items[index]
        if not isinstance(item, dict) or not isinstance(item.get("episode_index"), int):
            raise FieldError("datalist", "must be an object with top_path and episode_index")
        return item

    def _episode_file(self, index: int, template: str, view: str = "") -> Path:
        item = self._item(index)
        top = self._inside(index, item.get("top_path"))
        number = item["episode_index"]
        return top / template.format(
            episode_chunk=number // CHUNK, episode_index=number, video_key=view
        )


def _path(item: Any) -> Any:
    """Return the path of a datalist item: itself, or the first of a list."""
    return item[0] if isinstance(item, list) and item else item
