"""Lets torch's FlopCounterMode see the products that our CPU path runs through other operators.

And count a grouped convolution's gradients: torch 2.13 takes that of the weight for a dense one's,
as many times too much as there are channels in a depthwise convolution.
"""

from typing import Any

import torch
from torch.utils.flop_counter import (
    conv_flop_count,
    flop_registry,
    register_flop_formula,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

ATEN = torch.ops.aten


def register() -> None:
    """Register oneDNN's linear layer, the CPU's fused attention, convolutions; once a process."""
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        register_flop_formula(torch.ops.mkldnn._linear_pointwise)(_linear)
    register_flop_formula(ATEN._scaled_dot_product_flash_attention_for_cpu)(_attention)
    register_flop_formula(ATEN._scaled_dot_product_flash_attention_for_cpu_backward)(
        _attention_backward
    )
    flop_registry.pop(ATEN.convolution_backward, None)
    register_flop_formula(ATEN.convolution_backward)(_convolution_backward)


def _linear(x: list[int], weight: list[int], *_: Any, **__: Any) -> int:
    return 2 * x[0] * x[1] * weight[0]


def _attention(query: list[int], key: list[int], value: list[int], *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(
    grad: list[int], query: list[int], key: list[int], value: list[int], *_: Any, **__: Any
) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


def _convolution_backward(
    grad: list[int], x: list[int], weight: list[int], *options: Any, **__: Any
) -> int:
    """Each gradient takes the forward pass's products; `options` are bias sizes to output mask."""
    transposed, (needs_x, needs_weight, _) = options[4], options[7]
    return conv_flop_count(x, weight, grad, transposed) * (needs_x + needs_weight)
