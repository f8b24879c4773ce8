"""Random views of training images: draws by sample, and ColorJitter and RandomResizedCrop.

The definitions are torchvision's; the draws are ours, fixed by seed and place in the global order,
so that rank, workers and device have no part in them. N images, B samples, V views.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from xvla.data.random_streams import random_stream

if TYPE_CHECKING:
    from torch import Tensor

# ColorJitter(brightness, contrast, saturation, hue) = (0.2, 0.2, 0.2, 0).
JITTER_STRENGTH = 0.2
LUMA = (0.2989, 0.587, 0.114)
DRAW_BLOCK = 1024
# RandomResizedCrop's defaults: share of the area, aspect ratio, tries before the middle is taken.
CROP_SCALE = (0.08, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
CROP_TRIES = 10
CUBIC_A = -0.5  # Keys' kernel as PIL and antialiased torch have it


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """The randomness of a batch; a part that is None is not applied.

    factors [B, V, 3] in [0.8, 1.2] for brightness, contrast, saturation; order [B, V, 3] in which
    the three are applied; boxes [B, V, 4] int: top, left, height, width in pixels.
    """

    factors: NDArray[np.float32] | None = None
    order: NDArray[np.int64] | None = None
    boxes: NDArray[np.int64] | None = None


def jitter_draws(
    samples: NDArray[np.int64], *, seed: int, views: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the jitter of samples [B] by their place in the global order, each view on its own.

    factors [B, V, 3] in [0.8, 1.2] for brightness, contrast, saturation; order [B, V, 3] in which
    the three are applied.
    """
    rows = _drawn("jitter", samples, seed, views, 6)
    factors = 1.0 + JITTER_STRENGTH * (2.0 * rows[..., :3] - 1.0)
    return factors.astype(np.float32), rows[..., 3:].argsort(axis=-1)


def crop_draws(
    samples: NDArray[np.int64],
    *,
    seed: int,
    views: int,
    size: int,
    scale: tuple[float, float] = CROP_SCALE,
) -> NDArray[np.int64]:
    """Return the boxes [B, V, 4] (top, left, height, width) of RandomResizedCrop in size x size.

    Of ten tries (area share uniform in `scale`, log aspect uniform in 3/4..4/3) the first that
    fits is taken; of a square image, the whole if none does.
    """
    rows = _drawn("crop", samples, seed, views, 4 * CROP_TRIES)
    area, aspect, top, left = np.split(rows, 4, axis=-1)
    area = size * size * (scale[0] + (scale[1] - scale[0]) * area)
    low, high = (math.log(bound) for bound in CROP_RATIO)
    aspect = np.exp(low + (high - low) * aspect)
    width = np.round(np.sqrt(area * aspect)).astype(np.int64)
    height = np.round(np.sqrt(area / aspect)).astype(np.int64)
    fits = (width > 0) & (width <= size) & (height > 0) & (height <= size)
    boxes = np.stack(
        [
            np.floor(top * (size - height + 1)).astype(np.int64),
            np.floor(left * (size - width + 1)).astype(np.int64),
            height,
            width,
        ],
        axis=-1,
    )
    first = fits.argmax(axis=-1)[..., None, None]
    chosen = np.take_along_axis(boxes, first, axis=-2)[..., 0, :]
    return np.where(fits.any(axis=-1)[..., None], chosen, np.array([0, 0, size, size]))


def color_jitter(
    images: "Tensor", factors: NDArray[np.float32], order: NDArray[np.int64]
) -> "Tensor":
    """Jitter images [N, 3, H, W] in [0, 1] in place, by factors [N, 3] applied in order [N, 3].

    The definition of torchvision's ColorJitter without hue: each step blends the image with black,
    with its mean grey, or with its grey version, and clamps.
    """
    if images.device.type == "cpu":  # one by one: an image stays in the processor's cache
        for image, strengths, kinds in zip(images, factors.tolist(), order.tolist(), strict=True):
            for kind in kinds:
                _blend(image, kind, strengths[kind])
        return images
    return jitter_groups(images, factors, order)


