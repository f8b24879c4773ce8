"""The domains of a mixture as opened datasets: names, ids, and the episodes that are used."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xvla.config import DOMAIN_IDS, DataConfig, DomainEntry
from xvla.data.readers import open_dataset
from xvla.data.readers.base import Dataset, episode_lengths
from xvla.data.splits import split_episodes, training_episodes

EPISODES_LOOKED_AT = 1000
DEMO_ROOT = Path(__file__).parent / "demo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One domain of a mixture: its dataset and the training episodes taken from it."""

    entry: DomainEntry
    dataset: Dataset
    episodes: tuple[int, ...]

    @property
    def name(self) -> str:
        """Name of the domain."""
        return self.entry.name

    @property
    def num_frames(self) -> int:
        """Frames in the training episodes taken."""
        return int(episode_lengths(self.dataset)[list(self.episodes)].sum())

    def split(self, split: str) -> list[int]:
        """Return the episodes of a split; for "train" those taken."""
        return list(self.episodes) if split == "train" else split_episodes(self.dataset, split)

    def present(self) -> NDArray[np.bool_]:
        """Return [20], False on the second arm's dimensions when no episode uses it.

        Of a large set `EPISODES_LOOKED_AT`, evenly spread, are asked: a source has an arm or not.
        """
        used = np.ones(20, dtype=bool)
        count = len(self.dataset.episodes)
        step = -(-count // EPISODES_LOOKED_AT)
        episodes = range(0, count, step)
        used[10:] = any(self.dataset.episode(e).states[:, 10:].any() for e in episodes)
        return used


def domain_id(name: str) -> int:
    """Return the row of the domain-specific tables; ValueError for an unknown domain."""
    if name not in DOMAIN_IDS:
        raise ValueError(f"domain {name!r} is unknown; allowed: {', '.join(sorted(DOMAIN_IDS))}")
    return DOMAIN_IDS[name]


def dataset_root(config: DataConfig) -> Path:
    """Return the folder that holds the datasets: `config.root`, or the shipped demo sets."""
    return Path(config.root) if config.root else DEMO_ROOT


def open_sources(config: DataConfig) -> list[Source]:
    """Open the domains of the mixture, in its order.

    Datasets stay open (their poses in memory) for the life of the process.

    Raises:
        ValueError: an empty mixture, a domain named twice or unknown, a missing or defective
            dataset, too few episodes.
    """
    names = [entry.name for entry in config.mixture]
    if not names:
        raise ValueError("the mixture is empty; name at least one domain in data.mixture")
    for name in names:
        domain_id(name)
        if names.count(name) > 1:
            raise ValueError(f"domain {name!r} is in data.mixture twice; name each domain once")
    return [_source(config, entry) for entry in config.mixture]


def _source(config: DataConfig, entry: DomainEntry) -> Source:
    root = dataset_root(config)
    path = root / entry.name
    if not path.is_dir():
        metas = [*root.glob("*/meta/info.json"), *root.glob("*/*.json")]
        there = sorted({file.relative_to(root).parts[0] for file in metas})
        raise ValueError(
            f"domain {entry.name}: no dataset folder at {path}; there are "
            f"{', '.join(there) or 'none'}; record it with `scaling data simulate` or set data.root"
        )
    dataset = _open(str(path.resolve()))
    if not dataset.views:
        raise ValueError(f"dataset {path} has no views; a policy needs at least the main one")
    episodes = training_episodes(dataset, entry, subset_seed=config.subset_seed)
    return Source(entry=entry, dataset=dataset, episodes=tuple(episodes))


@lru_cache(maxsize=64)
def _open(path: str) -> Dataset:
    return open_dataset(path)
