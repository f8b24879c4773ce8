"""Batches: their content, and that rank, batch size, workers and resumption do not change it."""

import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from make_lerobot import VIEWS, SetSpec, pixel, write_set
from train_frames import train_frames

from xvla.batch import Batch
from xvla.config import DataConfig, DomainEntry
from xvla.data import open_dataset
from xvla.data.evaluation import eval_frames
from xvla.data.images import IMAGENET_MEAN, IMAGENET_STD, normalise
from xvla.data.loader import Loader, make_loader
from xvla.data.memory import ByteCache
from xvla.data.resample import anchors
from xvla.data.sources import Mixture
from xvla.data.text import build_tokenizer

DUAL_VIEWS = (*VIEWS, "observation.images.extra")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    root = tmp_path_factory.mktemp("loader")
    write_set(root / "sim_panda")
    write_set(root / "sim_kinova3_dual", SetSpec(two_arms=True, views=DUAL_VIEWS))
    return DataConfig(
        mixture=[
            DomainEntry(name="sim_panda", weight=0.3, num_episodes=3),
            DomainEntry(name="sim_kinova3_dual", weight=0.7),
        ],
        anchor_domain="sim_kinova3_dual",
        image_size=24,
        text_length=12,
        tokenizer="demo",
        prediction_window_s=1.5,
        num_anchors=6,
        augmentation="none",
        root=str(root),
        batch_size=4,
    )


def _train(config: DataConfig, **options: int) -> Loader:
    return make_loader(config, split="train", **{"seed": 0, **options})


def _take(loader: Loader, count: int) -> list[tuple[Batch, list]]:
    return [(next(loader), loader.last_keys) for _ in range(count)]


def _equal(a: Batch, b: Batch) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Batch))


def _joined(batches: list[Batch]) -> Batch:
    return Batch(
        **{f.name: torch.cat([getattr(b, f.name) for b in batches]) for f in fields(Batch)}
    )


def test_shapes_and_types(config: DataConfig) -> None:
    ((batch, keys),) = _take(_train(config), 1)
    assert len(batch) == len(keys) == 4
    expected = {
        "input_ids": ((4, 12), torch.int64),
        "images": ((4, 3, 3, 24, 24), torch.float32),
        "view_mask": ((4, 3), torch.bool),
        "domain_id": ((4,), torch.int64),
        "proprio": ((4, 20), torch.float32),
        "action": ((4, 6, 20), torch.float32),
    }
    found = {f.name: getattr(batch, f.name) for f in fields(Batch)}
    assert {k: (tuple(v.shape), v.dtype) for k, v in found.items()} == expected


def test_rows_are_what_their_keys_say(config: DataConfig) -> None:
    tokenizer = build_tokenizer("demo")
    for batch, keys in _take(_train(config), 12):
        for row, (name, episode, start) in enumerate(keys):
            dataset = open_dataset(Path(config.root) / name)
            times, states, instruction = dataset.episode(episode)
            rows = anchors(times, states, start, window_s=1.5, num_anchors=6)
            np.testing.assert_array_equal(batch.proprio[row], rows[0])
            np.testing.assert_array_equal(batch.action[row], rows[1:])
            np.testing.assert_array_equal(batch.input_ids[row], tokenizer.encode(instruction, 12))
            views = len(dataset.views)
            assert batch.view_mask[row].tolist() == [v < views for v in range(3)]
            assert int(batch.domain_id[row]) == {"sim_panda": 11, "sim_kinova3_dual": 15}[name]
            for view in range(views):
                level = _level(batch.images[row, view])
                assert abs(level - pixel(episode, start, view)) < 1.6
            assert not batch.images[row, views:].any()


def _level(image: torch.Tensor) -> float:
    """Return the mean grey level of a normalised image."""
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    return float(((image.mean(dim=(1, 2)) * std + mean) * 255).mean())


