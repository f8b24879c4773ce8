"""Checks of a batch against the model's configuration, with errors a user can act on."""

import torch
from torch import Tensor

from xvla.batch import Batch
from xvla.config import ModelConfig
from xvla.params import action_dim, map_side, proprio_dim

Field = tuple[str, tuple[str, ...], torch.dtype | None]
# No dtype: any floating point.
FIELDS: tuple[Field, ...] = (
    ("input_ids", ("B", "L"), torch.int64),
    ("images", ("B", "V", "3", "H", "W"), None),
    ("view_mask", ("B", "V"), torch.bool),
    ("domain_id", ("B",), torch.int64),
    ("proprio", ("B", "P"), None),
)


def check_batch(batch: Batch, config: ModelConfig, *, with_images: bool = True) -> None:
    """Raise ValueError naming the field, its value and what is allowed.

    Values (ids in range) are looked at on the CPU only: elsewhere that would stall the device.
    """
    for name, axes, dtype in FIELDS if with_images else FIELDS[-2:]:
        _check_kind(name, getattr(batch, name), axes, dtype)
    size = len(batch)
    if size < 1:
        raise ValueError("domain_id has 0 samples; give a batch of at least 1")
    if with_images:
        _check_images(batch, config)
        _check_text(batch, config)
    _expect("domain_id", batch.domain_id, (size,))
    _expect("proprio", batch.proprio, (size, proprio_dim(config)))
    if batch.action is not None:
        _check_chunk("action", batch.action, size, config)
    _check_range("domain_id", batch.domain_id, config.num_domains, "num_domains")


def _check_kind(
    name: str, value: object, axes: tuple[str, ...], dtype: torch.dtype | None = None
) -> None:
    """Check dimensions and dtype: a mask of integers would pick views 0 and 1, silently."""
    want = f"[{', '.join(axes)}] of {dtype or 'floating point'}"
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} is of type {type(value).__name__}; expected a tensor {want}")
    fits = value.dtype == dtype if dtype else value.is_floating_point()
    if value.ndim != len(axes) or not fits:
        raise ValueError(f"{name} is {list(value.shape)} of {value.dtype}; expected {want}")


def check_precision(values: dict[str, Tensor | None], weights: torch.dtype) -> None:
    """Raise ValueError for float64 at coarser weights; float32 is rounded to what they are."""
    for name, value in values.items():
        if value is None or torch.promote_types(value.dtype, weights) == weights:
            continue
        if value.dtype == torch.float64:
            raise ValueError(
                f"{name} is of {value.dtype}, the model's weights are of {weights}; "
                f"convert it with .to({weights})"
            )


def check_draws(
    time: Tensor | None, noise: Tensor | None, *, size: int, config: ModelConfig
) -> None:
    """Raise ValueError unless time is [B] in [0, 1] and noise has the shape of a chunk."""
    if time is not None:
        _check_kind("time", time, ("B",))
        _expect("time", time, (size,))
        if time.device.type == "cpu" and not bool(((time >= 0) & (time <= 1)).all()):
            raise ValueError(f"time holds {time.tolist()}; allowed is 0 to 1")
    if noise is not None:
        _check_chunk("noise", noise, size, config)


def check_features(features: tuple[Tensor, Tensor], batch: Batch, config: ModelConfig) -> None:
    """Raise ValueError unless features are [B, *, E] pairs as `encode` returns them."""
    for name, value in zip(("vlm_features", "aux_features"), features, strict=True):
        _expect(name, value, (len(batch), value.shape[1], config.projection_dim))


def _check_images(batch: Batch, config: ModelConfig) -> None:
    size, views = len(batch), batch.images.shape[1]
    if views < 1:
        raise ValueError("images has 0 views; give at least 1, the main view first")
    height, width = batch.images.shape[-2:]
    given = batch.images.shape, batch.view_mask.shape
    if given != ((size, views, 3, height, width), (size, views)):
        raise ValueError(
            f"images has shape {list(given[0])} and view_mask {list(given[1])}; expected "
            f"[{size}, V, 3, H, W] and [{size}, V] with the same number of views V"
        )
    side = map_side(config.vision, height)
    limit = config.vision.max_position_embeddings
    if height != width or not 1 <= side <= limit:
        raise ValueError(
            f"images are {height} x {width} pixels; they must be square and their last feature "
            f"map at most {limit} wide (vision.max_position_embeddings): resize them"
        )
    tokens = config.num_anchors + views * (1 + side**2) + batch.input_ids.shape[-1]
    if tokens > config.max_seq_len:
        raise ValueError(
            f"{views} views of {height} pixels make a sequence of {tokens} tokens, max_seq_len "
            f"allows {config.max_seq_len}; use fewer views, smaller images or shorter text"
        )


def _check_text(batch: Batch, config: ModelConfig) -> None:
    length = batch.input_ids.shape[-1]
    _expect("input_ids", batch.input_ids, (len(batch), length))
    merged = length + 1 + map_side(config.vision, batch.images.shape[-1]) ** 2
    if merged > config.text.max_position_embeddings:
        raise ValueError(
            f"input_ids have {length} tokens, {merged} with those of the main view; "
            f"text.max_position_embeddings allows {config.text.max_position_embeddings}: "
            "shorten the text"
        )
    _check_range("input_ids", batch.input_ids, config.text.vocab_size, "text.vocab_size")


def _check_chunk(name: str, chunk: Tensor, size: int, config: ModelConfig) -> None:
    _check_kind(name, chunk, ("B", "T", "A"))
    width = action_dim(config)
    allowed = {width, config.real_action_dim} if config.action_mode == "auto" else {width}
    if chunk.shape[-1] not in allowed or chunk.shape[:-1] != (size, config.num_anchors):
        raise ValueError(
            f"{name} has shape {list(chunk.shape)}; action_mode={config.action_mode!r} expects "
            f"[{size}, {config.num_anchors}, {' or '.join(map(str, sorted(allowed)))}]"
        )


def _expect(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} has shape {list(value.shape)}; expected {list(shape)}")


def _check_range(name: str, value: Tensor, limit: int, field: str) -> None:
    if value.device.type != "cpu" or not value.numel():
        return
    low, high = (int(v) for v in value.aminmax())
    if low < 0 or high >= limit:
        raise ValueError(
            f"{name} holds {low if low < 0 else high}; allowed is 0 to {limit - 1} ({field} - 1)"
        )
