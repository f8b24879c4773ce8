"""The short routes through the model give the numbers of the long ones, gradients included."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers.models.florence2.configuration_florence2 import Florence2VisionConfig
from transformers.models.florence2.modeling_florence2 import Florence2VisionBlock

from xvla import linear as linear_module
from xvla.dropout import dropout, dropout_mask
from xvla.linear import Linear, linear, use_fast_linear
from xvla.recompute import activated_linear, attention_with_dropout, normed_linear
from xvla.vision import run_block

needs_onednn = pytest.mark.skipif(
    not linear_module._HAS_FULL_WIDTH, reason="no oneDNN or no AVX-512: the plain route runs"
)


def grads_of(output: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    weights = torch.linspace(-1, 1, output.numel()).view(output.shape)
    return [output.detach(), *torch.autograd.grad((output * weights).sum(), inputs)]


def assert_same(given: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for a, b in zip(given, expected, strict=True):
        assert (a - b).abs().max() <= 2e-5 * b.abs().max() + 1e-7


def leaf(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, requires_grad=True)


@needs_onednn
@pytest.mark.parametrize("shape", [(2, 40, 512), (300, 512), (1, 17, 512)])
def test_onednn_gives_the_same_products(shape: tuple[int, ...], monkeypatch) -> None:
    monkeypatch.setattr(linear_module, "SMALLEST_PRODUCT", 1)
    torch.manual_seed(0)
    x, weight, bias = leaf(*shape), leaf(256, 512), leaf(256)
    output = linear(x, weight, bias)
    assert "OneDnn" in output.grad_fn.name()
    assert_same(
        grads_of(output, x, weight, bias),
        grads_of(functional.linear(x, weight, bias), x, weight, bias),
    )


@needs_onednn
def test_torchs_own_switch_and_small_products_take_the_plain_route() -> None:
    x, weight = leaf(512, 512), leaf(512, 512)
    assert "OneDnn" in linear(x, weight, None).grad_fn.name()
    assert "OneDnn" not in linear(x[:4], weight, None).grad_fn.name()
    assert "OneDnn" not in linear(x.double(), weight.double(), None).grad_fn.name()
    with torch.backends.mkldnn.flags(enabled=False):
        assert "OneDnn" not in linear(x, weight, None).grad_fn.name()


def test_layers_are_exchanged_in_place_with_their_parameters() -> None:
    model = nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Sequential(nn.Linear(4, 2), nn.GELU())})
    before = dict(model.named_parameters())
    use_fast_linear(model)
    assert type(model["a"]) is type(model["b"][0]) is Linear
    assert all(value is before[name] for name, value in model.named_parameters())


def test_dropout_keeps_the_stated_share_and_the_mean() -> None:
    torch.manual_seed(0)
    mask, scale = dropout_mask(torch.Size((1000, 999)), 0.1)
    kept = mask.float().mean().item()
    assert kept == pytest.approx(0.9, abs=4 * (0.09 / 999_000) ** 0.5 + 1e-5)
    assert scale == pytest.approx(1 / 0.9, rel=2e-5)
    assert mask[:, :500].float().mean() == pytest.approx(kept, abs=2e-3)
    x = torch.ones(1000)
    assert set(dropout(x, 0.5, True).tolist()) == {0.0, 2.0}
    assert dropout(x, 0.5, False) is x
    with pytest.raises(ValueError, match=r"dropout probability 1\.0"):
        dropout_mask(torch.Size((3,)), 1.0)


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_what_is_recomputed_has_the_same_gradients(p: float) -> None:
    torch.manual_seed(0)
    norm, first, second = nn.LayerNorm(24), Linear(24, 48), Linear(48, 24)
    x = leaf(2, 5, 24)
    parameters = [*norm.parameters(), *first.parameters(), *second.parameters()]
    torch.manual_seed(1)
    short = activated_linear(second, normed_linear(norm, first, x), approximate="tanh", p=p)
    assert "ActivatedLinear" in short.grad_fn.name()
    torch.manual_seed(1)
    hidden = functional.gelu(first(norm(x)), approximate="tanh")
    long = second(dropout(hidden, p, p > 0))
    assert_same(grads_of(short, x, *parameters), grads_of(long, x, *parameters))


def test_attention_with_dropout_has_the_gradients_of_its_definition() -> None:
    torch.manual_seed(0)
    query, key, value = leaf(2, 3, 4, 8), leaf(2, 3, 7, 8), leaf(2, 3, 7, 8)
    torch.manual_seed(1)
    short = attention_with_dropout(query, key, value, 0.25)
    torch.manual_seed(1)
    mask, scale = dropout_mask(torch.Size((2, 3, 4, 7)), 0.25)
    weights = (query @ key.transpose(-2, -1) * 8**-0.5).softmax(dim=-1) * mask * scale
    assert_same(grads_of(short, query, key, value), grads_of(weights @ value, query, key, value))


@pytest.mark.parametrize("side", [3, 4, 5, 7, 8, 13])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_blocks_equal_transformers_own(side: int, qkv_bias: bool) -> None:
    config = Florence2VisionConfig(
        embed_dim=[16], depths=[1], num_heads=[4], num_groups=[2], patch_size=[7],
        patch_stride=[4], patch_padding=[3], patch_prenorm=[False], window_size=4,
        qkv_bias=qkv_bias, mlp_ratio=2.0,
    )  # fmt: skip
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    block = Florence2VisionBlock(config, 0, 0.0, 0.0)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = leaf(2, 16, side, side)
    expected = grads_of(block(x), x, *block.parameters())
    use_fast_linear(block)
    ours = run_block(block, x.permute(0, 2, 3, 1), "sdpa").permute(0, 3, 1, 2)
    assert_same(grads_of(ours, x, *block.parameters()), expected)


def test_acting_and_training_agree_when_gradients_are_off() -> None:
    torch.manual_seed(0)
    norm, layer = nn.LayerNorm(8), Linear(8, 8)
    x = leaf(3, 8)
    with torch.no_grad():
        plain = normed_linear(norm, layer, x)
    torch.testing.assert_close(plain, normed_linear(norm, layer, x).detach())


def test_acting_first_does_not_spoil_training() -> None:
    config = Florence2VisionConfig(
        embed_dim=[8], depths=[1], num_heads=[2], num_groups=[2], patch_size=[7],
        patch_stride=[4], patch_padding=[3], patch_prenorm=[False], window_size=4,
    )  # fmt: skip
    block, x = Florence2VisionBlock(config, 0, 0.0, 0.0), leaf(1, 9, 9, 8)
    with torch.inference_mode():
        run_block(block, x, "sdpa")
    run_block(block, x, "sdpa").sum().backward()
    assert x.grad is not None
