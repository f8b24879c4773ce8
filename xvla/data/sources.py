"""The noun mixture: the domains that a process reads, opened once and handed to all who read them.

A mixture is asked for its domains, their order, their training episodes and their splits; nobody
else decides any of them (`xvla/domains.py` has what needs no data: names, weights, the anchor).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xvla.config import DataConfig, DomainEntry
from xvla.data.readers.base import Dataset, DatasetError, Problem
from xvla.data.readers.formats import open_with_problems
from xvla.data.splits import episodes_in, splits_of, taken
from xvla.domains import check_anchor, check_mixture, dataset_folder, domain_rows

ASKED_EPISODES = 1000
# The fields that say which sets are opened and which episodes are taken of them.
DECIDED_AT_OPEN = ("mixture", "domain_ids", "root", "roots", "split", "subset_seed")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One domain of a mixture: its dataset and the training episodes taken from it.

    domain_id: row of the domain-specific tables.
    splits [episodes]: the split of each, held out by task where the set names none.
    broken: what is wrong with the episodes that cannot be read, as far as it is known on opening.
    """

    entry: DomainEntry
    domain_id: int
    dataset: Dataset
    splits: NDArray[np.str_]
    episodes: tuple[int, ...]
    broken: Mapping[int, Problem] = field(default_factory=dict)

    @classmethod
    def open(cls, config: DataConfig, entry: DomainEntry) -> "Source":
        """Open the set of one domain; ValueError when it is not there or cannot be used."""
        path = dataset_folder(config, entry.name)
        dataset, problems = open_with_problems(path, mapping=entry.mapping)
        if any(problem.episode is None for problem in problems):
            raise DatasetError(str(path), problems)
        if not dataset.views:
            raise ValueError(f"dataset {path} has no views; a policy needs at least the main one")
        splits = splits_of(dataset, config.split)
        train = episodes_in(splits, "train", path=dataset.path)
        return cls(
            entry=entry,
            domain_id=domain_rows(config)[entry.name],
            dataset=dataset,
            splits=splits,
            episodes=tuple(taken(train, entry, subset_seed=config.subset_seed)),
            broken={p.episode: p for p in reversed(problems) if p.episode is not None},
        )

    @property
    def name(self) -> str:
        """Name of the domain."""
        return self.entry.name

    @property
    def num_frames(self) -> int:
        """Frames in the training episodes taken."""
        return int(self.dataset.episodes.lengths[list(self.episodes)].sum())

    @cached_property
    def readable(self) -> tuple[int, ...]:
        """Training episodes taken, without those known to be broken."""
        return tuple(episode for episode in self.episodes if episode not in self.broken)

    def split(self, split: str) -> list[int]:
        """Return the episodes of a split, of "train" all that there are.

        Raises ValueError when there are none, or a broken one is to be evaluated: those are fixed.
        """
        episodes = episodes_in(self.splits, split, path=self.dataset.path)
        if split == "train":
            return episodes
        if broken := [self.broken[episode] for episode in episodes if episode in self.broken]:
            raise DatasetError(self.dataset.path, broken)
        return episodes

    @cached_property
    def present(self) -> NDArray[np.bool_]:
        """[20], False on the second arm's dimensions when no episode uses it.

        Of a large set `ASKED_EPISODES`, evenly spread, are asked: a source has an arm or not.
        """
        used = np.ones(20, dtype=bool)
        count = len(self.dataset.episodes)
        episodes = (e for e in range(0, count, -(-count // ASKED_EPISODES)) if e not in self.broken)
        used[10:] = any(self.dataset.episode(e).states[:, 10:].any() for e in episodes)
        return used


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """The domains of a data configuration, open; `sources` by name, in the order it gives them.

    Episodes that cannot be read are listed in each source's `broken`, for the loader to skip and
    count.
    """

    config: DataConfig
    sources: Mapping[str, Source]

    @classmethod
    def open(cls, config: DataConfig) -> "Mixture":
        """Open every set of the mixture; call it once a process and hand the result on.

        Raises:
            ValueError: a field that cannot be, an empty mixture, a domain named twice or unknown,
                a missing dataset or one that is defective beyond single episodes, too few episodes.
        """
        check_mixture(config)
        sources = {entry.name: Source.open(config, entry) for entry in config.mixture}
        return cls(config=config, sources=sources)

    @property
    def weights(self) -> dict[str, float]:
        """Sampling weight by domain."""
        return {name: source.entry.weight for name, source in self.sources.items()}

    def anchor_first(self) -> list[Source]:
        """Return the sources in the order of evaluation; ValueError without an anchor domain."""
        check_anchor(self.config)
        anchor = self.config.anchor_domain
        return sorted(self.sources.values(), key=lambda source: source.name != anchor)

    def under(self, config: DataConfig) -> "Mixture":
        """Return the same sources under another configuration, which must have opened them too."""
        for name in DECIDED_AT_OPEN:
            if getattr(config, name) != getattr(self.config, name):
                raise TypeError(f"{name} decides what is opened; open another mixture")
        return replace(self, config=config)

    def with_fields(self, **changes: Any) -> "Mixture":
        """Return the same sources under other fields of the configuration, e.g. `blind=True`."""
        return self.under(replace(self.config, **changes))

    def alone(self, name: str, *, whole: bool = False) -> "Mixture":
        """Return one domain as a mixture of its own, its anchor; `whole`: all training episodes."""
        source = self.sources[name]
        if whole:
            entry = replace(source.entry, num_episodes=0, num_frames=None)
            source = replace(source, entry=entry, episodes=tuple(source.split("train")))
        config = replace(self.config, mixture=[source.entry], anchor_domain=name)
        return Mixture(config=config, sources={name: source})
