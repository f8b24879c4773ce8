"""Which frames of an episode a sample may start from."""

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
    frames = dataset.start_frames(episode, evaluate=evaluate)
    if frames is not None:
        return frames
    length = int(dataset.episodes.lengths[episode])
    return np.arange(allowed_starts(length, fps=dataset.fps, tail_s=config.start_tail_s))
