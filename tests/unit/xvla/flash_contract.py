"""What flash-attn promises, in plain torch: its signature and its documented result.

Signature and contract are those of `flash_attn_func` in the source distribution of flash-attn
2.8.3.post2 (flash_attn/flash_attn_interface.py), the newest one when this was written.
"""

import sys
from types import ModuleType

import torch
from torch import Tensor

FLASH_ATTN_VERSION = "2.8.3.post2"


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Tensor:
    """Attend as documented: q [B, Sq, H, Dh], k and v [B, Sk, Hk, Dh] give [B, Sq, H, Dh].

    Hk may divide H; the scale defaults to 1 / sqrt(Dh); a causal mask is aligned to the bottom
    right corner; dropout acts on the probabilities. Options that we never use are refused.
    """
    unused = (window_size != (-1, -1), softcap, alibi_slopes is not None, return_attn_probs)
    assert not any(unused), "not part of this contract"
    groups = q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(groups, dim=2) for x in (k, v))
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * scale
    if causal:
        keep = torch.ones(q.shape[1], k.shape[1]).tril(k.shape[1] - q.shape[1]).bool()
        scores = scores.masked_fill(~keep, float("-inf"))
    weights = torch.nn.functional.dropout(scores.softmax(dim=-1), dropout_p)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v)


def module_with(function: object) -> ModuleType:
    """Return a module that looks like the installed package, with `function` as its kernel."""
    module = ModuleType("flash_attn")
    module.__version__ = FLASH_ATTN_VERSION  # type: ignore[attr-defined]
    module.flash_attn_func = function  # type: ignore[attr-defined]
    return module


def install(monkeypatch, function: object = flash_attn_func) -> None:
    """Make `import flash_attn` find a stand-in, and let our choice accept it on the CPU."""
    from xvla import attention

    monkeypatch.setitem(sys.modules, "flash_attn", module_with(function))
    monkeypatch.setattr(attention, "FLASH_DEVICE", "cpu")
    attention.resolve.cache_clear()
