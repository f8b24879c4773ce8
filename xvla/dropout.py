"""Dropout masks; on a CPU four elements share one draw of the generator.

PyTorch's own CPU dropout draws one number an element (measured: 4 times slower, 5 % of a training
step of the 0.9B). The keep probability is rounded to 1 / 65536 here, and the scale with it.
"""

import torch
from torch import Tensor
from torch.nn import functional

LEVELS = 1 << 16
DRAW_BITS = (-(1 << 63), None)  # the whole range of int64


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero a share p of x and scale up the rest; return x itself in evaluation."""
    if not training or p == 0.0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return functional.dropout(x, p)
    mask, scale = dropout_mask(x.shape, p)
    return x * mask * scale


def dropout_mask(shape: torch.Size, p: float) -> tuple[Tensor, float]:
    """Draw a CPU mask (bool, True keeps) and return it with the scale 1 / keep probability.

    Raises ValueError for p outside [0, 1).
    """
    if not 0.0 <= p < 1.0:
        raise ValueError(f"dropout probability {p} is not allowed; give 0 <= p < 1")
    dropped = round(p * LEVELS)
    draws = torch.empty(-(-shape.numel() // 4), dtype=torch.int64).random_(*DRAW_BITS)
    levels = draws.view(torch.int16)[: shape.numel()].view(shape)
    return levels >= dropped - LEVELS // 2, LEVELS / (LEVELS - dropped)
