"""Which episodes are trained on: a seeded, nested prefix of the training split of a domain."""

import numpy as np

from xvla.config import DomainEntry
from xvla.data.keyed import keyed_generator
from xvla.data.readers.base import Dataset, episode_splits


def split_episodes(dataset: Dataset, split: str) -> list[int]:
    """Return the episode numbers of a split; ValueError when the dataset has none in it."""
    splits = episode_splits(dataset)
    chosen = np.flatnonzero(splits == split).tolist()
    if not chosen:
        known = sorted(set(splits.tolist()) - {""})
        raise ValueError(
            f"dataset {dataset.path} has no episodes in split {split!r}; it has "
            f"{', '.join(known) or 'no splits'}; name them in meta/info.json under splits"
        )
    return chosen


def training_episodes(dataset: Dataset, entry: DomainEntry, *, subset_seed: int) -> list[int]:
    """Return the training episodes that `entry` takes of its domain, in ascending order.

    The first `num_episodes` (0: all) of a permutation keyed by (subset_seed, domain): a smaller
    number is always a subset of a larger one.

    Raises:
        ValueError: fewer training episodes than asked for.
    """
    episodes = split_episodes(dataset, "train")
    if not 0 <= entry.num_episodes <= len(episodes):
        raise ValueError(
            f"domain {entry.name}: num_episodes = {entry.num_episodes}, but it has "
            f"{len(episodes)} training episodes; give 0 (all) to {len(episodes)}"
        )
    order = keyed_generator("subset", subset_seed, entry.name).permutation(len(episodes))
    taken = order[: entry.num_episodes or len(episodes)]
    return sorted(np.asarray(episodes)[taken].tolist())
