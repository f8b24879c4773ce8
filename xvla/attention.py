"""The choice of attention kernel: a flash one on CUDA in half precision, else PyTorch's SDPA.

The flash one is the flash-attn package's where it imports and passes a check of its results and
gradients, else PyTorch's own, asked for by name: SDPA would fall to a slow one in silence.

Shapes: query [B, H, Sq, Dh], key and value [B, H, Sk, Dh]; no mask, the policy attends to all.
"""

import logging
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from xvla.recompute import attention_with_dropout

AttentionKind = Literal["auto", "flash", "sdpa", "eager"]
AttentionKernel = Literal["flash", "torch_flash", "sdpa", "eager"]  # what runs
Kernel = Callable[[Tensor, Tensor, Tensor, float], Tensor]
ALIASES = {"flash_attention_2": "flash"}
FLASH_DEVICE, FLASH_DTYPES = "cuda", (torch.float16, torch.bfloat16)
SELF_CHECK_TOLERANCE = 2e-2  # half precision, unit-variance inputs
# What transformers' modules call the kinds; it reserves every name that contains "flash".
TRANSFORMERS_NAMES = {
    "auto": "xvla_auto",
    "flash": "xvla_fa",
    "sdpa": "xvla_sdpa",
    "eager": "eager",
}

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
    if ran == "sdpa" and dropout > 0 and query.device.type == "cpu":
        return attention_with_dropout(query, key, value, dropout)
    if ran == "sdpa":
        return functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    return KERNELS[ran](query, key, value, dropout)


@cache
def resolve(kind: AttentionKind, *, device: str, dtype: torch.dtype) -> AttentionKernel:
    """Return the kernel that will run and log it once per choice.

    Raises ValueError if flash is asked for by name where it cannot run.
    """
    if kind in ("sdpa", "eager"):
        return _announce(cast(AttentionKernel, kind), "asked for")
    unfit = _unfit(device, dtype)
    problem = unfit or _package_problem(device, dtype)
    if problem is None:
        return _announce("flash", "available and numerically sound")
    if kind == "flash":
        raise ValueError(f"attention='flash' cannot run here: {problem}; use 'auto' or 'sdpa'")
    if unfit:
        return _announce("sdpa", unfit)
    if slow := _self_check("PyTorch's flash kernel", _torch_flash, device, dtype):
        log.warning("attention falls to a slower kernel: %s", slow)
        return _announce("sdpa", f"{problem}; {slow}")
    return _announce("torch_flash", f"{problem}; PyTorch's own is numerically sound")


def transformers_name(kind: AttentionKind) -> str:
    """Return the name of `kind` for transformers' modules, which then attend through `attend`.

    transformers' own path to flash-attn has no self-check, and fetches a kernel from its hub where
    the package is missing.
    """
    name = TRANSFORMERS_NAMES[kind]
    if name.startswith("xvla_"):
        from transformers import AttentionInterface

        AttentionInterface.register(name, partial(_attend_for_transformers, kind=kind))
    return name


def _attend_for_transformers(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    kind: AttentionKind,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Fit `attend` to transformers' interface, whose result is [B, S, H, Dh] and weights."""
    if attention_mask is not None or module.is_causal:
        raise ValueError("attention here is full and unmasked; use attention='sdpa' for masks")
    return attend(query, key, value, kind=kind, dropout=dropout).transpose(1, 2), None


def _announce(ran: AttentionKernel, reason: str) -> AttentionKernel:
    log.info("attention kernel: %s (%s)", ran, reason)
    return ran


def _unfit(device: str, dtype: torch.dtype) -> str | None:
    """Say why no flash kernel is for such tensors, or None."""
    if device != FLASH_DEVICE:
        return f"flash-attn needs a CUDA device, not {device}"
    if dtype not in FLASH_DTYPES:
        return f"flash-attn needs float16 or bfloat16, not {dtype}"
    return None


def _package_problem(device: str, dtype: torch.dtype) -> str | None:
    """Say why the flash-attn package cannot be used, or None."""
    try:
        import flash_attn  # noqa: F401
    except ImportError as error:
        return f"the flash-attn package does not import ({error})"
    return _self_check("flash-attn", _flash, device, dtype)


def _self_check(name: str, kernel: Kernel, device: str, dtype: torch.dtype) -> str | None:
    """Compare a kernel's results and gradients with ours: a broken build must not train."""
    # The first forward may run under autocast or without gradients; the comparison must not.
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False):
        ours = _results_and_gradients(_eager, device, dtype, torch.float32)
        try:
            theirs = _results_and_gradients(kernel, device, dtype, dtype)
        except Exception as error:
            return f"{name} failed its self-check ({type(error).__name__}: {error})"
    for part, expected, given in zip(("output", "dq", "dk", "dv"), ours, theirs, strict=True):
        gap = (given.float() - expected).abs().max() / expected.abs().max().clamp(min=1)
        if not gap.item() < SELF_CHECK_TOLERANCE:
            return f"{name} is off by {gap.item():.3g} ({part}) in its self-check"
    return None


def _results_and_gradients(
    kernel: Kernel, device: str, dtype: torch.dtype, work_dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Run a kernel on fixed random numbers of `dtype`, with fewer queries than keys."""
    random = torch.Generator().manual_seed(0)
    query, key, value, grad = (
        torch.randn(2, 4, tokens, 64, generator=random).to(device, dtype).to(work_dtype)
        for tokens in (37, 67, 67, 37)
    )
    inputs = [x.requires_grad_() for x in (query, key, value)]
    output = kernel(query, key, value, 0.0)
    return (output.detach(), *torch.autograd.grad(output, inputs, grad))


def _flash(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    """Call flash-attn, whose layout is [B, S, H, Dh]; imported here, for it is optional."""
    from flash_attn import flash_attn_func

    args = (x.transpose(1, 2) for x in (query, key, value))
    return flash_attn_func(*args, dropout_p=dropout).transpose(1, 2)


def _torch_flash(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)


def _eager(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    weights = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    return functional.dropout(weights.softmax(dim=-1), dropout) @ value


KERNELS: dict[str, Kernel] = {"flash": _flash, "torch_flash": _torch_flash, "eager": _eager}