def test_start_frames(config: DataConfig) -> None:
    frames = train_frames(config)
    assert len(frames) == len(set(frames))
    taken = {(name, episode) for name, episode, _ in frames}
    assert sum(name == "sim_panda" for name, _ in taken) == 3
    lengths = SetSpec().lengths
    for name, episode in taken:
        starts = [s for n, e, s in frames if (n, e) == (name, episode)]
        assert episode < 4
        assert starts == list(range(lengths[episode] - 10))
    strided = train_frames(replace(config, start_stride=5))
    assert strided == [key for key in frames if key[2] % 5 == 0]
    seen = {
        key for _, keys in _take(_train(replace(config, decode_images=False)), 400) for key in keys
    }
    assert seen == set(frames)


@pytest.mark.parametrize("augmentation", ["none", "color_jitter"])
def test_rank_and_batch_size_only_cut_the_order(config: DataConfig, augmentation: str) -> None:
    config = replace(config, augmentation=augmentation)
    whole = _joined([batch for batch, _ in _take(_train(config), 6)])
    two = [_take(_train(replace(config, batch_size=2), rank=r, world_size=2), 6) for r in (0, 1)]
    interleaved = [two[r][step][0] for step in range(6) for r in (0, 1)]
    assert _equal(whole, _joined(interleaved))
    single = [batch for batch, _ in _take(_train(replace(config, batch_size=1)), 24)]
    assert _equal(whole, _joined(single))


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_is_bit_identical(config: DataConfig, workers: int) -> None:
    config = replace(config, num_workers=workers, augmentation="color_jitter")
    full = _take(_train(config), 7)
    first = _train(config)
    _take(first, 3)
    assert first.state_dict() == {"next_sample": 12}
    rest = _take(_train(config, start_sample=first.state_dict()["next_sample"]), 4)
    for (a, keys_a), (b, keys_b) in zip(full[3:], rest, strict=True):
        assert keys_a == keys_b
        assert _equal(a, b)


def test_resume_with_another_world_size(config: DataConfig) -> None:
    alone = _take(_train(config, start_sample=8), 2)
    ranks = [
        _take(_train(replace(config, batch_size=2), rank=r, world_size=2, start_sample=8), 2)
        for r in (0, 1)
    ]
    assert _equal(alone[1][0], _joined([ranks[0][1][0], ranks[1][1][0]]))


def test_workers_keep_the_order(config: DataConfig) -> None:
    plain = _take(_train(config), 6)
    served = _take(_train(replace(config, num_workers=2)), 6)
    for (a, keys_a), (b, keys_b) in zip(plain, served, strict=True):
        assert keys_a == keys_b
        assert _equal(a, b)


def test_jitter_differs_between_views_samples_and_passes(config: DataConfig) -> None:
    plain = _joined([b for b, _ in _take(_train(config), 8)])
    config = replace(config, augmentation="color_jitter")
    jittered = _joined([b for b, _ in _take(_train(config), 8)])
    assert torch.equal(plain.action, jittered.action)
    change = (jittered.images - plain.images).mean(dim=(2, 3, 4))[plain.view_mask]
    assert len(torch.unique(change)) > 0.9 * len(change)
    assert not jittered.images[~plain.view_mask].any()


def test_no_pixels(config: DataConfig) -> None:
    (batch, _), (plain, _) = (
        _take(_train(replace(config, decode_images=False)), 1)[0],
        _take(_train(config), 1)[0],
    )
    assert batch.images.shape == (4, 3, 3, 0, 0)
    assert torch.equal(batch.action, plain.action)


def test_blind(config: DataConfig) -> None:
    (blind, keys), (plain, plain_keys) = (
        _take(_train(replace(config, blind=True, augmentation="color_jitter")), 1)[0],
        _take(_train(config), 1)[0],
    )
    assert keys == plain_keys
    assert blind.images.shape == plain.images.shape
    assert not blind.images.any()
    assert plain.images.any()
    assert torch.equal(blind.view_mask, plain.view_mask)


