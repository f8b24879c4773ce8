"""Reader of X-VLA's own sets: a meta JSON that lists HDF5 files, or parquet and mp4 episodes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xvla.data.readers.base import FieldError, Poses, fail
from xvla.data.readers.episode_files import EpisodeFiles
from xvla.data.readers.hdf5 import num_rows, opened, read_array, read_pictures, read_text
from xvla.data.readers.lerobot_meta import split_names
from xvla.data.readers.lerobot_v21 import LeRobotV21, first_task
from xvla.data.readers.meta_json import instruction_variants, list_field, source_rule
from xvla.data.readers.paths import inside
from xvla.data.readers.poses import build_poses
from xvla.data.readers.sources import SourceRule

CHUNK = 1000
ELSEWHERE = 'data elsewhere needs "root_path" in the meta file'


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a meta JSON lists; paths in it are relative to `root` and stay inside it."""

    root: Path
    name: str
    meta: dict[str, Any]
    rule: SourceRule
    items: list[Any]
    splits: list[str]

    @classmethod
    def read(cls, root: Path, file: Path, meta: dict[str, Any]) -> "Listing":
        """Check the fields that all sources have; raises DatasetError when one is wrong.

        `root_path` in the meta file names another folder. `rotation` in it states the convention
        of a source whose own is not published.
        """
        name, given = file.name, meta.get("root_path")
        if given is not None and not isinstance(given, str):
            fail(root, name, "root_path", f"{given!r}, must be a folder")
        base = (file.parent / given) if given else root
        if not base.is_dir():
            fail(root, name, "root_path", f"{given!r} is no folder; say where the data lie")
        rule = source_rule(base, name, meta)
        items = list_field(base, name, meta, "datalist")
        if not items:
            fail(base, name, "datalist", "the dataset is empty: it lists no episodes")
        splits = split_names(base, meta.get("splits"), len(items), file=name)
        return cls(root=base, name=name, meta=meta, rule=rule, items=items, splits=splits)

    def path(self, index: int, value: Any) -> Path:
        """Return a path of the datalist, which must be a text and stay inside the folder."""
        if not isinstance(value, str) or not value:
            raise FieldError("datalist", f"{value!r}, must be a path")
        return inside(
            self.root, value, file=self.name, field="datalist", episode=index, allowed=ELSEWHERE
        )


def open_official(root: Path, file: Path, meta: dict[str, Any]) -> EpisodeFiles:
    """Open the set of one meta file in the folder `root`; raises DatasetError as `Listing.read`."""
    listing = Listing.read(root, file, meta)
    kind = ParquetSet if listing.rule.container == "parquet" else Hdf5Set
    dataset = kind(listing)
    dataset.instruction_variants = instruction_variants(listing.root, listing.name, meta)
    # Two sets may share a folder of data: a set is known by the folder of its meta file.
    dataset.path = str(root.resolve())
    return dataset


