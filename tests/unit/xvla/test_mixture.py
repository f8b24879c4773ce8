"""The global order of samples: a pure function of seed and position."""

import time

import numpy as np
import pytest

from xvla.data.keyed import keyed_generator
from xvla.data.mixture import BLOCK, SampleOrder

WEIGHTS = {"a": 0.4, "b": 0.15, "c": 0.07}
SIZES = {"a": 1000, "b": 37, "c": 411}


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


def test_seek_far_ahead_is_quick() -> None:
    begin = time.perf_counter()
    domain, start = _order().samples(100_000_000, 64)
    assert time.perf_counter() - begin < 20  # about 1 s on an idle core
    assert len(domain) == len(start) == 64


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="the mixture is empty"):
        SampleOrder({}, {}, 0)
    for weight in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="domain a: weight = "):
            SampleOrder({"a": weight}, {"a": 3}, 0)
    with pytest.raises(ValueError, match="domain a has no start frame"):
        SampleOrder({"a": 1.0}, {"a": 0}, 0)


def test_keyed_streams_are_fixed_forever() -> None:
    """Run ids stand for these numbers: a change here would silently change what a run trains on."""
    first = keyed_generator("mixture", 0, "a").integers(0, 1000, 4).tolist()
    assert first == keyed_generator("mixture", 0, "a", block=0).integers(0, 1000, 4).tolist()
    assert first == [445, 702, 972, 175]
    assert keyed_generator("mixture", 0, "a", block=1).integers(0, 1000, 4).tolist() != first
    assert keyed_generator("mixture", 1, "a").integers(0, 1000, 4).tolist() != first
    assert keyed_generator("mixture", "0a").integers(0, 1000, 4).tolist() != first
