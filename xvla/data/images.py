"""Pixels: resize and ImageNet normalisation as the released code defines them."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from xvla.data.augment import Draws, color_jitter, resized_crop

if TYPE_CHECKING:
    from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


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


def finish(pixels: "Tensor", view_mask: "Tensor", draws: Draws | None = None) -> "Tensor":
    """Return the model's images [B, V, 3, H, W] float of uint8 pixels, on the device they are on.

    Present views (`view_mask` [B, V]) are cropped and jittered by `draws`, then normalised; absent
    ones are zero.
    """
    values = pixels.to(torch.float32).div_(255.0)
    if draws is not None:
        _augment(values, view_mask, draws)
    normalise(values)
    if not view_mask.all():
        values[~view_mask] = 0.0
    return values


def _augment(values: "Tensor", view_mask: "Tensor", draws: Draws) -> None:
    """Crop and jitter the present views of values [B, V, 3, H, W] in [0, 1], in place."""
    mask = view_mask.cpu().numpy()
    images = values[view_mask]
    if draws.boxes is not None:
        images = resized_crop(images, draws.boxes[mask])
    if draws.factors is not None and draws.order is not None:
        color_jitter(images, draws.factors[mask], draws.order[mask])
    values[view_mask] = images


def preprocess(image: NDArray[np.uint8], *, size: int) -> "Tensor":
    """Return the model's input [3, size, size] of one RGB image [H, W, 3] uint8, as for acting."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"an image of shape {list(image.shape)} and type {image.dtype}; "
            "give RGB [H, W, 3] uint8"
        )
    return normalise(torch.from_numpy(resize(image[None], size)[0]).float() / 255.0)
