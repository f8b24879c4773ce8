"""One-off caches: equal samples, resumed and verified builds, errors for what does not fit."""

import tracemalloc
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from make_lerobot import VIEWS, SetSpec, write_set

from xvla.batch import Batch
from xvla.config import DataConfig, DomainEntry
from xvla.data import frame_cache, open_dataset
from xvla.data import frames as frames_module
from xvla.data.caches import LoaderOptions
from xvla.data.frame_cache import CacheSpec, FrameCache, build_frame_cache, verify_frame_cache
from xvla.data.frames import frame_views
from xvla.data.images import resize
from xvla.data.loader import make_loader
from xvla.data.prepare import prepare_caches
from xvla.data.readers.base import Dataset
from xvla.data.sample_index import SampleIndex
from xvla.data.sources import Mixture


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    root = tmp_path_factory.mktemp("caches")
    write_set(root / "sim_panda")
    write_set(root / "sim_kinova3_dual", SetSpec(two_arms=True, views=VIEWS[:1]))
    return DataConfig(
        mixture=[
            DomainEntry(name="sim_panda", num_episodes=3),
            DomainEntry(name="sim_kinova3_dual"),
        ],
        anchor_domain="sim_kinova3_dual",
        image_size=24,
        tokenizer="demo",
        prediction_window_s=1.5,
        num_anchors=6,
        augmentation="none",
        root=str(root),
        batch_size=4,
        start_stride=2,
        frame_cache_gib=0.0,
    )


@pytest.fixture
def dataset(config: DataConfig) -> Dataset:
    return open_dataset(Path(config.root) / "sim_panda")


def _batches(config: DataConfig, count: int, **options) -> list[tuple[Batch, list]]:
    loader = make_loader(config, split="train", seed=1, options=LoaderOptions(**options))
    return [(next(loader), loader.last_keys) for _ in range(count)]


def _assert_equal(a: tuple[Batch, list], b: tuple[Batch, list], *, atol: float = 0.0) -> None:
    assert a[1] == b[1]
    for field in fields(Batch):
        found, wanted = getattr(a[0], field.name), getattr(b[0], field.name)
        if field.name == "images":
            torch.testing.assert_close(found, wanted, atol=atol, rtol=0)
        else:
            assert torch.equal(found, wanted)


def test_samples_are_the_same_with_and_without(config: DataConfig, tmp_path: Path) -> None:
    plain = _batches(config, 8)
    said: list[str] = []
    rows = prepare_caches(Mixture.open(config), tmp_path, frames="raw", say=said.append)
    assert not any(tmp_path.iterdir())
    assert said[-1].startswith("nothing written")
    # 205 frames in six episodes, of which every second is kept: 15 + 18 + 20 + 17 + 16 + 18.
    assert rows[0]["frames"]["frames"] == 104 * len(VIEWS)
    for frames in ("raw", "jpeg"):
        prepare_caches(Mixture.open(config), tmp_path, frames=frames, yes=True, say=said.append)
    for a, b in zip(plain, _batches(config, 8, cache=str(tmp_path), frames="raw"), strict=True):
        _assert_equal(a, b)
    # Flat grey pictures survive JPEG to one grey level, 1/255/0.224 after normalisation.
    jpeg = _batches(config, 8, cache=str(tmp_path), frames="jpeg")
    for a, b in zip(plain, jpeg, strict=True):
        _assert_equal(a, b, atol=2.1 / 255 / 0.224)
    workers = replace(config, num_workers=2)
    for a, b in zip(plain, _batches(workers, 8, cache=str(tmp_path), frames="raw"), strict=True):
        _assert_equal(a, b)


def test_said_size_is_the_written_one(dataset: Dataset, tmp_path: Path) -> None:
    for codec in ("raw", "jpeg"):
        spec = CacheSpec(size=24, views=2, codec=codec)  # type: ignore[arg-type]
        folder = build_frame_cache(dataset, tmp_path / codec, spec)
        written = sum(file.stat().st_size for file in folder.iterdir())
        assert frame_cache.cache_cost(dataset, spec)["bytes"] == pytest.approx(written, rel=0.15)


def test_interrupted_build_goes_on(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_cache, "SHARD_EPISODES", 2)
    monkeypatch.setattr(frame_cache, "OFFSETS", 4)
    spec = CacheSpec(size=24, views=2)

    def stop(done: int, _: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_frame_cache(dataset, tmp_path / "c", spec, on_progress=stop)
    with pytest.raises(ValueError, match="is not complete; build it again to go on"):
        FrameCache(dataset, tmp_path / "c", spec)
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "c").glob("*.bin")}
    assert len(kept) == 2
    build_frame_cache(dataset, tmp_path / "c", spec)
    assert all(file.stat().st_mtime_ns == when for file, when in kept.items())
    cache = FrameCache(dataset, tmp_path / "c", spec)
    for episode in range(6):
        exact = [dataset.frames(episode, view, [7])[0].mean() for view in VIEWS]
        assert np.abs(cache.get(episode, 7).mean(axis=(1, 2, 3)) - exact).max() < 1.0
    assert verify_frame_cache(tmp_path / "c") == []


