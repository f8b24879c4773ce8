"""Simulated data for the data benchmark: filmed sets at a given GOP, and an index of any length."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xvla.config import DataConfig, DomainEntry
from xvla.data.caches import index_path
from xvla.data.frame_cache import CacheSpec, build_frame_cache, cache_cost, cache_path
from xvla.data.readers import open_dataset
from xvla.data.readers.base import Dataset
from xvla.data.readers.lerobot_v3 import LeRobotV3
from xvla.data.sample_index import STATES, TIMES, dataset_identity, start_files
from xvla.data.writing.lerobot import EpisodeRecord, write_dataset
from xvla.data.writing.video import VideoOptions

FPS = 30
SIZE = 224
VIEWS = ("observation.images.main", "observation.images.left", "observation.images.right")
DOMAIN = "agibot"
FRAMES_EACH = 8  # frames of an episode of the made-up index


def data_config(root: Path, **fields) -> DataConfig:
    """Return the configuration of a one-domain mixture at the model's real size."""
    defaults = {"tokenizer": "demo", "batch_size": 8, "augmentation": "none"}
    mixture = [DomainEntry(name=DOMAIN)]
    return DataConfig(
        mixture=mixture, anchor_domain=DOMAIN, root=str(root), **{**defaults, **fields}
    )


def long_config(root: Path, **fields) -> DataConfig:
    """Return the configuration of a made-up long set: single samples, no frames kept."""
    return data_config(root, start_tail_s=0.1, batch_size=1, frame_cache_gib=0.0, **fields)


def filmed_set(root: Path, *, gop: int, episodes: int, seconds: float) -> LeRobotV3:
    """Write episodes of textured, moving pictures in three views with a key frame every `gop`."""
    write_dataset(
        root / DOMAIN,
        fps=FPS,
        robot_type="simulated",
        views=dict.fromkeys(VIEWS, (SIZE, SIZE)),
        episodes=_records(episodes, int(seconds * FPS)),
        splits={"train": episodes},
        video=VideoOptions(crf=23, preset="veryfast", gop=gop),
    )
    dataset = open_dataset(root / DOMAIN)
    assert isinstance(dataset, LeRobotV3)
    return dataset


def cached(dataset: Dataset, folder: Path, codec: str) -> tuple[Path, CacheSpec]:
    """Build a frame cache and return it, after printing what it takes."""
    spec = CacheSpec(size=SIZE, views=len(VIEWS), codec=codec)  # type: ignore[arg-type]
    cost = cache_cost(dataset, spec)
    path = build_frame_cache(dataset, cache_path(folder, DOMAIN, spec), spec)
    found = sum(file.stat().st_size for file in path.iterdir())
    print(
        f"  {codec} cache: {cost['frames']} frames, {cost['bytes'] / 2**20:.1f} MiB said before, "
        f"{found / 2**20:.1f} MiB written"
    )
    return path, spec


def long_set(root: Path, cache: Path, episodes: int) -> DataConfig:
    """Make up a set of that many short episodes and its index; all videos are one, by links."""
    config = long_config(root)
    frames = episodes * FRAMES_EACH
    folder = root / DOMAIN
    template = filmed_set(root, gop=10, episodes=1, seconds=10)
    info = json.loads((folder / "meta/info.json").read_text())
    del info["features"]["action"]  # the tables below are without it
    info |= {"splits": {"train": f"0:{episodes}"}, "total_episodes": episodes}
    (folder / "meta/info.json").write_text(json.dumps(info))
    states = _walk(frames)
    _write_frames(folder, states, episodes)
    _write_meta(folder, episodes, template)
    _write_index(open_dataset(folder), index_path(cache, DOMAIN), config, states)
    return config


def _records(episodes: int, length: int) -> Iterator[EpisodeRecord]:
    for number in range(episodes):
        frames = {view: film(length, seed=10 * number + v) for v, view in enumerate(VIEWS)}
        states = _walk(length, seed=number)
        columns = {"observation.state": states, "action": states}
        yield EpisodeRecord(task="lift the cube", columns=columns, frames=frames)


