"""How an image runs through Florence-2's vision tower (DaViT), on transformers' own modules.

The numbers are those of transformers' forward; the route is shorter. Maps stay [N, H, W, C], so a
change between map and sequence is a view, and windows that reach over the map's edge are computed
on their real tokens only.

Shapes: N images, H x W map, C channels, G channel groups, w window side.
"""

import math
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from xvla.attention import AttentionKind, attend
from xvla.recompute import activated_linear, normed_linear

RECOMPUTE: Any = {"use_reentrant": False, "preserve_rng_state": False}


def run_block(block: Any, x: Tensor, kind: AttentionKind) -> Tensor:
    """Run a spatial and a channel block on maps x [N, H, W, C]."""
    spatial, channel = block.spatial_block, block.channel_block
    x = x + _depthwise(spatial.conv1, x)
    x = x + spatial.drop_path1(window_attention(spatial.norm1, spatial.window_attn, x, kind))
    x = _feed_forward(spatial, x)
    x = x + _depthwise(channel.conv1, x)
    x = x + channel.drop_path1(channel_attention(channel.norm1, channel.channel_attn, x))
    return _feed_forward(channel, x)


def embed_patches(layer: Any, x: Tensor) -> Tensor:
    """Run a stage's strided convolution: [N, H, W, C] to [N, H', W', C']."""
    if layer.pre_norm:
        x = layer.norm(x)
    x = layer.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return x if layer.pre_norm else layer.norm(x)


def _feed_forward(block: Any, x: Tensor) -> Tensor:
    x = x + _depthwise(block.conv2, x)
    hidden = normed_linear(block.norm2, block.ffn.fc1, x)
    return x + block.drop_path2(activated_linear(block.ffn.fc2, hidden, approximate="none"))


def _depthwise(conv: nn.Module, x: Tensor) -> Tensor:
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def window_attention(norm: Any, layer: Any, x: Tensor, kind: AttentionKind) -> Tensor:
    """Norm, then attend within the windows of maps x [N, H, W, C].

    transformers pads the map with zeros to whole windows before projecting. All padding of a
    window then has one key and one value, the biases: here they are a single extra key whose
    logit is raised by the logarithm of their number.
    """
    order = _window_order(x.shape[:3], layer.window_size, x.device)
    windows = _Reorder.apply(x.flatten(0, 2), order.to_windows, order.to_maps)
    qkv = normed_linear(norm, layer.qkv, windows).view(len(windows), 3, layer.num_heads, -1)
    attend_all = partial(_attend_windows, layer, order.regions, kind)
    # Recomputing the kernel costs little and keeps the padded keys and values off the memory.
    keep = not (torch.is_grad_enabled() and qkv.requires_grad)
    out = attend_all(qkv) if keep else checkpoint(attend_all, qkv, **RECOMPUTE)
    return _Reorder.apply(layer.proj(out), order.to_maps, order.to_windows).view(x.shape)


def channel_attention(norm: Any, layer: Any, x: Tensor) -> Tensor:
    """Norm, then attend between the channels of each group over maps x [N, H, W, C]."""
    tokens = x.flatten(1, 2)
    size, count, dim = tokens.shape
    qkv = normed_linear(norm, layer.qkv, tokens).view(
        size, count, 3, layer.groups, dim // layer.groups
    )
    query, key, value = qkv.permute(2, 0, 3, 1, 4).contiguous()  # each [N, G, H * W, C / G]
    weights = (query.transpose(-2, -1) @ key * count**-0.5).softmax(dim=-1)
    out = value @ weights.transpose(-2, -1)
    return layer.proj(out.transpose(1, 2).reshape(x.shape))


class Region(NamedTuple):
    """Windows of equal real size: tokens of all of them, and of each."""

    total: int
    each: int


class WindowOrder(NamedTuple):
    """The order of tokens in which every window is contiguous, and the way back."""

    regions: list[Region]
    to_windows: Tensor
    to_maps: Tensor


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept here must serve training too
def _window_order(size: torch.Size, window: int, device: torch.device) -> WindowOrder:
    """Sort the tokens of [N, H, W] maps: whole windows, then the strips at right and bottom."""
    index = torch.arange(size.numel(), device=device).view(size)
    regions, parts = [], []
    for rows, height in _spans(size[1], window):
        for columns, width in _spans(size[2], window):
            cut = index[:, rows, columns].unflatten(2, (-1, width)).unflatten(1, (-1, height))
            parts.append(cut.transpose(2, 3).flatten())
            regions.append(Region(parts[-1].numel(), height * width))
    to_windows = torch.cat(parts)
    return WindowOrder(regions, to_windows, to_windows.argsort())


def _spans(length: int, window: int) -> list[tuple[slice, int]]:
    """Return the part of a side that holds whole windows and the rest, with their window side."""
    whole = length // window * window
    spans = [(slice(0, whole), window), (slice(whole, length), length - whole)]
    return [span for span in spans if span[0].start < span[0].stop]


class _Reorder(torch.autograd.Function):
    """Rows of x in another order; the gradient is a gather as well, where indexing would add."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(0, ctx.saved_tensors[0]), None, None


def _attend_windows(layer: Any, regions: list[Region], kind: AttentionKind, qkv: Tensor) -> Tensor:
    """Attend within all windows: qkv [rows, 3, heads, head dim] to [rows, C]."""
    parts = qkv.split([region.total for region in regions])
    outs = [
        _attend_region(layer, part.unflatten(0, (-1, region.each)), kind)
        for part, region in zip(parts, regions, strict=True)
    ]
    return torch.cat(outs)


def _attend_region(layer: Any, qkv: Tensor, kind: AttentionKind) -> Tensor:
    """Attend within windows qkv [windows, tokens, 3, heads, head dim]; return rows [*, C]."""
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    padding = layer.window_size**2 - query.shape[2]
    if padding == 0:
        out = attend(query, key, value, kind=kind)
    else:
        key, value = _with_padding(layer, key, 1), _with_padding(layer, value, 2)
        mask = query.new_zeros(query.shape[2], key.shape[2])
        mask[:, -1] = math.log(padding)
        out = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return out.transpose(1, 2).flatten(2).flatten(0, 1)


def _with_padding(layer: Any, x: Tensor, part: int) -> Tensor:
    """Append to keys (part 1) or values (2) the one of a zero token, which is the bias."""
    shape = (len(x), x.shape[1], 1, x.shape[3])
    if layer.qkv.bias is None:
        return torch.cat([x, x.new_zeros(shape)], dim=2)
    bias = layer.qkv.bias.chunk(3)[part].view(1, *shape[1:])
    return torch.cat([x, bias.expand(shape).to(x.dtype)], dim=2)
