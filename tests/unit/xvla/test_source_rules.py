"""Samples follow the rules of their source: where they start, whose clock, which wording."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from make_official import KEYS, TASK, write_hdf5, write_meta, write_set
from official_layouts import LAYOUTS

from xvla.config import DataConfig, DomainEntry
from xvla.data import open_dataset
from xvla.data.evaluation import eval_frames
from xvla.data.frame_cache import CacheSpec, FrameCache, build_frame_cache
from xvla.data.loader import make_loader
from xvla.data.normalise import Normaliser
from xvla.data.prepare import prepare_caches
from xvla.data.resample import anchors
from xvla.data.sample_index import SampleIndex, build_index
from xvla.data.samples import SampleMaker
from xvla.data.sources import Mixture
from xvla.data.verify import dataset_digest

DOMAIN, NAME = "air_agilex_hq", "AIR-AGILEX-HQ"  # two arms with clocks of their own
EPISODES = 16  # eight of each task: three of them validate, three test


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    root = write_set(tmp_path / DOMAIN, NAME, lengths=(80,) * EPISODES)
    datalist = [f"episodes/{i}.hdf5" for i in range(EPISODES)]
    write_meta(root, NAME, datalist, lang_aug_map={TASK: ["lift it up", "raise the thing"]})
    return DataConfig(
        mixture=[DomainEntry(name=DOMAIN, num_episodes=4)],
        anchor_domain=DOMAIN,
        root=str(tmp_path),
        image_size=16,
        text_length=24,
        tokenizer="demo",
        prediction_window_s=1.0,
        batch_size=8,
        augmentation="none",
    )


def test_samples_start_where_the_source_lets_them(config: DataConfig) -> None:
    maker = SampleMaker(Mixture.open(config), Normaliser())
    allowed = set(range(80 - LAYOUTS[NAME].tail))
    for episode in maker.sources[DOMAIN].episodes:
        starts = maker.starts(DOMAIN, episode)
        assert len(starts)
        assert set(starts.tolist()) <= allowed
    assert {frame for _, _, frame in eval_frames(Mixture.open(config), "val")} <= allowed
    sparse = SampleMaker(Mixture.open(replace(config, start_stride=5)), Normaliser())
    assert set(sparse.starts(DOMAIN, episode).tolist()) <= set(range(0, 80, 5))


def test_each_arm_is_read_by_its_own_clock(config: DataConfig, tmp_path: Path) -> None:
    dataset = Mixture.open(config).sources[DOMAIN].dataset
    poses = dataset.poses(3)
    expected = anchors(
        poses.times, poses.arm_states, 7, window_s=1.0, num_anchors=30, arm_times=poses.arm_times
    )
    made = SampleMaker(Mixture.open(config), Normaliser()).poses([(DOMAIN, 3, 7)])
    np.testing.assert_array_equal(np.vstack([made.proprio, made.action[0]]), expected)
    # A prepared index holds poses at the mean of the clocks and must not be used for these.
    prepare_caches(Mixture.open(config), tmp_path / "cache", yes=True, say=lambda _: None)
    cached = replace(config, cache=str(tmp_path / "cache"))
    loader = make_loader(cached, split="train", seed=0, normaliser=Normaliser())
    batch = next(loader)
    again = SampleMaker(Mixture.open(config), Normaliser()).poses(loader.last_keys)
    np.testing.assert_array_equal(batch.action.numpy(), again.action)


def test_training_varies_the_wording_and_evaluation_does_not(config: DataConfig) -> None:
    loader = make_loader(config, split="train", seed=0)
    seen = {
        tuple(row)
        for _ in range(8)
        for batch in [next(loader)]
        for row, key in zip(batch.input_ids.tolist(), loader.last_keys, strict=True)
        if key[1] % 2 == 0
    }
    assert len(seen) == 3
    maker = SampleMaker(Mixture.open(config), Normaliser())
    assert {maker.wordings(key)[0] for key in eval_frames(Mixture.open(config), "val")} == {
        TASK,
        "put it down",
    }
    expected = {tuple(maker.tokenizer.encode(text, 24).tolist()) for text in (TASK, "put it down")}
    fixed = make_loader(config, split="val", seed=0)
    assert {tuple(row) for batch in fixed for row in batch.input_ids.tolist()} == expected


def test_prepared_raw_frames_are_found_and_have_the_same_pixels(
    config: DataConfig, tmp_path: Path
) -> None:
    plain = next(make_loader(config, split="train", seed=0))
    prepare_caches(
        Mixture.open(config), tmp_path / "cache", frames="raw", yes=True, say=lambda _: None
    )
    cached = make_loader(replace(config, cache=str(tmp_path / "cache")), split="train", seed=0)
    assert (next(cached).images == plain.images).all()
    with pytest.raises(ValueError, match="no jpeg frame cache of air_agilex_hq"):
        make_loader(
            replace(config, cache=str(tmp_path / "cache"), pixels="jpeg"), split="train", seed=0
        )


def test_sets_that_share_a_folder_of_data_keep_their_own_pictures(
    config: DataConfig, tmp_path: Path
) -> None:
    """Droid's two cameras: one folder of episodes, a meta file for each main view."""
    (tmp_path / "raw").mkdir()
    for episode in range(8):
        write_hdf5(tmp_path / f"raw/{episode}.hdf5", "Droid-Left", 60, episode)
    names = {"droid_left": "Droid-Left", "droid_right": "Droid-Right"}
    for view, (folder, name) in enumerate(names.items()):
        (tmp_path / folder).mkdir()
        shown = {"observation_key": [KEYS[view]], "root_path": "../raw"}
        write_meta(tmp_path / folder, name, [f"{i}.hdf5" for i in range(8)], **shown)
    entries = [DomainEntry(name=name) for name in names]
    maker = SampleMaker(Mixture.open(replace(config, mixture=entries, anchor_domain="droid_left")))
    left, right = maker.make([("droid_left", 0, 3), ("droid_right", 0, 3)]).images
    assert (left[0] - right[0]).abs().max() > 0.02
    before = dataset_digest(tmp_path / "droid_left")
    write_hdf5(tmp_path / "raw/7.hdf5", "Droid-Left", 60, 3)
    assert dataset_digest(tmp_path / "droid_left") != before


