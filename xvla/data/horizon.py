"""Errors of models with different prediction windows, made comparable over one horizon.

The horizon is the smallest window compared; chunks and recorded poses are read at fixed times
within it. Frames with less than the largest window left are not scored: there a chunk is squeezed
in time, by a different factor for each window. B samples, T anchors, A action dim, H times.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from xvla.data.evaluation import EvalSplit, eval_frames
from xvla.data.resample import anchors
from xvla.data.samples import SampleKey
from xvla.data.sources import Mixture

if TYPE_CHECKING:
    from torch import Tensor

HORIZON_TIMES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Horizon:
    """The smallest and the largest prediction window compared, in s."""

    smallest_s: float
    largest_s: float

    def __post_init__(self) -> None:
        """Raise ValueError unless 0 < smallest <= largest."""
        if not 0.0 < self.smallest_s <= self.largest_s:
            raise ValueError(
                f"windows {self.smallest_s} to {self.largest_s} s; the smallest must be above 0 "
                "and not above the largest"
            )

    @classmethod
    def of(cls, windows_s: Sequence[float]) -> "Horizon":
        """Return the horizon on which models with these windows are compared."""
        return cls(smallest_s=min(windows_s), largest_s=max(windows_s))


def horizon_frames(mixture: Mixture, split: EvalSplit, horizon: Horizon) -> list[SampleKey]:
    """Return the frozen evaluation frames that have the largest window ahead of them, in order.

    They depend on the datasets and on `horizon`, not on the window of the model evaluated.
    Raises ValueError when no frame of the anchor domain is left.
    """
    anchor = mixture.config.anchor_domain
    kept = [
        (name, episode, start)
        for name, episode, start in eval_frames(mixture, split)
        if _seconds_left(mixture.sources[name].dataset, episode, start) >= horizon.largest_s
    ]
    if not any(name == anchor for name, _, _ in kept):
        raise ValueError(
            f"no evaluation frame of {anchor} has {horizon.largest_s} s ahead of it; "
            "compare smaller windows or record longer episodes"
        )
    return kept


def horizon_targets(mixture: Mixture, keys: Sequence[SampleKey], horizon: Horizon) -> "Tensor":
    """Return the recorded absolute poses of samples at the fixed times, [B, H, A]."""
    rows = []
    for name, episode, start in keys:
        rows.append(
            anchors(
                **mixture.sources[name].dataset.poses(episode).recorded(),
                start=start,
                window_s=horizon.smallest_s,
                num_anchors=HORIZON_TIMES,
                rotation=mixture.config.rotation,
            )[1:]
        )
    return torch.from_numpy(np.stack(rows))


def at_horizon(
    raw_proprio: "Tensor", chunk: "Tensor", *, window_s: float, horizon: Horizon
) -> "Tensor":
    """Return an absolute chunk [B, T, A] at the fixed times, [B, H, A].

    Linear between anchors; the current pose `raw_proprio` [B, A] stands at time 0. Raises
    ValueError for a window outside the horizon's.
    """
    if not horizon.smallest_s <= window_s <= horizon.largest_s:
        raise ValueError(
            f"a window of {window_s} s is not compared on this horizon; allowed: "
            f"{horizon.smallest_s} to {horizon.largest_s} s"
        )
    points = torch.cat([raw_proprio[:, None], chunk], dim=1)
    steps = torch.arange(1, HORIZON_TIMES + 1, dtype=torch.float64) / HORIZON_TIMES
    place = steps * (horizon.smallest_s / window_s * chunk.shape[1])
    low = place.floor().long().clamp(max=chunk.shape[1] - 1)
    fraction = (place - low).to(chunk.dtype).to(chunk.device)[None, :, None]
    low = low.to(chunk.device)
    return points[:, low] + fraction * (points[:, low + 1] - points[:, low])


def _seconds_left(dataset, episode: int, start: int) -> float:
    times = dataset.episode(episode).times
    return float(times[-1] - times[start]) + 1e-9  # 4 s of frames at 10 Hz are 4 s
