"""One kind of cache: bounded in bytes over all sets of a process, least recently used first out."""

import gc
from pathlib import Path

import numpy as np
import pytest
from make_lerobot import VIEWS, SetSpec, write_set

from xvla.config import DataConfig, DomainEntry
from xvla.data import frames, open_dataset, samples
from xvla.data.memory import ByteCache
from xvla.data.normalise import Normaliser
from xvla.data.readers import episode_files, row_groups, video
from xvla.data.samples import SampleMaker
from xvla.data.sources import Mixture


class Owner:
    """What something is kept for."""


HERE = Owner()


def _array(size: int) -> np.ndarray:
    return np.zeros(size, dtype=np.uint8)


def test_the_least_recently_used_is_given_up_and_closed() -> None:
    closed: list[int] = []
    cache: ByteCache[np.ndarray] = ByteCache(10, close=lambda value: closed.append(len(value)))
    for size in (2, 3, 4):
        cache.get(HERE, size, lambda size=size: _array(size))
    assert cache.find(HERE, 2) is not None  # used again: 3 is now the oldest
    cache.get(HERE, 5, lambda: _array(5))
    assert (closed, cache.bytes) == ([3, 4], 7)
    assert cache.find(HERE, 3) is None
    cache.drop(HERE, 2)
    cache.drop(HERE, 2)
    assert (closed, cache.bytes) == ([3, 4, 2], 5)


def test_what_is_kept_is_made_once_and_the_newest_stays_whatever_its_size() -> None:
    cache: ByteCache[np.ndarray] = ByteCache(10)
    first = cache.get(HERE, "a", lambda: _array(99))
    assert cache.get(HERE, "a", lambda: pytest.fail("made again")) is first
    assert not cache.has_room(1)
    cache.get(HERE, "b", lambda: _array(4))
    assert (cache.find(HERE, "a"), cache.bytes) == (None, 4)
    assert (cache.has_room(6), cache.has_room(7)) == (True, False)


def test_a_value_that_cannot_be_made_leaves_nothing() -> None:
    cache: ByteCache[np.ndarray] = ByteCache(10)
    with pytest.raises(ZeroDivisionError):
        cache.get(HERE, "a", lambda: _array(1 // 0))
    assert (cache.find(HERE, "a"), cache.bytes) == (None, 0)


def test_what_is_kept_for_an_owner_goes_with_it() -> None:
    cache: ByteCache[np.ndarray] = ByteCache(100)
    owner = Owner()
    for key in ("a", "b"):
        cache.get(owner, key, lambda: _array(5))
        assert cache.get(HERE, key, lambda: _array(7)) is not cache.find(owner, key)
    assert cache.bytes == 24
    del owner
    assert cache.bytes == 14
    assert cache.find(HERE, "b") is not None


def test_a_set_that_is_no_longer_open_leaves_nothing_behind(tmp_path: Path) -> None:
    caches = (episode_files._POSES, row_groups._COLUMNS, frames.FRAMES)
    gc.collect()
    before = [cache.bytes for cache in caches]
    dataset = open_dataset(write_set(tmp_path / "set"))
    frames.frame_views(dataset, 0, 3, views=2, size=16, budget=2**30 + before[2])
    assert all(cache.bytes > old for cache, old in zip(caches, before, strict=True))
    del dataset
    gc.collect()
    assert [cache.bytes for cache in caches] == before


def test_all_sets_of_a_process_share_a_budget_and_read_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = [open_dataset(write_set(tmp_path / name, SetSpec())) for name in ("a", "b")]
    episodes = range(len(sets[0].episodes))
    whole = [[dataset.poses(e) for e in episodes] for dataset in sets]
    pictures = [dataset.frames(0, VIEWS[0], [3]) for dataset in sets]
    poses: ByteCache = ByteCache(4 * whole[0][0].nbytes)
    tables: ByteCache = ByteCache(1)
    monkeypatch.setattr(episode_files, "_POSES", poses)
    monkeypatch.setattr(row_groups, "_COLUMNS", tables)
    files: ByteCache = ByteCache(1, size=lambda _: 1, close=lambda file: file.close())
    monkeypatch.setattr(video._own(), "files", files)
    for turn in range(2):
        for dataset, known, shown in zip(sets, whole, pictures, strict=True):
            for episode in episodes:
                np.testing.assert_array_equal(dataset.poses(episode).states, known[episode].states)
                assert poses.bytes <= poses.budget, turn
            np.testing.assert_array_equal(dataset.frames(0, VIEWS[0], [3]), shown)
    assert len(tables._values) == len(files._values) == 1


def test_samples_of_one_rule_share_anchors_and_of_another_do_not(tmp_path: Path) -> None:
    write_set(tmp_path / "sim_panda")
    mixture = Mixture.open(
        DataConfig(
            mixture=[DomainEntry(name="sim_panda")],
            root=str(tmp_path),
            tokenizer="demo",
            prediction_window_s=1.0,
            num_anchors=4,
        )
    )
    before = samples.ANCHORS.bytes
    chunks = SampleMaker(mixture, Normaliser()).episode_chunks("sim_panda", 0)
    again = SampleMaker(mixture.with_fields(blind=True), Normaliser())
    assert again.episode_chunks("sim_panda", 0) is chunks
    assert samples.ANCHORS.bytes == before + chunks.nbytes
    other = SampleMaker(mixture.with_fields(prediction_window_s=2.0), Normaliser())
    assert np.abs(other.episode_chunks("sim_panda", 0) - chunks).max() > 0.01