def film(length: int, *, seed: int, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    """Return uint8 [length, height, width, 3]: a patch moves over a ground that the camera pans.

    Both have about the spectrum of photographs; a little noise is new in each frame.
    """
    rng = np.random.default_rng(seed)
    ground, patch = _texture(2 * max(height, width), rng), _texture(64, rng)
    frames = np.empty((length, height, width, 3), dtype=np.uint8)
    for t in range(length):
        top = int(height / 2 * (1 + np.sin(t / 40 + seed)))
        left = int(width / 2 * (1 + np.sin(t / 40 + 1.3 + seed)))
        frame = ground[top : top + height, left : left + width].copy()
        row = int((height - 64) / 2 * (1 + np.sin(t / 20 + 2 + seed)))
        column = int((width - 64) / 2 * (1 + np.sin(t / 20 + 0.3 + seed)))
        frame[row : row + 64, column : column + 64] = patch
        frame += rng.normal(0, 2, (height, width, 1)).astype(np.float32)
        frames[t] = np.clip(frame, 0, 255)
    return frames


def _texture(size: int, rng: np.random.Generator) -> np.ndarray:
    """Return float32 [size, size, 3]: mean 127, deviation 45, amplitudes falling as f^-1.3."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=(4, size, size)), axes=(1, 2)) / frequency**1.3
    waves = np.fft.irfft2(spectrum, s=(size, size), axes=(1, 2))
    waves = waves[:1] + 0.3 * waves[1:]  # mostly grey, as most things are
    return (127 + 45 * waves / waves.std()).transpose(1, 2, 0).astype(np.float32)


def _walk(length: int, *, seed: int = 0) -> np.ndarray:
    """Return poses [length, 20] of two arms: within 1 m, turning about z, a gripper in 0..1."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(0, 0.01, (length, 2, 5)), axis=0)
    cos, sin, none = np.cos(walk[..., 3]), np.sin(walk[..., 3]), np.zeros((length, 2))
    rotation = np.stack([cos, -sin, sin, cos, none, none], axis=-1)
    gripper = (1 + np.sin(walk[..., 4:])) / 2
    arms = np.concatenate([np.sin(walk[..., :3]), rotation, gripper], axis=-1)
    return arms.reshape(length, 20).astype(np.float32)


def _write_frames(folder: Path, states: np.ndarray, episodes: int) -> None:
    frames = len(states)
    columns = pa.table(
        {
            "observation.state": pa.FixedSizeListArray.from_arrays(pa.array(states.ravel()), 20),
            "timestamp": pa.array(np.arange(frames) % FRAMES_EACH / FPS, pa.float32()),
            "episode_index": np.repeat(np.arange(episodes), FRAMES_EACH),
            "task_index": np.zeros(frames, dtype=np.int64),
        }
    )
    file = next((folder / "data").rglob("*.parquet"))
    pq.write_table(columns, file, compression="none", use_dictionary=False, row_group_size=65_536)


def _write_meta(folder: Path, episodes: int, template: Dataset) -> None:
    each = template.episodes[0].length // FRAMES_EACH
    files, places = np.divmod(np.arange(episodes), each)
    zeros = np.zeros(episodes, dtype=np.int64)
    columns: dict[str, object] = {
        "episode_index": np.arange(episodes),
        "length": np.full(episodes, FRAMES_EACH),
        "tasks": pa.array([["lift the cube"]] * episodes),
    }
    for view in VIEWS:
        columns |= {f"videos/{view}/chunk_index": zeros, f"videos/{view}/file_index": files}
        columns[f"videos/{view}/from_timestamp"] = places * FRAMES_EACH / FPS
        video = folder / f"videos/{view}/chunk-000/file-000.mp4"
        for number in range(1, int(files[-1]) + 1):
            os.link(video, video.with_name(f"file-{number:03d}.mp4"))
    file = next((folder / "meta/episodes").rglob("*.parquet"))
    pq.write_table(pa.table(columns), file)


def _write_index(dataset: Dataset, folder: Path, config: DataConfig, states: np.ndarray) -> None:
    """Write the index files at once instead of episode by episode."""
    folder.mkdir(parents=True)
    episodes = len(dataset.episodes)
    states.tofile(folder / STATES)
    (np.arange(len(states)) % FRAMES_EACH / FPS).tofile(folder / TIMES)
    np.save(folder / "bounds.npy", np.arange(episodes + 1) * FRAMES_EACH)
    each = FRAMES_EACH - round(config.start_tail_s * FPS)
    bounds_file, frames_file = start_files(folder, config)
    np.save(bounds_file, np.arange(episodes + 1) * each)
    np.tile(np.arange(each, dtype=np.int32), episodes).tofile(frames_file)
    (folder / "index.json").write_text(json.dumps(dataset_identity(dataset)))
