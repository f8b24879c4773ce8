"""The flash path without a GPU: its call, our permutes, the self-check, and what `auto` logs."""

import inspect
import logging
import sys
from collections.abc import Callable, Iterator

import flash_contract
import pytest
import torch
from policy_cases import NO_DROPOUT
from torch import Tensor
from torch.nn import functional

from xvla import attention
from xvla.attention import attend, resolve, transformers_name
from xvla.encoder import text_config

HALF = torch.bfloat16


@pytest.fixture(autouse=True)
def forget_choices() -> Iterator[None]:
    """Each test makes its own choice of kernel."""
    resolve.cache_clear()
    yield
    resolve.cache_clear()


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    return tuple(
        torch.randn(2, 4, n, 16, generator=random).to(dtype).requires_grad_() for n in (5, 9, 9)
    )


def recorded(monkeypatch) -> list[inspect.BoundArguments]:
    """Install a kernel that binds every call to the real signature, then does as documented."""
    signature = inspect.signature(flash_contract.flash_attn_func)
    calls: list[inspect.BoundArguments] = []

    def kernel(*args: object, **kwargs: object) -> Tensor:
        calls.append(signature.bind(*args, **kwargs))
        return flash_contract.flash_attn_func(*args, **kwargs)

    flash_contract.install(monkeypatch, kernel)
    return calls


def test_our_call_binds_to_the_real_signature(monkeypatch) -> None:
    calls = recorded(monkeypatch)
    query, key, value = inputs()
    attention._flash(query, key, value, 0.25)
    (call,) = calls
    assert list(call.arguments) == ["q", "k", "v", "dropout_p"]
    assert call.arguments["dropout_p"] == 0.25
    for name, tensor in zip("qkv", (query, key, value), strict=True):
        assert torch.equal(call.arguments[name], tensor.transpose(1, 2))
    # Flash-attn wants the last dimension contiguous; a transposed view keeps that.
    assert all(call.arguments[name].stride(-1) == 1 for name in "qkv")


def test_permutes_around_the_contract_equal_sdpa(monkeypatch) -> None:
    flash_contract.install(monkeypatch)
    query, key, value = inputs()
    ours = attention._flash(query, key, value, 0.0)
    expected = functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)
    weight = torch.randn_like(ours)
    gradients = (
        torch.autograd.grad((x * weight).sum(), (query, key, value)) for x in (ours, expected)
    )
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


def test_a_sound_build_passes_and_auto_says_so(monkeypatch, caplog) -> None:
    calls = recorded(monkeypatch)
    with caplog.at_level(logging.INFO):
        assert resolve("auto", device="cpu", dtype=HALF) == "flash"
        assert resolve("auto", device="cpu", dtype=torch.float32) == "sdpa"
    assert len(calls) == 1
    assert "attention kernel: flash (available and numerically sound)" in caplog.text
    assert "attention kernel: sdpa (flash-attn needs float16 or bfloat16" in caplog.text
    attend(*inputs(HALF), kind="auto")
    assert len(calls) == 2


def causal(*args: Tensor, **kwargs: float) -> Tensor:
    return flash_contract.flash_attn_func(*args, causal=True, **kwargs)


def unscaled(*args: Tensor, **kwargs: float) -> Tensor:
    return flash_contract.flash_attn_func(*args, softmax_scale=1.0, **kwargs)


def heads_first(q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v)


def not_a_number(*args: Tensor, **kwargs: float) -> Tensor:
    return flash_contract.flash_attn_func(*args, **kwargs) * float("nan")