def jitter_groups(
    images: "Tensor", factors: NDArray[np.float32], order: NDArray[np.int64]
) -> "Tensor":
    """Do what `color_jitter` does in a few large steps: images that share an order together."""
    for kinds in np.unique(order, axis=0):
        rows = np.flatnonzero((order == kinds).all(axis=1))
        group = images[rows.tolist()]
        for kind in kinds:
            factor = torch.from_numpy(factors[rows, kind]).to(images.device).view(-1, 1, 1, 1)
            _blend_group(group, int(kind), factor)
        images[rows.tolist()] = group
    return images


def resized_crop(images: "Tensor", boxes: NDArray[np.int64]) -> "Tensor":
    """Return the boxes [N, 4] of images [N, 3, S, S] in [0, 1], resized to S x S.

    Bicubic with antialiasing, as everything else is resized: a product with one weight matrix for
    rows and one for columns, so that the batch is two matrix products on any device.
    """
    size = images.shape[-1]
    down = _weights(boxes[:, 0], boxes[:, 2], size).to(images.device)[:, None]
    across = _weights(boxes[:, 1], boxes[:, 3], size).to(images.device)[:, None]
    return (down @ images @ across.transpose(-1, -2)).clamp_(0, 1)


def _blend(image: "Tensor", kind: int, factor: float) -> None:
    """Apply one step to one image [3, H, W]; kind 0 brightness, 1 contrast, 2 saturation."""
    image.mul_(factor)
    if kind > 0:
        # Luma of the original image: it was just scaled by `factor`.
        red, green, blue = (weight * (1.0 - factor) / factor for weight in LUMA)
        grey = (image[0] * red).add_(image[1], alpha=green).add_(image[2], alpha=blue)
        image.add_(grey.mean() if kind == 1 else grey)
    image.clamp_(0, 1)


def _blend_group(images: "Tensor", kind: int, factor: "Tensor") -> None:
    """Apply one step to images [n, 3, H, W] with a factor each, [n, 1, 1, 1]."""
    other: Tensor | float = 0.0
    if kind > 0:
        luma = images.new_tensor(LUMA).view(1, 3, 1, 1)
        other = (images * luma).sum(dim=1, keepdim=True)
        other = other.mean(dim=(2, 3), keepdim=True) if kind == 1 else other
    images.mul_(factor).add_((1.0 - factor) * other).clamp_(0, 1)


def _weights(first: NDArray[np.int64], length: NDArray[np.int64], size: int) -> "Tensor":
    """Return [n, size, size]: row i weighs the pixels of a line that make pixel i of the crop.

    Keys' cubic stretched by the reduction, cut at the box and normalised to 1, as PIL does.
    """
    scale = length[:, None, None] / size
    support = np.maximum(scale, 1.0)
    centre = first[:, None, None] + (np.arange(size)[None, :, None] + 0.5) * scale
    place = np.arange(size)[None, None, :] + 0.5
    weights = _cubic((place - centre) / support)
    inside = (place > first[:, None, None]) & (place < (first + length)[:, None, None])
    weights = np.where(inside, weights, 0.0)
    return torch.from_numpy((weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32))


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(x)
    near = ((CUBIC_A + 2) * x - (CUBIC_A + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * CUBIC_A - 4 * CUBIC_A
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _drawn(
    stream: str, samples: NDArray[np.int64], seed: int, views: int, count: int
) -> NDArray[np.float64]:
    """Return `count` uniform numbers for each sample and view, [B, V, count]."""
    blocks = np.unique(samples // DRAW_BLOCK)
    tables = {int(block): _block(stream, seed, int(block), views, count) for block in blocks}
    return np.stack([tables[int(s) // DRAW_BLOCK][int(s) % DRAW_BLOCK] for s in samples])


@lru_cache(maxsize=16)
def _block(stream: str, seed: int, block: int, views: int, count: int) -> NDArray[np.float64]:
    generator = random_stream(stream, seed, views, block=block)
    return generator.random((DRAW_BLOCK, views, count))
