"""A linear layer whose fp32 products run through oneDNN where that is the faster CPU library.

PyTorch sends fp32 matrix products to MKL, which uses half-width vectors on CPUs that are not
Intel's; oneDNN, which ships inside PyTorch too, uses the full AVX-512 width there (measured on a
2-core EPYC: 2.0 to 2.4 times the throughput). On other devices and types nothing changes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Below this many multiply-adds the Python side of the layer costs more than the product saves.
SMALLEST_PRODUCT = 1 << 21


class Linear(nn.Linear):
    """nn.Linear by the fastest route; same parameters, same state dict."""

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., in] to [..., out]."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x @ weight.T + bias for x [..., in] and weight [out, in]."""
    if _onednn_pays(x, weight):
        return _OneDnnLinear.apply(x, weight, bias)
    return functional.linear(x, weight, bias)


def use_fast_linear(module: nn.Module) -> None:
    """Turn every plain nn.Linear below `module` into a `Linear` that keeps its parameters."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                fast = Linear.__new__(Linear)
                fast.__dict__.update(child.__dict__)
                setattr(parent, name, fast)


def fast_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x @ weight.T + bias without recording it for the backward pass."""
    if not _onednn_pays(x, weight):
        return functional.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    return _product(rows, weight, bias).view(*x.shape[:-1], len(weight))


def linear_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, needs: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, weight and bias, None where not needed."""
    product = _product if _onednn_pays(x, weight) else functional.linear
    rows, grad_rows = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
    grad_x = product(grad_rows, weight.t(), None).view(x.shape) if needs[0] else None
    grad_weight = product(grad_rows.t(), rows.t(), None) if needs[1] else None
    grad_bias = grad_rows.sum(dim=0) if needs[2] else None
    return grad_x, grad_weight, grad_bias


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return fast_linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs = (*ctx.needs_input_grad[:2], ctx.has_bias and ctx.needs_input_grad[2])
        return linear_gradients(grad, x, weight, needs)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x [M, K] @ weight [N, K].T + bias, each of any stride, by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _onednn_pays(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * len(weight) >= SMALLEST_PRODUCT
        and _HAS_FULL_WIDTH
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def _has_full_width() -> bool:
    """Tell whether oneDNN is there and PyTorch sees AVX-512."""
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    )


_HAS_FULL_WIDTH = _has_full_width()
