"""The global order of samples: a pure function of seed and position."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from xvla.data.order import BLOCK, SampleOrder, ScatteredOrder
from xvla.data.random_streams import random_stream

WEIGHTS = {"a": 0.4, "b": 0.15, "c": 0.07}
SIZES = {"a": 1000, "b": 37, "c": 411}


class Draws(list[tuple[str, Any]]):
    """The (method, first argument) of each draw from a generator that `keyed` has made."""

    def keyed(self, *words: Any, **named: Any) -> Any:
        """Make a generator whose draws are noted here."""
        return _Noted(random_stream(*words, **named), self)

    def num(self, method: str) -> int:
        """Return how often a method was called."""
        return sum(name == method for name, _ in self)


class _Noted:
    def __init__(self, generator: np.random.Generator, draws: Draws) -> None:
        self._generator, self._draws = generator, draws

    def __getattr__(self, name: str) -> Any:
        def draw(first: Any, *words: Any, **named: Any) -> Any:
            self._draws.append((name, first))
            return getattr(self._generator, name)(first, *words, **named)

        return draw


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> Draws:
    """Return what the order of samples draws."""
    found = Draws()
    monkeypatch.setattr("xvla.data.order.random_stream", found.keyed)
    return found


def _order(seed: int = 0) -> SampleOrder:
    return SampleOrder(WEIGHTS, SIZES, seed)


def test_any_stretch_in_any_order_of_asking() -> None:
    domain, start = _order().samples(0, 3 * BLOCK)
    for first, count in ((2 * BLOCK + 5, 40), (0, 1), (BLOCK - 3, 7), (10, 2 * BLOCK), (77, 16)):
        other = _order()
        for chosen in (other, other):  # asked twice: reading must not move anything
            d, s = chosen.samples(first, count)
            np.testing.assert_array_equal(d, domain[first : first + count])
            np.testing.assert_array_equal(s, start[first : first + count])
    backwards = _order()
    for first in (2 * BLOCK, BLOCK, 0):
        np.testing.assert_array_equal(backwards.samples(first, 9)[1], start[first : first + 9])


def test_seeds_differ() -> None:
    assert (_order(0).samples(0, 200)[1] != _order(1).samples(0, 200)[1]).mean() > 0.9


def test_each_pass_covers_every_start_once() -> None:
    domain, start = _order().samples(0, 20 * BLOCK)
    for number, name in enumerate(WEIGHTS):
        draws = start[domain == number]
        size = SIZES[name]
        passes = [draws[i : i + size] for i in range(0, len(draws) - size + 1, size)]
        assert len(passes) >= 20
        for one in passes:
            np.testing.assert_array_equal(np.sort(one), np.arange(size))
        assert (passes[0] != passes[1]).any()


def test_frequencies_follow_the_weights() -> None:
    count = 50 * BLOCK
    domain, _ = _order(3).samples(0, count)
    share = np.bincount(domain, minlength=3) / count
    expected = np.array(list(WEIGHTS.values())) / sum(WEIGHTS.values())
    sd = np.sqrt(expected * (1 - expected) / count)
    assert (np.abs(share - expected) < 4 * sd).all()
    # iid within a block too: runs of one domain are as long as chance makes them
    again = (domain[1:] == domain[:-1]).mean()
    np.testing.assert_allclose(again, (expected**2).sum(), atol=0.005)


def test_a_domain_keeps_its_own_order_when_others_join() -> None:
    alone = SampleOrder({"b": 1.0}, {"b": 37}, 0).samples(0, 100)[1]
    domain, start = _order().samples(0, BLOCK)
    np.testing.assert_array_equal(start[domain == 1][:100], alone)


def test_seeking_far_ahead_draws_counts_and_shuffles_one_block(draws: Draws) -> None:
    order, blocks = _order(), 1000
    domain, start = order.samples(blocks * BLOCK + 5, 64)
    assert len(domain) == len(start) == 64
    assert draws.num("multinomial") == blocks + 1  # a draw for each block before, not 4096
    assert draws.num("permutation") < 10  # its block, and the passes that it falls into
    draws.clear()
    order.samples(blocks * BLOCK + 69, 64)
    assert draws.num("multinomial") == 0  # the block is kept
    order.samples((blocks + 1) * BLOCK, 64)
    assert draws.num("multinomial") == 2  # the sum over the blocks before is kept


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="domain a has no start frame"):
        SampleOrder({"a": 1.0}, {"a": 0}, 0)


def test_keyed_streams_are_fixed_forever() -> None:
    """Run ids stand for these numbers: a change here would silently change what a run trains on."""
    first = random_stream("mixture", 0, "a").integers(0, 1000, 4).tolist()
    assert first == random_stream("mixture", 0, "a", block=0).integers(0, 1000, 4).tolist()
    assert first == [445, 702, 972, 175]
    assert random_stream("mixture", 0, "a", block=1).integers(0, 1000, 4).tolist() != first
    assert random_stream("mixture", 1, "a").integers(0, 1000, 4).tolist() != first
    assert random_stream("mixture", "0a").integers(0, 1000, 4).tolist() != first


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000, 4096, 65_537])
def test_scattered_order_is_a_permutation(size: int) -> None:
    order = ScatteredOrder(size, random_stream("test", size))
    everything = order[np.arange(size)]
    np.testing.assert_array_equal(np.sort(everything), np.arange(size))
    some = np.array([size - 1, 0, size // 2])
    np.testing.assert_array_equal(order[some], everything[some])


def test_scattered_order_looks_shuffled() -> None:
    size = 50_000
    order = ScatteredOrder(size, random_stream("test", 0))
    other = ScatteredOrder(size, random_stream("test", 1))
    places = np.arange(size)
    found = order[places]
    assert abs(np.corrcoef(places, found)[0, 1]) < 0.02
    assert abs(np.corrcoef(found[1:], found[:-1])[0, 1]) < 0.02
    assert (found == other[places]).mean() < 0.001
    # Any stretch of the order is spread evenly over the whole: chi-squared of 100 bins.
    counts = np.bincount(found[:10_000] * 100 // size, minlength=100)
    assert ((counts - 100) ** 2 / 100).sum() < 150


def test_large_domains_take_no_memory_and_no_shuffling(draws: Draws) -> None:
    tracemalloc.start()
    order = SampleOrder({"a": 0.9, "b": 0.1}, {"a": 90_000_000, "b": 7}, 0)
    domain, start = order.samples(1_000_000, 64)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**20  # a table of the start frames is 720 MB
    shuffled = [np.size(first) for name, first in draws if name == "permutation"]
    assert max(shuffled) <= BLOCK
    assert start[domain == 0].max() > 10_000_000
    np.testing.assert_array_equal(order.samples(1_000_010, 5)[1], start[10:15])


@pytest.mark.parametrize("trial", range(12))
def test_no_sample_twice_within_a_pass_over_ranks_and_resumptions(trial: int) -> None:
    """Random worlds: ranks and batch sizes change at every resumption, as on a busy cluster."""
    rng = np.random.default_rng(trial)
    names = "abc"[: rng.integers(1, 4)]
    sizes = {name: int(rng.integers(3, 400)) for name in names}
    weights = {name: float(rng.uniform(0.1, 1)) for name in names}
    seen: dict[int, list[int]] = {number: [] for number in range(len(names))}
    position = 0
    while position < 3000:
        world, batch, steps = (int(rng.integers(1, n)) for n in (9, 17, 12))
        ranks = [SampleOrder(weights, sizes, trial) for _ in range(world)]
        for _ in range(steps):
            for rank, order in enumerate(ranks):
                for d, s in zip(*order.samples(position + rank * batch, batch), strict=True):
                    seen[int(d)].append(int(s))
            position += world * batch
    for number, name in enumerate(names):
        size = sizes[name]
        for first in range(0, len(seen[number]), size):
            one_pass = seen[number][first : first + size]
            assert len(set(one_pass)) == len(one_pass)
