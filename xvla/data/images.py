"""Pixels: resize, colour jitter and ImageNet normalisation as the released code defines them."""

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from xvla.data.keyed import keyed_generator

if TYPE_CHECKING:
    from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# ColorJitter(brightness, contrast, saturation, hue) = (0.2, 0.2, 0.2, 0).
JITTER_STRENGTH = 0.2
LUMA = (0.2989, 0.587, 0.114)
JITTER_BLOCK = 1024


def resize(frames: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize RGB frames [N, H, W, 3] to [N, 3, size, size]: bicubic, antialiased, aspect not kept.

    Stays in uint8 as PIL does; differs from PIL's result by at most 2 grey levels.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    if pixels.shape[-2:] != (size, size):
        pixels = interpolate(pixels, (size, size), mode="bicubic", antialias=True)
    return pixels.contiguous().numpy()


def normalise(pixels: "Tensor") -> "Tensor":
    """ImageNet-normalise float [..., 3, H, W] in [0, 1], in place; returns the same tensor."""
    mean = pixels.new_tensor(IMAGENET_MEAN).view(3, 1, 1)
    std = pixels.new_tensor(IMAGENET_STD).view(3, 1, 1)
    return pixels.sub_(mean).div_(std)


def preprocess(image: NDArray[np.uint8], *, size: int) -> "Tensor":
    """Return the model's input [3, size, size] of one RGB image [H, W, 3] uint8, as for acting."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"an image of shape {list(image.shape)} and type {image.dtype}; "
            "give RGB [H, W, 3] uint8"
        )
    return normalise(torch.from_numpy(resize(image[None], size)[0]).float() / 255.0)


def jitter_draws(
    samples: NDArray[np.int64], *, seed: int, views: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the jitter of samples [B] by their place in the global order, each view on its own.

    factors [B, V, 3] in [0.8, 1.2] for brightness, contrast, saturation; order [B, V, 3] in which
    the three are applied.
    """
    tables = {
        int(b): _jitter_block(seed, int(b), views) for b in np.unique(samples // JITTER_BLOCK)
    }
    rows = np.stack([tables[int(s) // JITTER_BLOCK][int(s) % JITTER_BLOCK] for s in samples])
    factors = 1.0 + JITTER_STRENGTH * (2.0 * rows[..., :3] - 1.0)
    return factors.astype(np.float32), rows[..., 3:].argsort(axis=-1)


def color_jitter(
    pixels: "Tensor", factors: NDArray[np.float32], order: NDArray[np.int64]
) -> "Tensor":
    """Jitter images [N, 3, H, W] in [0, 1] in place, by factors [N, 3] applied in order [N, 3].

    The definition of torchvision's ColorJitter without hue: each step blends the image with black,
    with its mean grey, or with its grey version, and clamps.
    """
    for image, strengths, kinds in zip(pixels, factors.tolist(), order.tolist(), strict=True):
        for kind in kinds:
            _blend(image, kind, strengths[kind])
    return pixels


def _blend(image: "Tensor", kind: int, factor: float) -> None:
    """Apply one step to one image [3, H, W]; kind 0 brightness, 1 contrast, 2 saturation."""
    image.mul_(factor)
    if kind > 0:
        # Luma of the original image: it was just scaled by `factor`.
        red, green, blue = (weight * (1.0 - factor) / factor for weight in LUMA)
        grey = (image[0] * red).add_(image[1], alpha=green).add_(image[2], alpha=blue)
        image.add_(grey.mean() if kind == 1 else grey)
    image.clamp_(0, 1)


@lru_cache(maxsize=8)
def _jitter_block(seed: int, block: int, views: int) -> NDArray[np.float64]:
    generator = keyed_generator("jitter", seed, views, block=block)
    return generator.random((JITTER_BLOCK, views, 6))