def test_caches_of_other_episodes_are_refused(tmp_path: Path, config: DataConfig) -> None:
    cached, spec = tmp_path / "cache", CacheSpec(size=16, views=2)
    for name, pictures in (("a", "png"), ("b", "jpeg")):
        write_set(tmp_path / name, "libero", (30, 30), pictures)
    build_frame_cache(open_dataset(tmp_path / "a"), cached / "frames", spec)
    with pytest.raises(ValueError, match="has files_sha256 = "):
        FrameCache(open_dataset(tmp_path / "b"), cached / "frames", spec)
    build_index(open_dataset(tmp_path / "a"), cached / "index", config)
    write_meta(tmp_path / "a", "libero", ["episodes/1.hdf5", "episodes/0.hdf5"])
    with pytest.raises(ValueError, match="has meta_sha256 = "):
        SampleIndex(open_dataset(tmp_path / "a"), cached / "index")


def test_an_index_lists_the_starts_of_arms_with_their_own_clocks(
    config: DataConfig, tmp_path: Path
) -> None:
    """At rest until frame 20: by the mean of the clocks both arms would seem to move before."""
    for episode in range(EPISODES):
        with h5py.File(tmp_path / DOMAIN / f"episodes/{episode}.hdf5", "a") as file:
            file["observations/eef_6d"][:20] = file["observations/eef_6d"][20]
            file["observations/eef_left_time"][:] = np.arange(80) / 30
            file["observations/eef_right_time"][:] = np.arange(80) / 30 + 0.011
    config = replace(config, prediction_window_s=0.06, num_anchors=4)
    maker = SampleMaker(Mixture.open(config))
    prepare_caches(Mixture.open(config), tmp_path / "cache", yes=True, say=lambda _: None)
    index = SampleIndex(maker.sources[DOMAIN].dataset, tmp_path / "cache" / DOMAIN / "index")
    for episode in maker.sources[DOMAIN].episodes:
        starts = index.starts(config, [episode])
        assert (
            starts.at(np.arange(len(starts)))[1].tolist() == maker.starts(DOMAIN, episode).tolist()
        )
