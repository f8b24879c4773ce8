"""The frozen evaluation frames, absolute targets, and the trivial predictors."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from make_lerobot import VIEWS, SetSpec, write_set
from train_frames import train_frames

from xvla.config import DataConfig, DomainEntry
from xvla.data import open_dataset
from xvla.data.evaluation import (
    eval_batches,
    eval_digest,
    eval_frames,
    frame_noise,
    hold_chunk,
    mean_chunk,
)
from xvla.data.normalise import Normaliser, fit_normaliser
from xvla.data.resample import anchors
from xvla.data.sources import Mixture


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    root = tmp_path_factory.mktemp("evaluation")
    splits = {"train": "0:3", "val": "3:5", "test": "5:6"}
    write_set(root / "sim_panda", SetSpec(splits=splits))
    write_set(root / "sim_kinova3_dual", SetSpec(splits=splits, two_arms=True, views=VIEWS))
    return DataConfig(
        mixture=[DomainEntry(name="sim_panda"), DomainEntry(name="sim_kinova3_dual")],
        anchor_domain="sim_kinova3_dual",
        tokenizer="demo",
        prediction_window_s=1.0,
        num_anchors=5,
        decode_images=False,
        root=str(root),
    )


def test_frames_are_spread_evenly_anchor_first(config: DataConfig) -> None:
    frames = eval_frames(Mixture.open(config), "val")
    assert len(frames) == 2 * 21 + 2 * 5
    assert [name for name, _, _ in frames] == ["sim_kinova3_dual"] * 42 + ["sim_panda"] * 10
    # Episode 3 has 33 frames, the last 10 are the tail: starts 0..22.
    assert [s for n, e, s in frames if (n, e) == ("sim_panda", 3)] == [0, 6, 11, 16, 22]
    anchor = [s for n, e, s in frames if (n, e) == ("sim_kinova3_dual", 3)]
    assert len(anchor) == 21
    assert (anchor[0], anchor[-1]) == (0, 22)
    assert set(np.diff(anchor)) == {1, 2}


def test_short_episodes_give_each_start_once(config: DataConfig) -> None:
    frames = eval_frames(Mixture.open(replace(config, eval_starts_per_episode=500)), "val")
    assert len(frames) == len(set(frames)) == 23 + 21 + 10


def test_frames_are_frozen(config: DataConfig) -> None:
    digest = eval_digest(eval_frames(Mixture.open(config), "val"))
    same = replace(
        config,
        subset_seed=9,
        prediction_window_s=2.0,
        start_stride=3,
        batch_size=3,
        mixture=[replace(entry, num_episodes=2, weight=0.1) for entry in config.mixture],
    )
    assert eval_digest(eval_frames(Mixture.open(same), "val")) == digest
    assert eval_digest(eval_frames(Mixture.open(config), "test")) != digest
    fewer = replace(config, eval_starts_other=4)
    assert eval_digest(eval_frames(Mixture.open(fewer), "val")) != digest
    assert digest == "e14115e79fa20170fd2ddef56ff96e81efdf68bae0f522455b4743012fea3ec8"


def test_no_leak_between_splits(config: DataConfig) -> None:
    episodes = [
        {key[:2] for key in frames}
        for frames in (
            train_frames(config),
            eval_frames(Mixture.open(config), "val"),
            eval_frames(Mixture.open(config), "test"),
        )
    ]
    assert not episodes[0] & episodes[1]
    assert not episodes[0] & episodes[2]
    assert not episodes[1] & episodes[2]


def test_targets_are_absolute_whatever_the_options(config: DataConfig) -> None:
    options = replace(config, target="delta", proprio_norm="standardise")
    normaliser = fit_normaliser(Mixture.open(options))
    frames = eval_frames(Mixture.open(options), "val")
    assert frames == eval_frames(Mixture.open(config), "val")
    parts = [frames[first : first + 8] for first in range(0, len(frames), 8)]
    batches = list(eval_batches(Mixture.open(options), parts, normaliser))
    assert [batch.keys for batch in batches] == parts
    for batch in batches:
        for row, (name, episode, start) in enumerate(batch.keys):
            times, states, _ = open_dataset(Path(config.root) / name).episode(episode)
            rows = anchors(times, states, start, window_s=1.0, num_anchors=5)
            np.testing.assert_array_equal(batch.raw_proprio[row], rows[0])
            np.testing.assert_array_equal(batch.target[row], rows[1:])
            assert batch.present[row].tolist() == [True] * 10 + [name != "sim_panda"] * 10
        names = [name for name, _, _ in batch.keys]
        decoded = normaliser.decode(names, batch.raw_proprio, batch.batch.action)
        torch.testing.assert_close(decoded, batch.target, atol=1e-6, rtol=0)
        assert not torch.equal(batch.batch.proprio, batch.raw_proprio)


def test_hold_chunk(config: DataConfig) -> None:
    batch = next(
        eval_batches(
            Mixture.open(config), [eval_frames(Mixture.open(config), "val")[:4]], Normaliser()
        )
    )
    held = hold_chunk(batch.raw_proprio, 5)
    assert held.shape == batch.target.shape
    assert all(torch.equal(held[:, t], batch.raw_proprio) for t in range(5))


def test_mean_chunk_is_the_mean_of_training_chunks(config: DataConfig) -> None:
    config = replace(config, mixture=[replace(e, num_episodes=2) for e in config.mixture])
    means = mean_chunk(Mixture.open(config))
    assert set(means) == {"sim_panda", "sim_kinova3_dual"}
    for name, mean in means.items():
        dataset = open_dataset(Path(config.root) / name)
        chunks = [
            anchors(*dataset.episode(e)[:2], s, window_s=1.0, num_anchors=5)[1:]
            for n, e, s in train_frames(config)
            if n == name
        ]
        np.testing.assert_allclose(mean, np.mean(chunks, axis=0), atol=1e-6)


def test_noise_belongs_to_the_frame() -> None:
    keys = [("a", 0, 1), ("a", 0, 2), ("b", 0, 1)]
    noise = frame_noise(keys, seed=0, shape=(30, 20))
    assert noise.shape == (3, 30, 20)
    np.testing.assert_array_equal(noise[::-1], frame_noise(keys[::-1], seed=0, shape=(30, 20)))
    assert (noise[0] != frame_noise(keys[:1], seed=1, shape=(30, 20))[0]).all()
    assert np.abs(np.corrcoef(noise.reshape(3, -1))[np.triu_indices(3, 1)]).max() < 0.15
    assert abs(noise.std() - 1) < 0.05


def test_only_val_and_test_are_evaluated(config: DataConfig) -> None:
    with pytest.raises(ValueError, match="split 'train' is not evaluated; allowed: val, test"):
        eval_frames(Mixture.open(config), "train")  # type: ignore[arg-type]


def test_mean_chunk_of_a_large_set_reads_every_nth_episode(
    config: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xvla.data.normalise.FITTED_EPISODES", 2)
    for name, mean in mean_chunk(Mixture.open(config)).items():
        dataset = open_dataset(Path(config.root) / name)
        frames = [key for key in train_frames(config) if key[0] == name]
        assert {e for _, e, _ in frames} == {0, 1, 2}
        chunks = [
            anchors(*dataset.episode(e)[:2], s, window_s=1.0, num_anchors=5)[1:]
            for _, e, s in frames
            if e in (0, 2)
        ]
        np.testing.assert_allclose(mean, np.mean(chunks, axis=0), atol=1e-6)
