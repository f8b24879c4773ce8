"""Which frames of an episode a sample may start from, and the poses that its anchors come from."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xvla.config import DataConfig
from xvla.data.readers.base import Dataset
from xvla.data.resample import allowed_starts


def candidate_starts(
    dataset: Dataset, episode: int, config: DataConfig, *, evaluate: bool = False
) -> NDArray[np.int64]:
    """Return the frames a sample may start from, before strides and static starts.

    A set that follows one of the released sources has its own range and stride (X-VLA's data
    table); any other leaves `start_tail_s` at its end free.
    """
    own_rule = getattr(dataset, "start_frames", None)
    frames = own_rule(episode, evaluate=evaluate) if own_rule else None
    if frames is not None:
        return frames
    length = dataset.episodes[episode].length
    return np.arange(allowed_starts(length, fps=dataset.fps, tail_s=config.start_tail_s))


def has_arm_clocks(dataset: Any) -> bool:
    """Return whether the arms of a source have clocks of their own."""
    rule = getattr(dataset, "rule", None)
    return rule is not None and any(arm.time_key for arm in rule.arms)


def recorded_poses(dataset: Any, episode: int) -> dict[str, NDArray[Any]]:
    """Return times [n] and states [n, 20] of an episode as anchors are made of them.

    Arms with clocks of their own have arm_times [n, 2] as well. Raises ValueError as readers do.
    """
    if not has_arm_clocks(dataset):
        times, states, _ = dataset.episode(episode)
        return {"times": times, "states": states}
    poses = dataset.poses(episode)
    return {"times": poses.times, "states": poses.arm_states, "arm_times": poses.arm_times}
