"""The global order of samples: sample i is a pure function of (mixture, seed) and i.

Rank, world size, batch size and length of the run play no part: they only decide who takes which
stretch of the one order. Position is a single integer.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from xvla.data.random_streams import random_stream

# Domains are drawn in blocks of this many samples, so that a position can be reached by adding up
# the blocks' counts instead of drawing every sample before it.
BLOCK = 4096
# A pass over more start frames than this is shuffled by a formula: its table would take longer to
# make than the first sample may take, and 8 bytes a start frame in every process.
LARGEST_TABLE = 2**22
ROUNDS = 6
# Shuffled passes kept in memory, per domain: the current one and the one just ended.
KEPT_PASSES = 2


class SampleOrder:
    """Domains by weight and, within a domain, shuffled passes over all its start frames.

    weights: relative sampling weight of each domain (above 0, normalised here).
    sizes:   number of start frames of each domain, in the same keys.
    Within a pass no start frame comes twice and none is left out; each pass is shuffled anew.
    """

    def __init__(self, weights: Mapping[str, float], sizes: Mapping[str, int], seed: int) -> None:
        """Raise ValueError for a domain without a start frame."""
        _check(sizes)
        self.names = tuple(weights)
        self.seed = seed
        self._sizes = np.array([sizes[name] for name in self.names], dtype=np.int64)
        share = np.array([weights[name] for name in self.names], dtype=np.float64)
        self._share = share / share.sum()
        self._passes: list[dict[int, NDArray[np.int64] | ScatteredOrder]] = [{} for _ in self.names]
        self._drawn: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None
        self._block = 0
        self._before = np.zeros(len(self.names), dtype=np.int64)

    def samples(self, first: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (domain, start) of samples first..first + count: numbers into names and starts."""
        domain, draw = self._draws(first, count)
        start = np.empty(count, dtype=np.int64)
        for number in np.unique(domain):
            mine = np.flatnonzero(domain == number)
            start[mine] = self._starts(int(number), draw[mine])
        return domain, start

    def _draws(self, first: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return each sample's domain and how many samples of that domain came before it."""
        blocks = range(first // BLOCK, (first + count - 1) // BLOCK + 1)
        domains, draws = zip(*(self._drawn_block(block) for block in blocks), strict=True)
        part = slice(first % BLOCK, first % BLOCK + count)
        return np.concatenate(domains)[part], np.concatenate(draws)[part]

    def _drawn_block(self, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if self._drawn is None or self._drawn[0] != block:
            before = self._counts_before(block)
            domain = self._block_domains(block)
            draw = np.empty(BLOCK, dtype=np.int64)
            for number in range(len(self.names)):
                mine = np.flatnonzero(domain == number)
                draw[mine] = before[number] + np.arange(len(mine))
            self._drawn = (block, domain, draw)
        return self._drawn[1], self._drawn[2]

    def _block_counts(self, block: int) -> tuple[NDArray[np.int64], np.random.Generator]:
        generator = random_stream("mixture", self.seed, *self.names, block=block)
        return generator.multinomial(BLOCK, self._share), generator

    def _block_domains(self, block: int) -> NDArray[np.int64]:
        """Return the domains of a block: multinomial counts in random order are iid draws."""
        counts, generator = self._block_counts(block)
        return generator.permutation(np.repeat(np.arange(len(self.names)), counts))

    def _counts_before(self, block: int) -> NDArray[np.int64]:
        if block < self._block:
            self._block, self._before = 0, np.zeros_like(self._before)
        while self._block < block:
            self._before = self._before + self._block_counts(self._block)[0]
            self._block += 1
        return self._before

    def _starts(self, number: int, draw: NDArray[np.int64]) -> NDArray[np.int64]:
        passes, places = np.divmod(draw, self._sizes[number])
        start = np.empty(len(draw), dtype=np.int64)
        for turn in np.unique(passes):
            mine = passes == turn
            start[mine] = self._pass(number, int(turn))[places[mine]]
        return start

    def _pass(self, number: int, turn: int) -> "NDArray[np.int64] | ScatteredOrder":
        kept = self._passes[number]
        if turn not in kept:
            generator = random_stream("pass", self.seed, self.names[number], block=turn)
            size = int(self._sizes[number])
            kept[turn] = (
                generator.permutation(size)
                if size <= LARGEST_TABLE
                else ScatteredOrder(size, generator)
            )
            while len(kept) > KEPT_PASSES:
                del kept[max(kept, key=lambda other: abs(other - turn))]
        return kept[turn]


class ScatteredOrder:
    """A permutation of 0..size - 1 that is computed place by place, in no memory.

    A Feistel network of `ROUNDS` keyed rounds permutes the next larger power of four; a place that
    lands beyond `size` goes through it again until it does not (cycle walking), which keeps it a
    permutation: Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002.
    """

    def __init__(self, size: int, generator: np.random.Generator) -> None:
        """Draw the keys of the rounds."""
        self.size = size
        self._half = max(1, ((size - 1).bit_length() + 1) // 2)
        self._keys = generator.integers(0, 2**64, ROUNDS, dtype=np.uint64)

    def __getitem__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return what stands at `places`."""
        values = self._network(np.asarray(places).astype(np.uint64))
        while (beyond := values >= self.size).any():
            values[beyond] = self._network(values[beyond])
        return values.astype(np.int64)

    def _network(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        half = np.uint64(self._half)
        mask = np.uint64(2**self._half - 1)
        left, right = values >> half, values & mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        return (left << half) | right


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return values scattered over all 64 bits (the finaliser of SplitMix64)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))


def _check(sizes: Mapping[str, int]) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(
                f"domain {name} has no start frame to train on: all of its episodes stand still "
                "or are shorter than the start tail; take more episodes or other ones"
            )