def old_signature(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return flash_contract.flash_attn_func(q, k, v)


class WrongBackward(torch.autograd.Function):
    """The right result with gradients that are 10 % off."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return 1.1 * gradient


def wrong_backward(*args: Tensor, **kwargs: float) -> Tensor:
    return WrongBackward.apply(flash_contract.flash_attn_func(*args, **kwargs))


BROKEN: list[tuple[Callable, str]] = [
    (causal, r"off by .* \(output\)"),
    (unscaled, r"off by .* \(output\)"),
    (heads_first, "failed its self-check"),
    (not_a_number, r"off by nan"),
    (old_signature, r"failed its self-check \(TypeError"),
    (wrong_backward, r"off by .* \(d[qkv]\)"),
]


@pytest.mark.parametrize(("kernel", "reason"), BROKEN, ids=[k.__name__ for k, _ in BROKEN])
def test_a_broken_build_is_refused(kernel: Callable, reason: str, monkeypatch, caplog) -> None:
    flash_contract.install(monkeypatch, kernel)
    with caplog.at_level(logging.INFO):
        assert resolve("auto", device="cpu", dtype=HALF) == "torch_flash"
    assert "attention kernel: torch_flash (flash-attn" in caplog.text
    with pytest.raises(ValueError, match=f"cannot run here: .*{reason}"):
        resolve("flash", device="cpu", dtype=HALF)


def test_a_build_that_does_not_import_is_refused(monkeypatch) -> None:
    flash_contract.install(monkeypatch)
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with pytest.raises(ValueError, match="does not import"):
        resolve("flash", device="cpu", dtype=HALF)


def test_without_the_package_pytorchs_flash_kernel_runs_by_name(monkeypatch, caplog) -> None:
    """PyTorch has one for CPUs too: in half precision it is what a GPU would take."""
    monkeypatch.setattr(attention, "FLASH_DEVICE", "cpu")
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with caplog.at_level(logging.INFO):
        assert resolve("auto", device="cpu", dtype=HALF) == "torch_flash"
    assert "kernel: torch_flash (the flash-attn package does not import" in caplog.text
    asked = []

    def noted(*args: Tensor, **named: float) -> Tensor:
        asked.append(torch.backends.cuda.flash_sdp_enabled())
        asked.append(torch.backends.cuda.math_sdp_enabled())
        return functional.softmax(args[0] @ args[1].mT / 4, dim=-1) @ args[2]

    query, key, value = inputs(HALF)
    given = attend(query, key, value, kind="auto")
    expected = functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(given, expected, atol=2e-2, rtol=2e-2)
    monkeypatch.setattr(functional, "scaled_dot_product_attention", noted)
    attend(query, key, value, kind="auto")
    assert asked == [True, False]


def test_a_slow_kernel_is_never_taken_in_silence(monkeypatch, caplog) -> None:
    def none(*_: Tensor, **__: float) -> Tensor:
        raise RuntimeError("No available kernel. Aborting execution.")

    monkeypatch.setattr(attention, "FLASH_DEVICE", "cpu")
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    monkeypatch.setattr(attention, "_torch_flash", none)
    assert resolve("auto", device="cpu", dtype=HALF) == "sdpa"
    assert "falls to a slower kernel: PyTorch's flash kernel failed its self-check" in caplog.text


def test_the_self_check_is_blind_to_where_it_runs(monkeypatch) -> None:
    """The first forward may be `act` (no gradients) or run under autocast."""
    flash_contract.install(monkeypatch)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert attention._package_problem("cpu", HALF) is None
    with torch.inference_mode():
        assert attention._package_problem("cpu", HALF) is None


def test_the_text_encoder_attends_through_us(monkeypatch) -> None:
    """transformers hands its modules' call to `attend`; there is one flash call, one check."""
    from transformers.models.bart.modeling_bart import BartEncoder

    calls = recorded(monkeypatch)
    torch.manual_seed(0)
    config = text_config(NO_DROPOUT)
    native = BartEncoder(config).eval()
    x = torch.randn(2, 9, NO_DROPOUT.text.d_model)
    expected = native.layers[0](x, None)
    native.config._attn_implementation = transformers_name("flash")
    with monkeypatch.context() as patch:
        patch.setattr(attention, "FLASH_DTYPES", (torch.float32,))
        torch.testing.assert_close(native.layers[0](x, None), expected, atol=1e-6, rtol=1e-6)
    assert len(calls) == 2  # the self-check's and the layer's
    heads = NO_DROPOUT.text.encoder_attention_heads
    shape = (2, 9, heads, NO_DROPOUT.text.d_model // heads)
    assert calls[1].arguments["q"].shape == shape
    assert calls[1].arguments["dropout_p"] == 0.0
    with pytest.raises(ValueError, match="unmasked"):
        native.layers[0](x, torch.zeros(2, 1, 9, 9))


@pytest.mark.parametrize("kind", ["auto", "flash", "sdpa", "eager"])
def test_transformers_knows_every_kind(kind: str) -> None:
    """A module may be built under the name: transformers checks it at construction."""
    from transformers.models.bart.modeling_bart import BartEncoder

    config = text_config(NO_DROPOUT)
    config._attn_implementation = transformers_name(kind)
    assert BartEncoder(config).config._attn_implementation == transformers_name(kind)
