"""Verdicts and designs on simulated studies whose truth is known."""

import numpy as np
import pandas as pd
import pytest

from analysis.design import design_next, isoflop, optimal_allocation, six_nd
from analysis.laws import Chinchilla, PowerLaw
from analysis.saturation import floor_p_value, saturation_test
from analysis.select import backtest, compare_laws, default_laws
from analysis.uncertainty import noise_floor

TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}


def ladder(floor_share, *, levels=6, seeds=3, noise=0.02, seed=0, step=3.0, alpha=0.4):
    """Levels with several seeds; the floor is a share of the last level's error."""
    rng = np.random.default_rng(seed)
    x = np.repeat(1e6 * step ** np.arange(levels), seeds)
    falling = (x / x[0]) ** -alpha
    floor = floor_share / (1 - floor_share) * falling[-1]
    y = (falling + floor) * np.exp(noise * rng.standard_normal(len(x)))
    return pd.DataFrame({"run_id": [f"{i:x}" for i in range(len(x))], "N": x, "val_l1": y})


def test_floor_test_is_uniform_without_a_floor_and_powerful_with_one():
    def share_rejected(floor_share):
        tables = [ladder(floor_share, seed=s) for s in range(80)]
        p = [
            floor_p_value(np.log(t["N"].to_numpy()), np.log(t["val_l1"].to_numpy()), num_draws=199)
            for t in tables
        ]
        return np.mean(np.array(p) <= 0.05), np.mean(p)

    rejected, mean = share_rejected(0.0)
    assert rejected <= 0.13
    assert 0.4 < mean < 0.6
    assert share_rejected(0.8)[0] >= 0.8


@pytest.mark.parametrize(
    ("share", "verdict"), [(0.8, "saturated"), (0.0, "not saturated")], ids=str
)
def test_verdicts_on_known_truth(share, verdict):
    found = saturation_test(ladder(share), "N", num_draws=300)
    assert found.verdict == verdict
    low, high = found.next_doubling_interval
    assert low < found.next_doubling < high
    assert found.to_dict()["estimator"] == "ls on log residuals"


def test_two_levels_are_undecidable_with_a_reason():
    found = saturation_test(ladder(0.5, levels=2), "N")
    assert found.verdict == "undecidable"
    assert "2 levels" in found.reason


def test_comparison_prefers_the_form_that_made_the_data():
    for share, best in ((0.7, "E + A / N^alpha"), (0.0, "A / N^alpha")):
        found = compare_laws(ladder(share), default_laws("N"))
        assert found.best == best
        assert sum(r.weight for r in found.rows) == pytest.approx(1)
    flat = [compare_laws(ladder(0.0, alpha=0.0, seed=s), default_laws("N")) for s in range(4)]
    assert sum(found.best == "E" for found in flat) >= 3


def test_backtest_forecasts_a_power_law_within_its_noise():
    found = backtest(ladder(0.0), PowerLaw("N", offset=False), by="N")
    assert found.num_predictions == 12
    assert found.mare < 0.04
    assert found.coverage >= 0.75
    with pytest.raises(ValueError, match="never guessed"):
        backtest(ladder(0.0), PowerLaw("N"), by="compute")


def test_noise_floor_is_the_noise_that_was_put_in():
    found = noise_floor(ladder(0.5, seeds=30), cells=["N"])
    assert found.sigma == pytest.approx(0.02, rel=0.15)
    assert found.interval[0] < 0.02 < found.interval[1]
    with pytest.raises(ValueError, match="two seeds"):
        noise_floor(ladder(0.5, seeds=1), cells=["N"])


def test_allocation_agrees_with_the_closed_form():
    budget = 1e21
    found = optimal_allocation(Chinchilla(), budget, cost=six_nd, params=TRUTH)
    g = (0.35 * 480 / (0.37 * 2100)) ** (1 / 0.72)
    assert found.axes["N"] == pytest.approx(g * (budget / 6) ** (0.37 / 0.72), rel=1e-4)
    assert found.cost == pytest.approx(budget, rel=1e-6)


def test_allocation_respects_limits():
    found = optimal_allocation(
        Chinchilla(), 1e21, cost=six_nd, params=TRUTH, limits={"N": (1e6, 1e9), "D": (1e6, 1e13)}
    )
    assert found.axes["N"] == pytest.approx(1e9, rel=1e-6)
    assert found.at_limit == ("N",)
    with pytest.raises(ValueError, match="less than the least cost"):
        optimal_allocation(Chinchilla(), 1e9, cost=six_nd, params=TRUTH, limits={"N": (1e9, 1e10)})


def test_isoflop_finds_the_exponent_and_counts_edges():
    c = np.repeat([1e17, 1e18, 1e19, 1e20], 7)
    centre = 0.32 * (c / 6) ** (0.37 / 0.72)
    centre[-7:] *= 300  # only sizes far above the optimum: its minimum lies at the edge
    n = centre * np.tile(np.logspace(-1, 1, 7), 4)
    table = pd.DataFrame({"N": n, "D": c / (6 * n), "compute_flops": c})
    table["val_l1"] = Chinchilla().predict(TRUTH, table)
    found = isoflop(table)
    assert found.num_edge == 1
    assert len(found.minima) == 3
    assert found.exponent == pytest.approx(0.37 / 0.72, rel=0.05)


def test_next_runs_are_bought_where_they_teach_most_for_their_price():
    candidates = pd.DataFrame({"N": [1e6, 1e8, 1e9], "gpu_hours": [1.0, 1.0, 1.0]})
    found = design_next(ladder(0.3), 2.0, candidates, law=PowerLaw("N"))
    assert found["N"].iloc[0] == 1e9
    assert found["spent"].tolist() == [1.0, 2.0]
    assert (found["sd_after"] <= found["sd_before"]).all()
    assert found["sd_before"].iloc[1] == pytest.approx(found["sd_after"].iloc[0])
