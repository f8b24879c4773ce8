"""Intervals cover and the floor test is honest: counted over many simulated studies."""

import numpy as np
import pytest

from analysis.fit import LawRegressor
from analysis.laws import PowerLaw
from analysis.saturation import floor_p_value
from analysis.uncertainty import ends

LAW, TRUTH = PowerLaw("N"), {"E": 0.02, "A": 9.0, "alpha": 0.35}
DESIGNS = [(5, 3), (4, 1)]
NOISES = [0.01, 0.03, 0.10]


def count_covered(levels, seeds, noise, studies, *, loss="ls", draws=300):
    """Count the studies whose 95 % intervals hold the truth, by interval."""
    x = np.repeat(np.logspace(6, 8.5, levels), seeds)
    ahead = {"N": [2 * x.max()]}
    truth = LAW.predict(TRUTH, ahead)[0]
    hits = dict.fromkeys(("boot E", "boot alpha", "ahead", "profile E", "profile alpha"), 0)
    for study in range(studies):
        rng = np.random.default_rng(study)
        y = LAW.predict(TRUTH, {"N": x}) * np.exp(noise * rng.standard_normal(len(x)))
        reg = LawRegressor(LAW, loss=loss, seed=study).fit({"N": x}, y)
        table = reg.bootstrap(draws)
        for name in ("E", "alpha"):
            low, high = ends(table[name].to_numpy())
            hits[f"boot {name}"] += low <= TRUTH[name] <= high
            low, high = reg.profile(name).interval
            hits[f"profile {name}"] += low <= TRUTH[name] <= high
        band = reg.predict(ahead, interval="confidence", num_draws=draws)
        hits["ahead"] += band["lower"][0] <= truth <= band["upper"][0]
    return hits


@pytest.mark.parametrize(("levels", "seeds", "noise"), [(5, 3, 0.03), (4, 1, 0.01)])
def test_intervals_cover_in_the_short_suite(levels, seeds, noise):
    hits = count_covered(levels, seeds, noise, 60)
    assert min(hits.values()) >= 52, hits


@pytest.mark.long
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize(("levels", "seeds"), DESIGNS)
def test_intervals_cover_over_five_hundred_studies(levels, seeds, noise):
    hits = count_covered(levels, seeds, noise, 500)
    assert min(hits.values()) >= 460, hits  # 92 %
    assert max(hits.values()) <= 490, hits  # 98 %


def p_values(floor_share, studies, *, levels=6, seeds=3, noise=0.02):
    """Return the p-values of "no floor"; the floor is a share of the last level's error."""
    x = np.repeat(1e6 * 3.0 ** np.arange(levels), seeds)
    falling = (x / x[0]) ** -0.4
    y = falling + floor_share / (1 - floor_share) * falling[-1]
    found = []
    for study in range(studies):
        rng = np.random.default_rng(study)
        noisy = np.log(y) + noise * rng.standard_normal(len(x))
        found.append(floor_p_value(np.log(x), noisy, num_draws=399, seed=study))
    return np.array(found)


def test_the_floor_tests_p_value_is_uniform_without_a_floor():
    p = np.sort(p_values(0.0, 300))
    steps = np.arange(1, len(p) + 1) / len(p)
    distance = max(np.abs(steps - p).max(), np.abs(p - steps + 1 / len(p)).max())
    assert distance < 1.63 / np.sqrt(len(p))  # Kolmogorov-Smirnov at 1 %


def test_the_floor_test_finds_a_floor_at_80_percent_of_the_last_error():
    assert np.mean(p_values(0.8, 100) <= 0.05) >= 0.8