class Hdf5Set(EpisodeFiles):
    """One HDF5 file an episode: poses and instruction by key, pictures as arrays or JPEG bytes.

    `image_channels: "bgr"` in the meta file says that red and blue are swapped in the pictures.
    """

    format = "xvla"
    rule: SourceRule

    def __init__(self, listing: Listing) -> None:
        """Open every file once for its length and instruction."""
        super().__init__(listing.root, listing.meta)
        self.listing, self.rule = listing, listing.rule
        self.domain, self.fps = self.rule.domain, self.rule.rate_hz
        root, name, meta = listing.root, listing.name, listing.meta
        self.views = tuple(list_field(root, name, meta, "observation_key"))
        self.text_key = meta.get("language_instruction_key")
        if not self.views or not all(isinstance(view, str) for view in self.views):
            fail(root, name, "observation_key", "must list the keys of the pictures")
        if not isinstance(self.text_key, str):
            fail(root, name, "language_instruction_key", "must be the key of a text")
        channels = meta.get("image_channels", "rgb")
        if channels not in ("rgb", "bgr"):
            fail(root, name, "image_channels", f"{channels!r}; allowed: rgb, bgr")
        self.bgr = channels == "bgr"
        self.episodes = self.table(len(listing.items), listing.splits, self._describe)

    def read_poses(self, index: int) -> Poses:
        """Read and check one episode's poses; raises FieldError or DatasetError."""
        with opened(self._file(index)) as file:
            return build_poses(self.rule, lambda key: read_array(file, key))

    def read_column(self, index: int, key: str) -> NDArray[Any]:
        """Read any array of the episode's file."""
        with opened(self._file(index)) as file:
            return read_array(file, key)

    def read_frames(self, index: int, view: str, numbers: list[int]) -> NDArray[np.uint8]:
        """Read pictures; where the source drops its first, the last stands in for one more.

        The last pose is then without a picture: no sample starts there.
        """
        with opened(self._file(index)) as file:
            shift = self.rule.first_image
            last = num_rows(file, view) - 1 if shift else None
            rows = [n + shift if last is None else min(n + shift, last) for n in numbers]
            return read_pictures(file, view, rows, bgr=self.bgr)

    def data_file(self, index: int) -> str:
        """Return the path of an episode's file in the meta file's words."""
        path = _first(self.listing.items[index])
        return path if path and isinstance(path, str) else self.listing.name

    def task_place(self, index: int) -> tuple[str, str]:
        """Return the file and the key of an episode's instruction."""
        return self.data_file(index), str(self.text_key)

    def check_view(self, index: int, view: str) -> None:
        """Raise FieldError when a view has too few pictures, or its ends cannot be decoded."""
        length = int(self.episodes.lengths[index])
        with opened(self._file(index)) as file:
            count = num_rows(file, view)
            if count < length:
                raise FieldError(view, f"{count} pictures, the poses have {length} rows")
            read_pictures(file, view, [0, length - 1])

    def _describe(self, index: int) -> tuple[int, str]:
        """Return length in frames and instruction; raises FieldError or DatasetError."""
        with opened(self._file(index)) as file:
            length = num_rows(file, self.rule.arms[0].key)
            if length < 1:
                raise FieldError(self.rule.arms[0].key, "the episode is empty: no frames")
            return length, read_text(file, str(self.text_key))

    def _file(self, index: int) -> Path:
        return self.listing.path(index, _first(self.listing.items[index]))


class ParquetSet(LeRobotV21):
    """AGIBOT's layout: LeRobot's parquet and mp4 an episode, listed with their action segments."""

    format = "xvla"
    lengths_file = "the meta file"
    rule: SourceRule

    def __init__(self, listing: Listing) -> None:
        """Read the list of episodes."""
        self.listing = listing
        super().__init__(listing.root, listing.meta)

    def read_meta(self) -> None:
        """Set what the list says of the episodes."""
        self.no_file = self.listing.name
        self.rule = self.listing.rule
        self.domain, self.fps, self.views = self.rule.domain, self.rule.rate_hz, self.rule.views
        self.episodes = self.table(len(self.listing.items), self.listing.splits, self._describe)

    def read_times(self, index: int, length: int) -> NDArray[np.float64]:
        """Return frame / rate: the source has no time stamps of its own."""
        return np.arange(length, dtype=np.float64) / self.fps

    def start_range(self, index: int) -> tuple[int, int]:
        """Return the range of start frames: the action segments, without the tail."""
        first, last = _segments(self._item(index))
        return first, min(last, int(self.episodes.lengths[index])) - self.rule.tail

    def file(self, key: str, default: str, index: int, view: str = "") -> Path:
        """Return a file of an episode, below the folder that the list names for it."""
        item = self._item(index)
        number = item["episode_index"]
        return self.listing.path(index, item.get("top_path")) / default.format(
            episode_chunk=number // CHUNK, episode_index=number, video_key=view
        )

    def _describe(self, index: int) -> tuple[int, str]:
        """Return length in frames and instruction; raises FieldError or DatasetError."""
        item = self._item(index)
        length = item.get("length")
        if not isinstance(length, int) or length < 1:
            raise FieldError("length", f"{length!r}, must be a number of frames above 0")
        _segments(item)
        return length, first_task(item.get("tasks"), self.rule.task_separator)

    def _item(self, index: int) -> dict[str, Any]:
        item = self.listing.items[index]
        if not isinstance(item, dict) or not isinstance(item.get("episode_index"), int):
            raise FieldError("datalist", "must be an object with top_path and episode_index")
        return item


def _segments(item: dict[str, Any]) -> tuple[int, int]:
    """Return the first frame of an episode's action segments and the last; raises FieldError."""
    segments = item.get("action_config")
    try:
        first, last = int(segments[0]["start_frame"]), int(segments[-1]["end_frame"])  # type: ignore[index]
    except (KeyError, IndexError, TypeError, ValueError):
        message = "must list segments with start_frame and end_frame"
        raise FieldError("action_config", message) from None
    if not 0 <= first <= last:
        raise FieldError("action_config", f"frames {first}..{last} are no range")
    return first, last


def _first(item: Any) -> Any:
    """Return the path of a datalist item: itself, or the first of a list."""
    return item[0] if isinstance(item, list) and item else item
