"""Time, noise and the sampler, against the formulas of the released code and of the paper."""

import pytest
import torch

from xvla.flow import add_noise, sample, sample_time


def test_time_is_stratified() -> None:
    torch.manual_seed(0)
    time = sample_time(8)
    torch.manual_seed(0)
    offset = torch.rand(1)
    assert torch.equal(time, (offset + torch.arange(8) / 8) % (1 - 1e-5))
    gaps = time.sort().values.diff()
    torch.testing.assert_close(gaps, torch.full((7,), 0.125), atol=2e-5, rtol=0)


def test_directions_of_time() -> None:
    action, noise = torch.zeros(2, 3, 4), torch.ones(2, 3, 4)
    time = torch.tensor([0.25, 1.0])
    assert add_noise(action, noise, time)[:, 0, 0].tolist() == [0.25, 1.0]
    paper = add_noise(action, noise, time, prediction="velocity")
    assert paper[:, 0, 0].tolist() == [0.75, 0.0]


def test_the_sampler_remixes_one_noise() -> None:
    noise = torch.randn(2, 3, 4)
    seen: list[tuple[float, torch.Tensor]] = []

    def predict(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        seen.append((time[0].item(), x))
        return torch.full_like(x, float(len(seen)))

    result = sample(predict, noise, steps=4)
    assert [t for t, _ in seen] == [1.0, 0.75, 0.5, 0.25]
    torch.testing.assert_close(seen[0][1], noise)
    torch.testing.assert_close(seen[2][1], 0.5 * noise + 0.5 * 2.0)
    assert result.unique().item() == 4.0


def test_velocity_integrates_a_straight_path_exactly() -> None:
    noise, target = torch.randn(2, 3, 4), torch.randn(2, 3, 4)

    def predict(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        torch.testing.assert_close(x, add_noise(target, noise, time, prediction="velocity"))
        return target - noise

    torch.testing.assert_close(sample(predict, noise, steps=5, prediction="velocity"), target)


@pytest.mark.parametrize("steps", [0, -3])
def test_at_least_one_step(steps: int) -> None:
    calls = []
    sample(lambda x, t: calls.append(t) or x, torch.zeros(1, 2, 3), steps=steps)
    assert len(calls) == 1