def test_small_cache_changes_nothing(config: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from xvla.data import frames, samples

    plain = _take(_train(config), 3)
    monkeypatch.setattr(frames, "FRAMES", ByteCache(0))
    monkeypatch.setattr(samples, "ANCHORS", ByteCache(0))
    small = _take(_train(replace(config, frame_cache_gib=1e-9)), 3)
    assert frames.FRAMES.bytes == samples.ANCHORS.bytes == 0
    assert all(_equal(a[0], b[0]) for a, b in zip(plain, small, strict=True))


def test_views_beyond_num_views_are_left_out(config: DataConfig) -> None:
    narrow, plain = (_take(_train(c), 1)[0][0] for c in (replace(config, num_views=1), config))
    assert torch.equal(narrow.images, plain.images[:, :1])
    assert narrow.view_mask.all()


def test_evaluation_splits_end(config: DataConfig) -> None:
    for split, episode in (("val", 4), ("test", 5)):
        loaders = [make_loader(config, split=split, seed=0, rank=r, world_size=2) for r in (0, 1)]
        seen = [[keys for _, keys in _drain(loader)] for loader in loaders]
        flat = [key for part in seen for keys in part for key in keys]
        assert len(flat) == len(set(flat)) == 21 + 5
        assert {e for _, e, _ in flat} == {episode}
        sizes = [len(keys) for keys in seen[0]], [len(keys) for keys in seen[1]]
        assert sizes == ([4, 4, 4, 1], [4, 4, 4, 1])


def _drain(loader: Loader) -> list[tuple[Batch, list]]:
    return [(batch, loader.last_keys) for batch in loader]


def test_normalise_is_imagenet() -> None:
    pixels = torch.rand(2, 3, 4, 4)
    expected = (pixels - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(
        IMAGENET_STD
    ).view(3, 1, 1)
    torch.testing.assert_close(normalise(pixels.clone()), expected)


def test_mistakes(config: DataConfig) -> None:
    with pytest.raises(ValueError, match="split 'valid' is unknown; allowed: train, val, test"):
        make_loader(config, split="valid", seed=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rank 2 of 2"):
        make_loader(config, split="train", seed=0, rank=2, world_size=2)
    with pytest.raises(ValueError, match="anchor_domain='sim_ur5e' is not in the mixture"):
        make_loader(replace(config, anchor_domain="sim_ur5e"), split="val", seed=0)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("rotation", "cubic", "linear, slerp"),
        ("target", "deltas", "absolute, delta, delta_xyz"),
        ("augmentation", "jitter", "none, color_jitter"),
        ("proprio_norm", "z", "none, standardise"),
        ("prediction_window_s", 0.0, "a number, above 0"),
        ("prediction_window_s", float("inf"), "a number"),
        ("num_anchors", 0, "a whole number, 1 or more"),
        ("start_stride", -1, "a whole number, 1 or more"),
        ("start_tail_s", -1.0, "a number, 0 or more"),
        ("text_length", 1, "a whole number, 2 or more"),
        ("batch_size", 2.5, "a whole number"),
        ("num_workers", -1, "a whole number, 0 or more"),
        ("max_failed_share", 2.0, "a number, 0 to 1"),
    ],
)
def test_fields_that_cannot_be(config: DataConfig, field: str, value: object, allowed: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"data.{field}={value!r}; allowed: {allowed}")):
        replace(config, **{field: value})


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_all_ranks_evaluate_equally_many_batches(
    config: DataConfig, world_size: int, batch_size: int
) -> None:
    config = replace(config, batch_size=batch_size, decode_images=False)
    loaders = [
        make_loader(config, split="val", seed=0, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    parts = [[keys for _, keys in _drain(loader)] for loader in loaders]
    assert len({len(part) for part in parts}) == 1
    flat = [key for part in parts for keys in part for key in keys]
    assert set(flat) == set(eval_frames(Mixture.open(config), "val"))
    # Only when fewer frames are left than ranks does one come again.
    assert len(flat) - len(set(flat)) < world_size
    assert all(0 < len(keys) <= batch_size for part in parts for keys in part)
