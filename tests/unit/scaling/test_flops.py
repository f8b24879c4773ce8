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
    # In evaluation mode no layer runs twice; the small sizes have no dropout.
    model = XVLA(SIZES[size], attention="eager").eval()
    # The counter does not know the CPU's fused attention kernel; the math one it can see into.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        losses = model(batch_of(2, **shape))
        forward = _by_kind(counter)
        torch.stack(list(losses.values())).sum().backward()
    ours = forward_flops(SIZES[size], **shape, batch_size=2)
    assert ours == pytest.approx(sum(forward), rel=1e-6)
    # Matrix products only: torch 2.13 counts the backward of a grouped convolution too high. The
    # noisy action needs no gradient, so the counter is a little below 3 x forward.
    assert _by_kind(counter)[0] == pytest.approx(3 * forward[0], rel=0.01)
    both = step_flops(SIZES[size], **shape, batch_size=2)
    assert both == pytest.approx(3 * ours)


def _by_kind(counter: FlopCounterMode) -> tuple[int, int]:
    """Return the FLOPs of matrix products and of convolutions."""
    counts = counter.get_flop_counts()["Global"]
    convolutions = sum(n for op, n in counts.items() if "convolution" in str(op))
    return sum(counts.values()) - convolutions, convolutions


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
