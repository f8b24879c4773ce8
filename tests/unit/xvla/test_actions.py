"""Action spaces against their losses written out by hand."""

from dataclasses import replace

import pytest
import torch
from policy_cases import TINY
from torch import Tensor
from torch.nn import functional

from xvla.actions import action_space


def pair(width: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    return tuple(torch.rand(2, 5, width, generator=random) for _ in range(2))


def mse(predicted: Tensor, target: Tensor, dims: list[int]) -> Tensor:
    return ((predicted - target)[..., dims] ** 2).mean()


def bce(predicted: Tensor, target: Tensor, dims: list[int]) -> Tensor:
    return functional.binary_cross_entropy_with_logits(predicted[..., dims], target[..., dims])


def test_end_effector_losses() -> None:
    predicted, target = pair(20)
    arm = {"xyz": list(range(3)), "rot": list(range(3, 9))}
    other = {name: [i + 10 for i in dims] for name, dims in arm.items()}
    both = {
        name: mse(predicted, target, arm[name]) + mse(predicted, target, other[name])
        for name in arm
    }
    losses = action_space(TINY).losses(predicted, target)
    torch.testing.assert_close(losses["position_loss"], 500 * both["xyz"])
    torch.testing.assert_close(losses["rotate6D_loss"], 10 * both["rot"])
    torch.testing.assert_close(losses["gripper_loss"], bce(predicted, target, [9, 19]))
    agibot = action_space(replace(TINY, action_mode="agibot_ee6d")).losses(predicted, target)
    torch.testing.assert_close(agibot["position_loss"], losses["position_loss"])
    torch.testing.assert_close(agibot["gripper_loss"], 10 * mse(predicted, target, [9, 19]))


def test_joint_losses() -> None:
    predicted, target = pair(14)
    losses = action_space(replace(TINY, action_mode="joint")).losses(predicted, target)
    joints = [i for i in range(14) if i not in (6, 13)]
    torch.testing.assert_close(losses["joints_loss"], mse(predicted, target, joints))
    torch.testing.assert_close(losses["gripper_loss"], 0.1 * bce(predicted, target, [6, 13]))


@pytest.mark.parametrize("scale", [100.0, 1.0])
def test_auto_pads_weighs_and_trims(scale: float) -> None:
    config = replace(
        TINY, action_mode="auto", real_action_dim=7, max_action_dim=12, auto_loss_scale=scale
    )
    space = action_space(config)
    predicted, target = pair(12)
    losses = space.losses(predicted, target[..., :7])
    torch.testing.assert_close(losses["joints_loss"], scale * mse(predicted, target, [*range(7)]))
    padded = space.pad(target[..., :7])
    assert padded.shape[-1] == 12
    assert padded[..., 7:].abs().max() == 0
    assert space.pad(target) is target
    assert torch.equal(space.postprocess(predicted), predicted[..., :7])


@pytest.mark.parametrize(("mode", "grippers"), [("ee6d", [9, 19]), ("joint", [6, 13])])
def test_grippers_are_hidden_and_squashed(mode: str, grippers: list[int]) -> None:
    space = action_space(replace(TINY, action_mode=mode))
    values, _ = pair(space.dim)
    before = values.clone()
    hidden, final = space.hide_grippers(values), space.postprocess(values)
    assert torch.equal(values, before)
    rest = [i for i in range(space.dim) if i not in grippers]
    assert hidden[..., grippers].abs().max() == 0
    assert torch.equal(hidden[..., rest], values[..., rest])
    torch.testing.assert_close(final[..., grippers], values[..., grippers].sigmoid())
    assert torch.equal(final[..., rest], values[..., rest])


def test_agibot_leaves_everything_as_it_is() -> None:
    space = action_space(replace(TINY, action_mode="agibot_ee6d"))
    values, _ = pair(20)
    assert torch.equal(space.hide_grippers(values), values)
    assert torch.equal(space.postprocess(values), values)