def test_damage_is_found(dataset: Dataset, tmp_path: Path) -> None:
    spec = CacheSpec(size=24, views=2)
    folder = build_frame_cache(dataset, tmp_path / "c", spec)
    file = folder / "shard-00000.bin"
    content = bytearray(file.read_bytes())
    content[999] ^= 1
    file.write_bytes(content)
    assert "other bytes than were written" in verify_frame_cache(folder)[0]
    file.write_bytes(content[:-9])
    build_frame_cache(dataset, folder, spec)
    assert verify_frame_cache(folder) == []


def test_what_does_not_fit_is_refused(config: DataConfig, dataset: Dataset, tmp_path: Path) -> None:
    spec = CacheSpec(size=24, views=2)
    build_frame_cache(dataset, tmp_path / "c", spec)
    with pytest.raises(ValueError, match="has size = 24, needed is 32"):
        FrameCache(dataset, tmp_path / "c", replace(spec, size=32))
    other = open_dataset(write_set(tmp_path / "sim_panda", SetSpec(lengths=[12] * 6)))
    with pytest.raises(ValueError, match="has files_sha256 = "):
        build_frame_cache(other, tmp_path / "c", spec)
    with pytest.raises(ValueError, match="no jpeg frame cache of sim_panda at"):
        _batches(config, 1, cache=str(tmp_path / "none"), frames="jpeg")
    with pytest.raises(ValueError, match="needs `cache`"):
        _batches(config, 1, frames="jpeg")
    with pytest.raises(ValueError, match="codec 'png' is unknown"):
        CacheSpec(codec="png")  # type: ignore[arg-type]
    prepare_caches(Mixture.open(config), tmp_path, yes=True, say=lambda _: None)
    with pytest.raises(ValueError, match="has frames = 205, the dataset"):
        SampleIndex(other, tmp_path / "sim_panda/index")
    with pytest.raises(ValueError, match="no start frames for"):
        _batches(replace(config, start_stride=3), 1, cache=str(tmp_path))


def test_an_episode_is_held_a_block_at_a_time_and_cached_as_it_is_read(tmp_path: Path) -> None:
    long = SetSpec(lengths=[200], splits={"train": "0:1"}, size=128, views=VIEWS[:1])
    dataset = open_dataset(write_set(tmp_path / "sim_panda", long))
    spec = CacheSpec(size=24, views=1, codec="raw")
    whole = 200 * 128 * 128 * 3
    ways = {
        "cache": lambda: build_frame_cache(dataset, tmp_path / "cache", spec),
        "store": lambda: frame_views(dataset, 0, 0, views=1, size=24, budget=2**30),
    }
    for name, read in ways.items():
        tracemalloc.start()
        read()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < whole / 2, f"{name}: {peak / 2**20:.1f} MiB"
    cache = FrameCache(dataset, tmp_path / "cache", spec)
    for frame in (0, 63, 64, 199):
        alone = resize(dataset.frames(0, VIEWS[0], [frame]), 24)
        np.testing.assert_array_equal(cache.get(0, frame), alone)
        kept = frame_views(dataset, 0, frame, views=1, size=24, budget=2**30)
        np.testing.assert_array_equal(kept, alone)


def test_an_episode_that_fails_in_its_second_block_is_left_out_whole(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = type(dataset).frames

    def failing(self: Dataset, index: int, view: str, indices: list[int]) -> np.ndarray:
        if index == 1 and 20 in indices:
            raise ValueError("damaged")
        return read(self, index, view, indices)

    monkeypatch.setattr(frames_module, "BLOCK_FRAMES", 16)
    monkeypatch.setattr(type(dataset), "frames", failing)
    spec = CacheSpec(size=24, views=2, codec="raw")
    build_frame_cache(dataset, tmp_path / "cache", spec)
    assert verify_frame_cache(tmp_path / "cache") == []
    cache = FrameCache(dataset, tmp_path / "cache", spec)
    assert cache.get(1, 0) is None
    for episode in (0, 2):
        found = [resize(read(dataset, episode, view, [29]), 24)[0] for view in VIEWS]
        np.testing.assert_array_equal(cache.get(episode, 29), np.stack(found))
