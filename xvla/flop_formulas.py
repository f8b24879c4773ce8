"""Lets torch's FlopCounterMode see the products that our CPU path runs through other operators."""

from typing import Any

import torch
from torch.utils.flop_counter import (
    register_flop_formula,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

ATEN = torch.ops.aten


def register() -> None:
    """Register oneDNN's linear layer and the CPU's fused attention; once a process."""
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        register_flop_formula(torch.ops.mkldnn._linear_pointwise)(_linear)
    register_flop_formula(ATEN._scaled_dot_product_flash_attention_for_cpu)(_attention)
    register_flop_formula(ATEN._scaled_dot_product_flash_attention_for_cpu_backward)(
        _attention_backward
    )


def _linear(x: list[int], weight: list[int], *_: Any, **__: Any) -> int:
    return 2 * x[0] * x[1] * weight[0]


def _attention(query: list[int], key: list[int], value: list[int], *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(
    grad: list[int], query: list[int], key: list[int], value: list[int], *_: Any, **__: Any
) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)
