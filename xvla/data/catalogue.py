"""The domains of a mixture as opened datasets: names, ids, and the episodes that are used."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xvla.config import DOMAIN_IDS, DataConfig, DomainEntry
from xvla.data.readers.base import Dataset, DatasetError, Problem, episode_lengths
from xvla.data.readers.formats import open_with_problems
from xvla.data.splits import split_episodes, training_episodes

EPISODES_LOOKED_AT = 1000
DEMO_ROOT = Path(__file__).parent / "demo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One domain of a mixture: its dataset and the training episodes taken from it.

    broken: what is wrong with the episodes that cannot be read, as far as it is known on opening.
    """

    entry: DomainEntry
    dataset: Dataset
    episodes: tuple[int, ...]
    broken: Mapping[int, Problem] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the domain."""
        return self.entry.name

    @property
    def num_frames(self) -> int:
        """Frames in the training episodes taken."""
        return int(episode_lengths(self.dataset)[list(self.episodes)].sum())

    @property
    def readable(self) -> tuple[int, ...]:
        """Training episodes taken, without those known to be broken."""
        if not self.broken:
            return self.episodes
        return tuple(episode for episode in self.episodes if episode not in self.broken)

    def split(self, split: str) -> list[int]:
        """Return the episodes of a split; for "train" those taken.

        Raises ValueError when there are none, or a broken one is to be evaluated: those are fixed.
        """
        if split == "train":
            return list(self.episodes)
        episodes = split_episodes(self.dataset, split)
        if broken := [self.broken[episode] for episode in episodes if episode in self.broken]:
            raise DatasetError(self.dataset.path, broken)
        return episodes

    def present(self) -> NDArray[np.bool_]:
        """Return [20], False on the second arm's dimensions when no episode uses it.

        Of a large set `EPISODES_LOOKED_AT`, evenly spread, are asked: a source has an arm or not.
        """
        used = np.ones(20, dtype=bool)
        count = len(self.dataset.episodes)
        step = -(-count // EPISODES_LOOKED_AT)
        episodes = (e for e in range(0, count, step) if e not in self.broken)
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

    Datasets stay open (their poses in memory) for the life of the process. Episodes that cannot be
    read are listed in `broken`, for the loader to skip and count.

    Raises:
        ValueError: an empty mixture, a domain named twice or unknown, a missing dataset or one
            that is defective beyond single episodes, too few episodes.
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
    dataset, broken = _open(str(path.resolve()), _stamp(path))
    if not dataset.views:
        raise ValueError(f"dataset {path} has no views; a policy needs at least the main one")
    episodes = training_episodes(dataset, entry, subset_seed=config.subset_seed)
    return Source(entry=entry, dataset=dataset, episodes=tuple(episodes), broken=broken)


@lru_cache(maxsize=64)
def _open(path: str, stamp: tuple) -> tuple[Dataset, dict[int, Problem]]:
    """Open a dataset once for each state of its meta files; return its broken episodes as well."""
    dataset, problems = open_with_problems(path)
    if any(problem.episode is None for problem in problems):
        raise DatasetError(path, problems)
    return dataset, {p.episode: p for p in reversed(problems) if p.episode is not None}


def _stamp(path: Path) -> tuple:
    """Return what changes when the meta files of a dataset are written again."""
    files = [*path.glob("*.json"), *path.glob("meta/*"), *path.glob("meta/episodes/*/*")]
    states = ((file.as_posix(), file.stat()) for file in sorted(files))
    return tuple((name, status.st_size, status.st_mtime_ns) for name, status in states)
