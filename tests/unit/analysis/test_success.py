"""Success rates as counts, and whether an error foretells them: on simulated episodes."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.laws import PowerLaw
from analysis.success.correlation import correlation_study, kendall
from analysis.success.rates import exact_interval, fit_failures, success_rates


def runs(seed=0, count=20, trials=50, slope=1.0):
    rng = np.random.default_rng(seed)
    error = rng.uniform(0.02, 0.08, count)
    p = np.clip(0.9 - slope * 8 * (error - 0.02), 0.02, 0.98)
    table = pd.DataFrame({"run_id": [f"{i:x}" for i in range(count)], "val_l1": error})
    table["trials"] = trials
    table["successes"] = rng.binomial(trials, p)
    return table.assign(success_rate=table["successes"] / trials)


def test_kendalls_coefficient_is_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, 15).astype(float), rng.standard_normal(15)
    assert kendall(a[None], b[None])[0] == pytest.approx(stats.kendalltau(a, b).statistic)


def test_a_real_relation_is_found_and_the_same_seed_says_the_same():
    table = runs()
    found = correlation_study(table, successes="successes", trials="trials", alternative="less")
    assert found.spearman_interval[1] < 0
    assert found.p_value < 0.01
    assert found.corrected <= found.spearman < 0
    assert found == correlation_study(
        table.sample(frac=1, random_state=1),
        successes="successes",
        trials="trials",
        alternative="less",
    )
    json.dumps(found.to_dict())


def test_the_permutation_test_is_uniform_where_nothing_is_related():
    rng = np.random.default_rng(3)
    p = []
    for _ in range(200):
        table = pd.DataFrame({"val_l1": rng.random(7), "success_rate": rng.random(7)})
        p.append(correlation_study(table, num_draws=50).p_value)
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.06)
    assert np.mean(p) == pytest.approx(0.5, abs=0.07)


def test_the_interval_of_spearmans_coefficient_covers():
    truth = 6 / np.pi * np.arcsin(-0.6 / 2)  # Spearman's rho of a normal pair, rho = -0.6
    hits = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        a = rng.standard_normal(40)
        b = -0.6 * a + 0.8 * rng.standard_normal(40)
        table = pd.DataFrame({"val_l1": a, "success_rate": b})
        low, high = correlation_study(table, num_draws=400, seed=seed).spearman_interval
        hits += low <= truth <= high
    assert hits >= 52


def test_unusable_tables_are_refused_with_the_count():
    with pytest.raises(ValueError, match="3 runs"):
        correlation_study(runs(count=3))
    with pytest.raises(ValueError, match="constant over 20 runs"):
        correlation_study(runs().assign(success_rate=0.5))
    with pytest.raises(ValueError, match="no columns"):
        correlation_study(runs(), y="speed")
    with pytest.raises(ValueError, match="needs trials"):
        correlation_study(runs(), successes="successes")
    with pytest.raises(ValueError, match="below 0 or above"):
        correlation_study(runs().assign(successes=99), successes="successes", trials="trials")
    notes = correlation_study(runs(count=6)).notes
    assert [n.code for n in notes] == ["few_runs"]


def test_exact_intervals_are_scipys_and_closed_at_the_ends():
    k, n = np.array([0, 3, 10]), np.array([10, 10, 10])
    low, high = exact_interval(k, n)
    for i in range(3):
        want = stats.binomtest(int(k[i]), int(n[i])).proportion_ci()
        assert (low[i], high[i]) == pytest.approx((want.low, want.high))
    for bad in ((11, 10), (-1, 10), (1.5, 10), (0, 0)):
        with pytest.raises(ValueError, match="whole numbers"):
            exact_interval(np.array([bad[0]]), np.array([bad[1]]))


def test_runs_that_differ_beyond_chance_are_told():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"size": np.repeat(["a", "b"], 8), "rollouts": 100})
    same = rows.assign(successes=rng.binomial(100, 0.6, 16))
    wild = rows.assign(successes=rng.binomial(100, rng.uniform(0.3, 0.9, 16)))
    calm, spread = (success_rates(t, by=["size"]) for t in (same, wild))
    assert calm.p_value > 0.01
    assert spread.p_value < 1e-6
    assert spread.overdispersion > 3
    pooled = same.groupby("size")["successes"].sum() / 800
    assert calm.to_frame()["rate"].tolist() == pytest.approx(pooled.tolist())


def test_failures_are_fitted_by_their_likelihood_even_at_none_and_all():
    law, truth = PowerLaw("N", offset=False), {"A": 8.0, "alpha": 0.25}
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"N": np.repeat(np.logspace(4, 9, 6), 40)})
    rows["rollouts"] = 20
    rows["successes"] = 20 - rng.binomial(20, law.predict(truth, rows))
    assert (rows["successes"] == 20).any()
    reg = fit_failures(rows, law)
    assert reg.params_["alpha"] == pytest.approx(0.25, abs=0.015)
    low, high = reg.profile("alpha").interval
    assert low < 0.25 < high
    with pytest.raises(ValueError, match="whole numbers"):
        fit_failures(rows.assign(successes=30), law)
