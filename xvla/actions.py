"""Action spaces: the meaning of each dimension, its loss, and what happens before and after.

B batch, T anchors, A action dim, P proprio dim. Losses are means over batch, anchors and the
dimensions of a part; the objective is the plain sum of the parts. Absent arms are trained on as
zeros, as in the released code.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional

from xvla.config import ModelConfig
from xvla.params import action_dim

Span = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LossPart:
    """One named loss: weight times the sum, over spans of dimensions, of the mean error."""

    name: str
    weight: float
    spans: tuple[Span, ...]
    kind: Literal["mse", "bce"] = "mse"

    def __call__(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Return the scalar loss of [B, T, A] predictions (logits where kind is bce)."""
        error = (
            functional.mse_loss
            if self.kind == "mse"
            else functional.binary_cross_entropy_with_logits
        )
        first, *rest = (error(predicted[..., a:b], target[..., a:b]) for a, b in self.spans)
        return self.weight * sum(rest, start=first)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionSpace:
    """Layout and treatment of an action chunk.

    dim         A, the width the network sees.
    real_dim    width of the data and of what `postprocess` returns.
    binary      gripper dimensions that are hidden from the input (set to zero in proprio and noisy
                action) and come out as logits.
    """

    dim: int
    real_dim: int
    parts: tuple[LossPart, ...]
    binary: tuple[int, ...] = ()

    def losses(self, predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the named scalar losses; target is the chunk before noising and zeroing."""
        return {part.name: part(predicted, target) for part in self.parts}

    def pad(self, action: Tensor) -> Tensor:
        """Pad data [..., real_dim] with zeros to A; a chunk that is A wide passes unchanged."""
        missing = self.dim - action.shape[-1]
        return functional.pad(action, (0, missing)) if missing > 0 else action

    def hide_grippers(self, values: Tensor) -> Tensor:
        """Return a copy of proprio or action [..., A] whose binary dimensions are zero."""
        if not self.binary:
            return values
        values = values.clone()
        for i in self.binary:
            if i < values.shape[-1]:
                values[..., i] = 0
        return values

    def postprocess(self, predicted: Tensor) -> Tensor:
        """Map network output [B, T, A] to actions: sigmoid on binary dims, padding trimmed."""
        action = predicted[..., : self.real_dim].clone()
        for i in self.binary:
            action[..., i] = action[..., i].sigmoid()
        return action


def action_space(config: ModelConfig) -> ActionSpace:
    """Return the action space that `config.action_mode` names.

    Raises ValueError for an unknown mode or an impossible width.
    """
    dim = action_dim(config)
    if config.action_mode == "auto":
        return _auto(config)
    return ActionSpace(
        dim=dim,
        real_dim=dim,
        parts=PARTS[config.action_mode],
        binary=BINARY[config.action_mode],
    )


def _auto(config: ModelConfig) -> ActionSpace:
    """Any robot of up to `max_action_dim` values; mean squared error on the real ones.

    The scale is 100 in the official code and 1 in LeRobot; the checkpoint's layout decides.
    """
    real, width = config.real_action_dim, config.max_action_dim
    if not 0 < real <= width:
        raise ValueError(
            f"real_action_dim={real} is not allowed; give 1 to max_action_dim={width}, "
            "or raise max_action_dim"
        )
    part = LossPart(name="joints_loss", weight=config.auto_loss_scale, spans=((0, real),))
    return ActionSpace(dim=width, real_dim=real, parts=(part,))


def _end_effector_parts(gripper: LossPart) -> tuple[LossPart, ...]:
    """Two arms of [xyz in m, rotation 6D, gripper]; the loss adds the arms."""
    position = LossPart(name="position_loss", weight=500.0, spans=((0, 3), (10, 13)))
    rotation = LossPart(name="rotate6D_loss", weight=10.0, spans=((3, 9), (13, 19)))
    return (position, rotation, gripper)


# A mean over both gripper columns is half the sum of the two columns' means, hence the halves.
PARTS: dict[str, tuple[LossPart, ...]] = {
    "ee6d": _end_effector_parts(
        LossPart(name="gripper_loss", weight=0.5, spans=((9, 10), (19, 20)), kind="bce")
    ),
    "agibot_ee6d": _end_effector_parts(
        LossPart(name="gripper_loss", weight=5.0, spans=((9, 10), (19, 20)))
    ),
    "joint": (
        LossPart(name="joints_loss", weight=0.5, spans=((0, 6), (7, 13))),
        LossPart(name="gripper_loss", weight=0.05, spans=((6, 7), (13, 14)), kind="bce"),
    ),
}
BINARY: dict[str, tuple[int, ...]] = {"ee6d": (9, 19), "agibot_ee6d": (), "joint": (6, 13)}
