"""Episodes that cannot be read: named, counted, replaced, and too many of them stop the run."""

import logging
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xvla.data.random_streams import random_stream
from xvla.data.sources import Source

LOG = logging.getLogger("xvla.data")
NAMED = 5
TRIES = 16


class Failure(NamedTuple):
    """An episode whose poses or frames could not be read, and why."""

    domain: str
    episode: int
    message: str


class FailureCount:
    """The distinct episodes of a run that could not be read."""

    def __init__(self, sources: Mapping[str, Source], max_share: float) -> None:
        """Count against the training episodes of `sources`."""
        self.episodes: dict[tuple[str, int], str] = {}
        self._total = sum(len(source.episodes) for source in sources.values())
        self._max_share = max_share

    @property
    def share(self) -> float:
        """Return the share of the training episodes."""
        return len(self.episodes) / max(1, self._total)

    def add(self, failures: Iterable[Failure]) -> None:
        """Take in what a batch met: a warning for each new one, ValueError when they are many."""
        for failure in failures:
            key = (failure.domain, failure.episode)
            if key not in self.episodes:
                self.episodes[key] = failure.message
                LOG.warning("skipped %s episode %d: %s", *failure)
        if self.share > self._max_share:
            names = [f"{domain} episode {episode}" for domain, episode in self.episodes]
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            raise ValueError(
                f"{len(names)} of {self._total} training episodes cannot be read "
                f"({', '.join(names[:NAMED])}{more}; last: {list(self.episodes.values())[-1]}); "
                f"allowed is a share of {self._max_share}; copy them again or raise "
                "max_failed_share"
            )


def known_failures(source: Source) -> list[Failure]:
    """Return the training episodes of a source that were found broken when it was opened."""
    return [
        Failure(source.name, episode, str(source.broken[episode]))
        for episode in sorted({*source.broken} & {*source.episodes} if source.broken else ())
    ]


def replacement_rows(seed: int, domain: str, position: int, size: int) -> NDArray[np.int64]:
    """Return start frames to try, in this order, instead of the sample at `position`."""
    return random_stream("replace", seed, domain, block=position).integers(0, size, TRIES)
