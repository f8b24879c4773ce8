"""Resizing against PIL, colour jitter against its definition, draws by sample."""

import numpy as np
import pytest
import torch
from PIL import Image

from xvla.data.augment import color_jitter, jitter_draws, jitter_groups
from xvla.data.images import preprocess, resize

RNG = np.random.default_rng(0)


def _photo(height: int, width: int) -> np.ndarray:
    """Smooth colour waves with some noise: closer to a photograph than noise alone."""
    y, x = np.mgrid[:height, :width]
    waves = [127 + 100 * np.sin(x / (9 + c) + y / (17 - c)) for c in range(3)]
    noise = RNG.normal(0, 10, (height, width, 3))
    return np.clip(np.stack(waves, axis=-1) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("shape", "size"), [((96, 96), 64), ((48, 80), 64), ((180, 320), 224)])
def test_resize_is_pil_bicubic(shape: tuple[int, int], size: int) -> None:
    image = _photo(*shape)
    ours = resize(image[None], size)[0].transpose(1, 2, 0).astype(int)
    reference = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
    gap = np.abs(ours - np.asarray(reference).astype(int))
    assert gap.max() <= 2
    assert gap.mean() < 0.05


def test_same_size_is_untouched() -> None:
    image = _photo(32, 32)
    np.testing.assert_array_equal(resize(image[None], 32)[0], image.transpose(2, 0, 1))


def test_preprocess_for_acting() -> None:
    image = np.full((40, 50, 3), (0, 128, 255), np.uint8)
    expected = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    result = preprocess(image, size=24)
    assert result.shape == (3, 24, 24)
    np.testing.assert_allclose(result.mean(dim=(1, 2)), expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"shape \[40, 50\] and type uint8; give RGB"):
        preprocess(image[..., 0], size=24)


def _reference_jitter(image: torch.Tensor, factors: np.ndarray, order: np.ndarray) -> torch.Tensor:
    weights = torch.tensor([0.2989, 0.587, 0.114]).view(3, 1, 1)
    for kind in order:
        grey = (image * weights).sum(0, keepdim=True)
        other = [torch.zeros_like(image), grey.mean().expand_as(image), grey][kind]
        factor = float(factors[kind])
        image = (factor * image + (1 - factor) * other).clamp(0, 1)
    return image


def test_color_jitter_is_the_definition() -> None:
    images = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    factors, order = jitter_draws(np.arange(4), seed=0, views=3)
    factors, order = factors.reshape(12, 3), order.reshape(12, 3)
    expected = torch.stack(
        [_reference_jitter(i, f, o) for i, f, o in zip(images, factors, order, strict=True)]
    )
    torch.testing.assert_close(color_jitter(images.clone(), factors, order), expected)
    grouped = jitter_groups(images.clone(), factors, order)
    torch.testing.assert_close(grouped, expected, atol=2e-6, rtol=0)
    ones = np.ones_like(factors)
    torch.testing.assert_close(color_jitter(images.clone(), ones, order), images)


def test_draws_depend_on_the_sample_alone() -> None:
    factors, order = jitter_draws(np.arange(3000), seed=0, views=2)
    assert factors.shape == order.shape == (3000, 2, 3)
    some = np.array([2999, 5, 1024, 5])
    again = jitter_draws(some, seed=0, views=2)
    np.testing.assert_array_equal(again[0], factors[some])
    np.testing.assert_array_equal(again[1], order[some])
    assert (jitter_draws(some, seed=1, views=2)[0] != factors[some]).all()
    assert (factors.min() >= 0.8) & (factors.max() <= 1.2)
    np.testing.assert_allclose(factors.mean(axis=(0, 1)), 1.0, atol=0.01)
    orders, counts = np.unique(order.reshape(-1, 3), axis=0, return_counts=True)
    assert len(orders) == 6
    assert counts.min() > 850
