"""Paired differences: episodes are the sample, runs are averaged first."""

import numpy as np
import pandas as pd
import pytest

from analysis.paired import paired_difference


def table(values: dict[tuple[str, int], float]) -> pd.DataFrame:
    rows = [(domain, episode, value) for (domain, episode), value in values.items()]
    return pd.DataFrame(rows, columns=["domain", "episode", "l1"])


def test_pairing_removes_what_episodes_share() -> None:
    hard = np.random.default_rng(0).uniform(1, 9, size=20)
    keys = [("a", number) for number in range(20)]
    left = table(dict(zip(keys, hard, strict=True)))
    right = table(dict(zip(keys, hard + 0.5, strict=True)))
    found = paired_difference([left], [right], metric="l1")
    assert found.difference == pytest.approx(0.5)
    assert found.sem == pytest.approx(0, abs=1e-12)
    assert found.num_episodes == 20


def test_two_seeds_are_one_sample_of_episodes() -> None:
    seeds = [table({("a", 0): 1.0, ("a", 1): 3.0}), table({("a", 0): 3.0, ("a", 1): 1.0})]
    other = [table({("a", 0): 3.0, ("a", 1): 5.0})]
    found = paired_difference(seeds, other, metric="l1")
    assert (found.reference, found.other, found.num_episodes) == (2.0, 4.0, 2)
    assert found.sem == pytest.approx(1.0)
    assert found.standard_errors == pytest.approx(2.0)


def test_domains_are_selected_and_must_exist() -> None:
    rows = table({("a", 0): 1.0, ("b", 0): 5.0})
    assert paired_difference([rows], [rows], metric="l1", domains=["b"]).reference == 5.0
    with pytest.raises(ValueError, match="no evaluation episode"):
        paired_difference([rows], [rows], metric="l1", domains=["c"])
