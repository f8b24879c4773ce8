"""Every start frame that training visits, as the loader's own index of them says."""

import numpy as np

from xvla.config import DataConfig
from xvla.data.loader import list_starts
from xvla.data.normalise import Normaliser
from xvla.data.samples import SampleKey, SampleMaker
from xvla.data.sources import Mixture


def train_frames(config: DataConfig) -> list[SampleKey]:
    """Return the (domain, episode, start) of a mixture, domain by domain."""
    maker = SampleMaker(Mixture.open(config), Normaliser())
    keys: list[SampleKey] = []
    for name in maker.sources:
        starts, _ = list_starts(maker, name)
        episodes, frames = (part.tolist() for part in starts.at(np.arange(len(starts))))
        keys += [(name, e, f) for e, f in zip(episodes, frames, strict=True)]
    return keys
