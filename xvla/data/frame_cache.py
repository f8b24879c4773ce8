"""A one-off copy of a dataset's frames at the model's size, cut for random access.

Decoding one frame of a video costs all frames since the key frame; a cached one costs a JPEG, or
with codec "raw" a copy out of the page cache. Raw frames equal those decoded from the video; JPEG
frames differ by a few grey levels, so that a run trained on them is another experiment.

    <folder>/cache.json               what is cached of which dataset; written when all shards are
    <folder>/shard-00000.bin          encoded frames of SHARD_EPISODES episodes, one after another
    <folder>/shard-00000.npy          its crc32, the number of frames before each episode and
                                      where each frame starts; written last
"""

import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xvla.data import memory
from xvla.data.frames import resized_blocks
from xvla.data.readers.base import Dataset
from xvla.data.verify import content_files
from xvla.data.writing.targets import new_file

Codec = Literal["jpeg", "raw"]
CODECS = ("jpeg", "raw")
JPEG_QUALITY = 90
SHARD_EPISODES = 64
SAMPLED_FRAMES = 24
# The table of a shard, int64: crc32, SHARD_EPISODES + 1 counts of frames, and the offsets.
FIRST, OFFSETS = 1, SHARD_EPISODES + 2


_Shard = tuple[NDArray[np.uint8], NDArray[np.int64]]
_SHARDS: memory.ByteCache[_Shard] = memory.ByteCache(memory.SHARDS, size=lambda _: memory.SHARD)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSpec:
    """What is cached: every `stride`-th frame of each episode, the first `views` views.

    `size` is the side in pixels of the cached frames; `stride` is the start_stride of training.
    """

    size: int = 224
    views: int = 3
    stride: int = 1
    codec: Codec = "jpeg"

    def __post_init__(self) -> None:
        """Raise ValueError for a codec that is not there or numbers below 1."""
        if self.codec not in CODECS:
            raise ValueError(f"codec {self.codec!r} is unknown; allowed: {', '.join(CODECS)}")
        if min(self.size, self.views, self.stride) < 1:
            raise ValueError(f"{self}: size, views and stride must be at least 1")


def cache_path(folder: str | Path, name: str, spec: CacheSpec) -> Path:
    """Return where the frames of the domain `name` lie in a folder of caches."""
    return Path(folder) / name / f"{spec.codec}-{spec.size}-v{spec.views}-s{spec.stride}"


