"""Parts of a block that keep little for the backward pass and recompute what is cheap.

`normed_linear` keeps the input of the LayerNorm, `activated_linear` that of the GELU, not their
outputs; `attention_with_dropout` keeps queries, keys, values and the mask, not the attention
weights. Same numbers as the plain composition (docs/LOG.md has the memory saved).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from xvla.dropout import dropout, dropout_mask
from xvla.linear import Linear, fast_linear, linear_gradients

GELU_BACKWARD = torch.ops.aten.gelu_backward


def activated_linear(layer: nn.Module, x: Tensor, *, approximate: str, p: float = 0.0) -> Tensor:
    """Return layer(dropout(gelu(x), p)) for x [..., in]; p is 0 in evaluation."""
    if not _can_recompute(layer, x):
        return layer(dropout(functional.gelu(x, approximate=approximate), p, p > 0))
    mask, scale = _draw(x, p)
    return _ActivatedLinear.apply(x, layer.weight, layer.bias, mask, (scale, approximate))


def normed_linear(norm: nn.LayerNorm, layer: nn.Module, x: Tensor) -> Tensor:
    """Return layer(norm(x)) for x [..., in]."""
    if not _can_recompute(layer, x):
        return layer(norm(x))
    return _NormedLinear.apply(x, norm.weight, norm.bias, layer.weight, layer.bias, norm.eps)


def attention_with_dropout(query: Tensor, key: Tensor, value: Tensor, p: float) -> Tensor:
    """Return dropout(softmax(q k^T / sqrt(Dh)), p) v for [B, H, S, Dh]; for CPUs, fp32.

    PyTorch's fused CPU kernel takes no dropout; its fallback keeps the weights three times.
    """
    mask, scale = dropout_mask(torch.Size((*query.shape[:-1], key.shape[-2])), p)
    return _DroppedAttention.apply(query, key, value, mask, scale)


def _can_recompute(layer: nn.Module, x: Tensor) -> bool:
    """Tell whether the layer is ours (no adapter around it) and plain autograd is at work."""
    return (
        type(layer) is Linear
        and x.requires_grad
        and not torch.is_autocast_enabled(x.device.type)
        and not torch.compiler.is_compiling()
    )


def _draw(x: Tensor, p: float) -> tuple[Tensor | None, float]:
    if p == 0.0:
        return None, 1.0
    if x.device.type == "cpu":
        return dropout_mask(x.shape, p)
    return torch.empty_like(x, dtype=torch.bool).bernoulli_(1 - p), 1 / (1 - p)


class _NormedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, shift: Tensor, *rest: Any) -> Tensor:
        weight, bias, eps = rest
        hidden, mean, rstd = torch.native_layer_norm(x, gain.shape, gain, shift, eps)
        ctx.save_for_backward(x, gain, shift, weight, mean, rstd)
        ctx.eps, ctx.has_bias = eps, bias is not None
        return fast_linear(hidden, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, shift, weight, mean, rstd = ctx.saved_tensors
        hidden = torch.native_layer_norm(x, gain.shape, gain, shift, ctx.eps)[0]
        asked = ctx.needs_input_grad
        needs = (True, asked[3], ctx.has_bias and asked[4])
        grad_hidden, grad_weight, grad_bias = linear_gradients(grad, hidden, weight, needs)
        grads = torch.ops.aten.native_layer_norm_backward(
            grad_hidden, x, gain.shape, mean, rstd, gain, shift, list(asked[:3])
        )
        return *grads, grad_weight, grad_bias, None


class _ActivatedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, how: Any
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mask)
        ctx.how, ctx.has_bias = how, bias is not None
        return fast_linear(_activate(x, mask, how), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mask = ctx.saved_tensors
        scale, approximate = ctx.how
        hidden = _activate(x, mask, ctx.how)
        needs = (True, ctx.needs_input_grad[1], ctx.has_bias and ctx.needs_input_grad[2])
        grad_hidden, grad_weight, grad_bias = linear_gradients(grad, hidden, weight, needs)
        if mask is not None and grad_hidden is not None:
            grad_hidden.mul_(mask).mul_(scale)
        grad_x = GELU_BACKWARD(grad_hidden, x, approximate=approximate)
        return grad_x, grad_weight, grad_bias, None, None


def _activate(x: Tensor, mask: Tensor | None, how: tuple[float, str]) -> Tensor:
    scale, approximate = how
    hidden = functional.gelu(x, approximate=approximate)
    return hidden if mask is None else hidden.mul_(mask).mul_(scale)


class _DroppedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, mask)
        ctx.scale = scale
        return _weights(query, key).mul_(mask).mul_(scale) @ value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        weights = _weights(query, key)
        grad_weights = (grad @ value.transpose(-2, -1)).mul_(mask).mul_(ctx.scale)
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        grad_scores.mul_(query.shape[-1] ** -0.5)
        dropped = weights.mul_(mask).mul_(ctx.scale)
        grad_value = dropped.transpose(-2, -1) @ grad
        return grad_scores @ key, grad_scores.transpose(-2, -1) @ query, grad_value, None, None


def _weights(query: Tensor, key: Tensor) -> Tensor:
    scores = (query @ key.transpose(-2, -1)).mul_(query.shape[-1] ** -0.5)
    return scores.softmax(dim=-1)
