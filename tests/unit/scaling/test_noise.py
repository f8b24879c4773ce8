"""Time and noise of a step depend on the seed and the step alone."""

from dataclasses import replace

import torch

from scaling.sizes import SIZES
from scaling.spec import RunSpec, SeedConfig
from scaling.training.noise import step_noise

SPEC = RunSpec(model=SIZES["tiny"], global_batch_size=8)


def test_same_step_same_draw() -> None:
    for first, second in zip(step_noise(SPEC, 5), step_noise(SPEC, 5), strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(step_noise(SPEC, 5)[1], step_noise(SPEC, 6)[1])
    other = replace(SPEC, seeds=SeedConfig(data=1))
    assert not torch.equal(step_noise(SPEC, 5)[1], step_noise(other, 5)[1])


def test_time_is_stratified_below_one() -> None:
    time, noise = step_noise(SPEC, 0)
    assert noise.shape == (8, 30, 20)
    assert 0 <= time.min() <= time.max() < 1
    gaps = torch.sort(time).values.diff()
    assert torch.allclose(gaps, torch.full((7,), 1 / 8), atol=1e-4)
