"""Closed-form FLOPs against torch's own counter on the real model."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scaling.flops import forward_flops, step_flops, vision_flops
from scaling.sizes import SIZES
from xvla.batch import Batch
from xvla.model import XVLA, build_on_meta
from xvla.params import num_params


def batch_of(size: int, *, views: int, image_size: int, text_len: int, device="cpu") -> Batch:
    return Batch(
        input_ids=torch.ones(size, text_len, dtype=torch.long, device=device),
        images=torch.zeros(size, views, 3, image_size, image_size, device=device),
        view_mask=torch.ones(size, views, dtype=torch.bool, device=device),
        domain_id=torch.zeros(size, dtype=torch.long, device=device),
        proprio=torch.zeros(size, 20, device=device),
        action=torch.zeros(size, 30, 20, device=device),
    )


@pytest.mark.parametrize("size", ["tiny", "tiny-h128"])
def test_step_flops_match_the_counter(size: str) -> None:
    shape = {"views": 3, "image_size": 96, "text_len": 16}
    config = SIZES[size]
    # In evaluation mode no layer runs twice; the small sizes have no dropout.
    model = XVLA(config, attention="eager").eval()
    # The counter does not know the CPU's fused attention kernel; the math one it can see into.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        losses = model(batch_of(2, **shape))
        forward = counter.get_total_flops()
        torch.stack(list(losses.values())).sum().backward()
    ours = forward_flops(config, **shape, batch_size=2)
    assert ours == pytest.approx(forward, rel=1e-6)
    both = step_flops(config, **shape, batch_size=2)
    assert both == pytest.approx(3 * ours)
    # Pixels need no gradient, and neither does the noisy action, which is within the tolerance.
    stem = 2 * 3 * 2 * 24**2 * 7**2 * 3 * config.vision.dim_embed[0]
    assert counter.get_total_flops() == pytest.approx(both - stem, rel=0.005)


def test_the_counter_takes_a_grouped_convolution_for_what_it_is() -> None:
    layer = torch.nn.Conv2d(12, 6, 3, stride=2, padding=1, groups=3)
    x = torch.randn(2, 12, 11, 11, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        layer(x).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * 2 * 6**2 * 6 * 3**2 * (12 // 3)


def test_frozen_vlm_counts_once() -> None:
    shape = {"views": 3, "image_size": 96, "text_len": 16}
    config = SIZES["tiny"]
    whole, frozen = step_flops(config, **shape), step_flops(config, **shape, frozen_vlm=True)
    policy = (frozen * 3 - whole) / 6
    assert forward_flops(config, **shape) == pytest.approx((whole - 3 * policy) / 3 + policy)
    assert frozen < whole


def test_the_paper_run_is_about_four_hundred_exaflops() -> None:
    shape = {"views": 3, "image_size": 224, "text_len": 50}
    total = 204.8e6 * step_flops(SIZES["0.9b"], **shape, as_released=True)
    assert total == pytest.approx(4.15e20, rel=0.02)
    assert 204.8e6 * step_flops(SIZES["0.9b"], **shape) < 0.85 * total


def test_a_sample_of_the_09b_takes_171_tflop_here_and_205_as_released() -> None:
    shape = {"views": 3, "image_size": 224, "text_len": 50}
    assert step_flops(SIZES["0.9b"], **shape) == pytest.approx(1.71e12, rel=0.002)
    assert step_flops(SIZES["0.9b"], **shape, as_released=True) == pytest.approx(2.05e12, rel=0.002)


def test_the_released_tower_takes_162_gflop_an_image() -> None:
    config = SIZES["0.9b"]
    assert vision_flops(config, 224, as_released=True) == pytest.approx(162e9, rel=0.01)
    assert vision_flops(config, 384) == vision_flops(config, 384, as_released=True)


@pytest.mark.parametrize("size", list(SIZES))
def test_sizes_are_what_their_names_say(size: str) -> None:
    built = sum(p.numel() for p in build_on_meta(SIZES[size]).parameters())
    assert built == num_params(SIZES[size])["total"]
    named = {"50m": 50e6, "0.26b": 0.26e9, "0.45b": 0.45e9, "0.9b": 0.9e9, "2b": 2e9}
    if size in named:
        assert built == pytest.approx(named[size], rel=0.15)
