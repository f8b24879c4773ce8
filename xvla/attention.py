"""The choice of attention kernel: flash-attn on CUDA in half precision, else PyTorch's SDPA.

Shapes: query [B, H, Sq, Dh], key and value [B, H, Sk, Dh]; no mask, the policy attends to all.
"""

import logging
from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

AttentionKind = Literal["auto", "flash", "sdpa", "eager"]
ALIASES = {"flash_attention_2": "flash"}
SELF_CHECK_TOLERANCE = 2e-2  # half precision, unit-variance inputs

log = logging.getLogger(__name__)


def attention_kind(name: str) -> AttentionKind:
    """Return the canonical name of an attention kind; raise ValueError for an unknown one."""
    kind = ALIASES.get(name, name)
    if kind not in get_args(AttentionKind):
        allowed = [*get_args(AttentionKind), *ALIASES]
        raise ValueError(f"attention={name!r} is not known; choose one of {allowed}")
    return kind  # type: ignore[return-value]


def attend(
    query: Tensor, key: Tensor, value: Tensor, *, kind: AttentionKind, dropout: float = 0.0
) -> Tensor:
    """Return softmax(q k^T / sqrt(Dh)) v, [B, H, Sq, Dh], by the kernel that `kind` resolves to."""
    ran = resolve(kind, device=query.device.type, dtype=query.dtype)
    if ran == "sdpa":
        return functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    if ran == "eager":
        return _eager(query, key, value, dropout)
    return _flash(query, key, value, dropout)


@cache
def resolve(kind: AttentionKind, *, device: str, dtype: torch.dtype) -> AttentionKind:
    """Return the kernel that will run (never "auto") and log it once per choice.

    Raises ValueError if flash is asked for by name where it cannot run.
    """
    if kind in ("sdpa", "eager"):
        return _announce(kind, "asked for")
    problem = _flash_problem(device, dtype)
    if problem is None:
        return _announce("flash", "available and numerically sound")
    if kind == "flash":
        raise ValueError(f"attention='flash' cannot run here: {problem}; use 'auto' or 'sdpa'")
    return _announce("sdpa", problem)


def _announce(ran: AttentionKind, reason: str) -> AttentionKind:
    log.info("attention kernel: %s (%s)", ran, reason)
    return ran


def _flash_problem(device: str, dtype: torch.dtype) -> str | None:
    """Say why flash-attn cannot be used, or None."""
    if device != "cuda":
        return f"flash-attn needs a CUDA device, not {device}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"flash-attn needs float16 or bfloat16, not {dtype}"
    try:
        import flash_attn  # noqa: F401
    except ImportError as error:
        return f"the flash-attn package does not import ({error})"
    return _self_check(dtype)


def _self_check(dtype: torch.dtype) -> str | None:
    """Compare flash-attn with SDPA once on random numbers; a broken build must not train."""
    generator = torch.Generator(device="cuda").manual_seed(0)
    shape = (2, 4, 67, 64)
    query, key, value = (
        torch.randn(shape, device="cuda", generator=generator).to(dtype) for _ in range(3)
    )
    expected = functional.scaled_dot_product_attention(query, key, value)
    try:
        gap = (_flash(query, key, value, 0.0) - expected).abs().max().item()
    except RuntimeError as error:
        return f"flash-attn failed its self-check ({error})"
    if not gap < SELF_CHECK_TOLERANCE:
        return f"flash-attn differs from SDPA by {gap:.3g} in its self-check"
    return None


def _flash(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    """Call flash-attn, whose layout is [B, S, H, Dh]."""
    from flash_attn import flash_attn_func

    args = (x.transpose(1, 2) for x in (query, key, value))
    return flash_attn_func(*args, dropout_p=dropout).transpose(1, 2)


def _eager(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    weights = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    return functional.dropout(weights.softmax(dim=-1), dropout) @ value