def cache_cost(dataset: Dataset, spec: CacheSpec) -> dict[str, int]:
    """Return {"frames", "bytes"} that a cache would take, from a few encoded frames."""
    views = dataset.views[: spec.views]
    frames = int((-(-dataset.episodes.lengths // spec.stride)).sum()) * len(views)
    places = np.linspace(0, len(dataset.episodes) - 1, SAMPLED_FRAMES).astype(int)
    one = replace(spec, stride=10**9)
    episodes = np.unique(places)[: -(-SAMPLED_FRAMES // max(1, len(views)))]
    sizes = [size for e in episodes for size in _sizes(dataset, int(e), one)]
    mean = float(np.mean(sizes)) if sizes else 0.0
    return {"frames": frames, "bytes": round(frames * mean) + 8 * frames}


def _sizes(dataset: Dataset, episode: int, spec: CacheSpec) -> list[int]:
    """Return the bytes of an episode's encoded frames; none where it cannot be decoded."""
    try:
        return [len(data) for data in _encoded(dataset, episode, spec)]
    except ValueError:
        return []


def build_frame_cache(
    dataset: Dataset,
    folder: Path,
    spec: CacheSpec,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the cache of `dataset` into `folder`; shards that are there and whole are kept.

    `on_progress(done, total)` counts episodes. An episode that cannot be decoded is left out: its
    frames are read from the video, where the failure is counted.

    Raises:
        ValueError: `folder` holds the cache of another dataset or of other frames.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_same(folder, dataset, spec)
    total = len(dataset.episodes)
    for number in range(-(-total // SHARD_EPISODES)):
        if not _is_whole(folder, number):
            _write_shard(dataset, folder, number, spec)
        if on_progress:
            on_progress(min(total, (number + 1) * SHARD_EPISODES), total)
    _write_json(folder / "cache.json", {**_identity(dataset, spec), "complete": True})
    return folder


def verify_frame_cache(folder: Path) -> list[str]:
    """Return what is wrong with a cache, shard by shard; reads all of it."""
    if not (folder / "cache.json").exists():
        return [f"{folder}: no cache.json; build the cache first"]
    shards = -(-json.loads((folder / "cache.json").read_text())["episodes"] // SHARD_EPISODES)
    return [
        f"{folder / _name(number)}.bin: missing or other bytes than were written; build it again"
        for number in range(shards)
        if not _is_whole(folder, number, read=True)
    ]


class FrameCache:
    """Random access to cached frames of one dataset."""

    def __init__(self, dataset: Dataset, folder: Path, spec: CacheSpec) -> None:
        """Open the cache; raises ValueError when it is not there, unfinished or of other data."""
        _check_same(folder, dataset, spec)
        if not _recorded(folder).get("complete"):
            raise ValueError(f"frame cache {folder} is not complete; build it again to go on")
        self.folder, self.spec = folder, spec
        self._views = len(dataset.views[: spec.views])

    def get(self, episode: int, frame: int) -> NDArray[np.uint8] | None:
        """Return the views of a frame, uint8 [views, 3, size, size]; None if it is not cached."""
        if frame % self.spec.stride:
            return None
        data, table = self._shard(episode // SHARD_EPISODES)
        place = FIRST + episode % SHARD_EPISODES
        first = int(table[place]) + frame // self.spec.stride * self._views
        if first + self._views > int(table[place + 1]):
            return None
        bounds = table[OFFSETS + first : OFFSETS + first + self._views + 1].tolist()
        side = self.spec.size
        frames = np.empty((self._views, 3, side, side), dtype=np.uint8)
        for view in range(self._views):
            _decode(data[bounds[view] : bounds[view + 1]], frames[view], self.spec.codec)
        return frames

    def _shard(self, number: int) -> _Shard:
        return _SHARDS.get(self, number, partial(_map, self.folder, number))


def _map(folder: Path, number: int) -> _Shard:
    data = np.memmap(folder / f"{_name(number)}.bin", dtype=np.uint8, mode="r")
    return data, _table(folder, number)


def _encoded(dataset: Dataset, episode: int, spec: CacheSpec) -> Iterator[bytes]:
    """Yield the encoded frames of an episode, view after view within each frame."""
    numbers = range(0, int(dataset.episodes.lengths[episode]), spec.stride)
    blocks = resized_blocks(dataset, episode, numbers, views=spec.views, size=spec.size)
    for block in blocks:
        for view in block.reshape(-1, *block.shape[2:]):
            yield _encode(view, spec.codec)


def _encode(frame: NDArray[np.uint8], codec: Codec) -> bytes:
    if codec == "raw":
        return frame.tobytes()
    stream = io.BytesIO()
    Image.fromarray(frame.transpose(1, 2, 0)).save(stream, "JPEG", quality=JPEG_QUALITY)
    return stream.getvalue()


def _decode(data: NDArray[np.uint8], out: NDArray[np.uint8], codec: Codec) -> None:
    if codec == "raw":
        out[...] = data.reshape(out.shape)
    else:
        out[...] = np.asarray(Image.open(io.BytesIO(data.tobytes()))).transpose(2, 0, 1)


def _write_shard(dataset: Dataset, folder: Path, number: int, spec: CacheSpec) -> None:
    episodes = range(number * SHARD_EPISODES, (number + 1) * SHARD_EPISODES)
    lengths: list[int] = []
    first = [0]
    crc = 0
    with new_file(folder / f"{_name(number)}.bin") as stream:
        for episode in episodes:
            if episode < len(dataset.episodes):
                sizes, crc = _write_episode(stream, dataset, episode, spec, crc)
                lengths += sizes
            first.append(len(lengths))
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    with new_file(folder / f"{_name(number)}.npy") as stream:
        np.save(stream, np.concatenate([[crc], first, offsets]).astype(np.int64))


def _write_episode(
    stream: BinaryIO, dataset: Dataset, episode: int, spec: CacheSpec, crc: int
) -> tuple[list[int], int]:
    """Append an episode's frames, all or none; return their sizes and the crc with them."""
    start, before, sizes = stream.tell(), crc, []
    try:
        for data in _encoded(dataset, episode, spec):
            crc = zlib.crc32(data, crc)
            sizes.append(stream.write(data))
    except ValueError:
        stream.seek(start)
        stream.truncate()
        return [], before
    return sizes, crc


def _is_whole(folder: Path, number: int, *, read: bool = False) -> bool:
    data = folder / f"{_name(number)}.bin"
    try:
        table = _table(folder, number)
        if data.stat().st_size != int(table[-1]):
            return False
    except (OSError, ValueError, IndexError):
        return False
    return not read or _crc(data) == int(table[0])


def _crc(path: Path) -> int:
    crc = 0
    with path.open("rb") as stream:
        while block := stream.read(1 << 22):
            crc = zlib.crc32(block, crc)
    return crc


def _table(folder: Path, number: int) -> NDArray[np.int64]:
    return np.load(folder / f"{_name(number)}.npy", mmap_mode="r")


def _name(number: int) -> str:
    return f"shard-{number:05d}"


def _identity(dataset: Dataset, spec: CacheSpec) -> dict[str, Any]:
    """Return what tells this cache from others; the data by names and sizes of its files."""
    root = Path(dataset.path)
    files = [(name, (root / name).stat().st_size) for name in content_files(root)]
    digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()
    return {**asdict(spec), "episodes": len(dataset.episodes), "files_sha256": digest}


def _recorded(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "cache.json").read_text())
    except FileNotFoundError:
        raise ValueError(f"no frame cache at {folder}; build it first") from None


def _check_same(folder: Path, dataset: Dataset, spec: CacheSpec) -> None:
    """Raise ValueError when `folder` was begun for something else; begin it when it is new."""
    wanted = _identity(dataset, spec)
    if not (folder / "cache.json").exists() and folder.is_dir() and not any(folder.iterdir()):
        _write_json(folder / "cache.json", {**wanted, "complete": False})
    found = _recorded(folder)
    for key, value in wanted.items():
        if found.get(key) != value:
            raise ValueError(
                f"frame cache {folder} has {key} = {found.get(key)!r}, needed is {value!r}; "
                "give another folder, or delete this one and build it again"
            )


def _write_json(path: Path, document: dict[str, Any]) -> None:
    with new_file(path) as stream:
        stream.write(json.dumps(document, indent=1).encode())
