"""RandomResizedCrop and the batch on the device against the definitions, computed by PIL."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from make_lerobot import SetSpec, write_set
from PIL import Image

from xvla.config import DataConfig, DomainEntry
from xvla.data.augment import Draws, crop_draws, jitter_draws, resized_crop
from xvla.data.caches import LoaderOptions
from xvla.data.images import finish, normalise
from xvla.data.loader import make_loader

SIZE = 64
RNG = np.random.default_rng(0)


def _photos(count: int) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE]
    waves = np.stack([127 + 90 * np.sin(x / (5 + c) + y / (11 - c)) for c in range(3)])
    return np.clip(waves + RNG.normal(0, 12, (count, 3, SIZE, SIZE)), 0, 255).astype(np.uint8)


def test_crop_is_pils_crop_and_bicubic_resize() -> None:
    pixels = _photos(8)
    boxes = crop_draws(np.arange(8), seed=0, views=1, size=SIZE)[:, 0]
    boxes[0], boxes[1] = (0, 0, SIZE, SIZE), (10, 3, 7, 60)
    found = resized_crop(torch.from_numpy(pixels) / 255.0, boxes) * 255.0
    for image, ours, (top, left, height, width) in zip(pixels, found, boxes.tolist(), strict=True):
        picture = Image.fromarray(image.transpose(1, 2, 0))
        box = (left, top, left + width, top + height)
        wanted = picture.crop(box).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        gap = np.abs(ours.numpy().transpose(1, 2, 0) - np.asarray(wanted).astype(float))
        assert gap.max() <= 2.0  # PIL rounds twice, we do not at all
        assert gap.mean() < 0.5


def test_boxes_are_drawn_as_torchvision_defines_them() -> None:
    boxes = crop_draws(np.arange(20_000), seed=1, views=1, size=224)[:, 0]
    top, left, height, width = boxes.T
    assert (np.minimum(height, width) > 0).all()
    assert ((top >= 0) & (top + height <= 224) & (left >= 0) & (left + width <= 224)).all()
    aspect, share = width / height, height * width / 224**2
    assert 0.72 < aspect.min() < 0.78
    assert 1.28 < aspect.max() < 1.38
    assert abs(np.log(aspect).mean()) < 0.01
    assert 0.07 < share.min() < 0.09
    assert share.max() <= 1.0
    # Uniform over 0.08..1, but a large area is refused when its aspect does not fit: the
    # definition itself, written as a loop, gives the mean.
    assert share.mean() == pytest.approx(
        np.mean([_reference_share(i) for i in range(20_000)]), abs=0.01
    )
    assert np.corrcoef(top / (225 - height), left / (225 - width))[0, 1] == pytest.approx(
        0, abs=0.03
    )


def _reference_share(seed: int) -> float:
    rng = np.random.default_rng(seed)
    for _ in range(10):
        area = 224 * 224 * rng.uniform(0.08, 1.0)
        aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        width, height = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < width <= 224 and 0 < height <= 224:
            return width * height / 224**2
    return 1.0


def test_finish_masks_crops_jitters_and_normalises() -> None:
    pixels = torch.from_numpy(_photos(4).reshape(2, 2, 3, SIZE, SIZE))
    mask = torch.tensor([[True, True], [True, False]])
    plain = finish(pixels, mask)
    torch.testing.assert_close(plain[0, 1], normalise(pixels[0, 1] / 255.0))
    assert not plain[1, 1].any()
    factors, order = jitter_draws(np.arange(2), seed=0, views=2)
    boxes = crop_draws(np.arange(2), seed=0, views=2, size=SIZE)
    drawn = finish(pixels, mask, Draws(factors=factors, order=order, boxes=boxes))
    assert not drawn[1, 1].any()
    only_first = Draws(factors=factors[:1], order=order[:1], boxes=boxes[:1])
    torch.testing.assert_close(drawn[:1], finish(pixels[:1], mask[:1], only_first))
    assert (drawn[0] - plain[0]).abs().mean() > 0.1


def test_device_and_worker_give_the_same_batches(tmp_path) -> None:
    write_set(tmp_path / "sim_panda", SetSpec())
    config = DataConfig(
        mixture=[DomainEntry(name="sim_panda")],
        anchor_domain="sim_panda",
        image_size=24,
        tokenizer="demo",
        prediction_window_s=1.0,
        num_anchors=4,
        root=str(tmp_path),
        batch_size=5,
    )
    for crop in (False, True):
        loaders = [
            make_loader(
                replace(config, num_workers=workers),
                split="train",
                seed=0,
                options=LoaderOptions(device=device, random_crop=crop),
            )
            for device, workers in (("", 0), ("cpu", 0), ("cpu", 2))
        ]
        for _ in range(3):
            first, *others = [next(loader).images for loader in loaders]
            assert first.dtype == torch.float32
            assert all(torch.equal(first, other) for other in others)
