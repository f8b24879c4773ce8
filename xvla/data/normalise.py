"""Optional coordinates of training: pose targets relative to the proprio, standardised proprio.

With both options off (the released behaviour) encode and decode are the identity. Metrics are
always computed on decoded, absolute poses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from xvla.data.readers.base import STATE_DIM

if TYPE_CHECKING:
    import torch

    from xvla.data.sources import Mixture, Source

ArrayT = TypeVar("ArrayT", "NDArray[Any]", "torch.Tensor")

# The 9 pose dimensions of each arm; a gripper is never a difference.
POSE_MASK = np.array(([1.0] * 9 + [0.0]) * 2, dtype=np.float32)
# Relative xyz and absolute rotation: the control interface of the Google robot (RT1).
XYZ_MASK = np.array(([1.0] * 3 + [0.0] * 7) * 2, dtype=np.float32)
DELTA_MASKS = {"delta": POSE_MASK, "delta_xyz": XYZ_MASK}
# Dimensions that hardly vary (an absent arm, a fixed axis) must not blow up noise: 1 cm, 0.01 of
# a rotation number or of a gripper's stroke counts as one standard deviation at least.
STD_FLOOR = 0.01
# More episodes than this do not move a mean or a deviation, but take minutes to read.
FITTED_EPISODES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Normaliser:
    """How a domain's proprio and action are written for the model, and read back.

    mean, std: [20] by domain, of the training episodes used; empty when proprio_norm is none.
    """

    target: Literal["absolute", "delta", "delta_xyz"] = "absolute"
    proprio_norm: Literal["none", "standardise"] = "none"
    mean: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    std: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def encode(
        self, domain: str | Sequence[str], proprio: ArrayT, action: ArrayT
    ) -> tuple[ArrayT, ArrayT]:
        """Return (proprio [..., 20], action [..., T, 20]) as the model sees them.

        `domain` is one name, or one a row of a batch [B, 20]. Raises ValueError for a domain
        without statistics.
        """
        if self.target != "absolute":
            mask = _like(DELTA_MASKS[self.target], proprio)
            action = action - (proprio * mask)[..., None, :]
        return self.encode_proprio(domain, proprio), action

    def encode_proprio(self, domain: str | Sequence[str], proprio: ArrayT) -> ArrayT:
        """Return the proprio [..., 20] as the model sees it (all that acting needs)."""
        if self.proprio_norm == "none":
            return proprio
        mean = _like(self._rows(self.mean, domain), proprio)
        std = _like(self._rows(self.std, domain), proprio)
        return (proprio - mean) / std

    def decode(
        self, domain: str | Sequence[str], raw_proprio: ArrayT, prediction: ArrayT
    ) -> ArrayT:
        """Return absolute poses [..., T, 20] of a prediction; `raw_proprio` is not encoded.

        `domain` is taken for symmetry with `encode`: the delta is the same in all domains.
        """
        if self.target == "absolute":
            return prediction
        mask = _like(DELTA_MASKS[self.target], raw_proprio)
        return prediction + (raw_proprio * mask)[..., None, :]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON document that `from_dict` turns back into an equal normaliser."""
        return {
            "target": self.target,
            "proprio_norm": self.proprio_norm,
            "mean": {name: list(row) for name, row in self.mean.items()},
            "std": {name: list(row) for name, row in self.std.items()},
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Normaliser":
        """Rebuild the normaliser of `to_dict`."""
        return cls(
            target=document["target"],
            proprio_norm=document["proprio_norm"],
            mean={name: tuple(row) for name, row in document["mean"].items()},
            std={name: tuple(row) for name, row in document["std"].items()},
        )

    def _rows(
        self, table: Mapping[str, tuple[float, ...]], domain: str | Sequence[str]
    ) -> NDArray[np.float32]:
        names = [domain] if isinstance(domain, str) else list(domain)
        for name in names:
            if name not in table:
                raise ValueError(
                    f"domain {name!r} has no proprio statistics; fitted: {', '.join(table)}; "
                    "fit the normaliser on a mixture that holds the domain"
                )
        rows = np.array([table[name] for name in names], dtype=np.float32)
        return rows[0] if isinstance(domain, str) else rows


def fit_normaliser(mixture: "Mixture") -> Normaliser:
    """Fit the options of a mixture's configuration on the training episodes that it uses."""
    config = mixture.config
    if config.proprio_norm == "none":
        return Normaliser(target=config.target)
    mean, std = {}, {}
    for source in mixture.sources.values():
        states = _states(source).astype(np.float64)
        mean[source.name] = _row(states.mean(axis=0))
        std[source.name] = _row(np.maximum(states.std(axis=0), STD_FLOOR))
    return Normaliser(target=config.target, proprio_norm=config.proprio_norm, mean=mean, std=std)


def _states(source: "Source") -> NDArray[np.float32]:
    """Return poses [frames, 20] of the training episodes, of a large set every n-th of them."""
    episodes = thinned(source.readable)
    if not episodes:
        raise ValueError(f"domain {source.name} has no training episode that can be read")
    return np.concatenate([source.dataset.episode(episode).states for episode in episodes])


def thinned(episodes: Sequence[int]) -> Sequence[int]:
    """Return every n-th episode, so that at most FITTED_EPISODES are read for a mean."""
    return episodes[:: max(1, -(-len(episodes) // FITTED_EPISODES))]


def _row(values: NDArray[np.float64]) -> tuple[float, ...]:
    assert values.shape == (STATE_DIM,)
    return tuple(float(value) for value in values)


def _like(values: NDArray[np.float32], other: ArrayT) -> ArrayT:
    """Return `values` as the kind of array, dtype and device of `other`."""
    if isinstance(other, np.ndarray):
        return values.astype(other.dtype, copy=False)
    return other.new_tensor(values)
