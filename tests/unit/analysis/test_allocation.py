"""The best split of a budget, against brute force."""

import numpy as np
import pytest

from analysis.allocation import _Split, optimal_allocation, six_nd
from analysis.fit import LawRegressor
from analysis.laws import Additive, Chinchilla

TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}
THREE = Additive(("a", "b", "c"))
VALUES = {
    "E": 0.1, "A_a": 2.0, "A_b": 5.0, "A_c": 1.0, "alpha_a": 0.3, "alpha_b": 0.6, "alpha_c": 0.9,
}  # fmt: skip


def volume(*, a, b, c):
    return 3.0 * a * b**1.5 * c**0.5


@pytest.mark.parametrize("seed", range(12))
def test_closed_form_with_limits_is_what_a_numerical_search_finds(seed):
    rng = np.random.default_rng(seed)
    low = 10.0 ** rng.uniform(0, 1, 3)
    limits = {
        k: (float(x), float(x * 10 ** rng.uniform(0.2, 3))) for k, x in zip("abc", low, strict=True)
    }
    most = volume(**{k: v[1] for k, v in limits.items()})
    least = volume(**{k: v[0] for k, v in limits.items()})
    budget = float(np.exp(rng.uniform(np.log(least) + 0.1, np.log(most) + 0.5)))
    found = optimal_allocation(THREE, budget, cost=volume, params=VALUES, limits=limits)
    assert found.method == "closed form"
    assert found.cost <= budget * (1 + 1e-9)
    box = {k: tuple(np.log(v)) for k, v in limits.items()}
    split = _Split(THREE, VALUES, float(np.log(budget)), volume, box)
    assert np.log(found.predicted) <= split.log_error(split.search()) + 1e-9


def test_chinchillas_split_is_hoffmanns_formula_exactly():
    found = optimal_allocation(Chinchilla(), 1e21, cost=six_nd, params=TRUTH)
    g = (0.35 * 480 / (0.37 * 2100)) ** (1 / 0.72)
    assert found.axes["N"] == pytest.approx(g * (1e21 / 6) ** (0.37 / 0.72), rel=1e-10)
    assert found.cost == pytest.approx(1e21, rel=1e-10)


def test_a_cost_that_is_no_product_is_searched():
    def cost(*, N, D):
        return 6 * N * D + 1e12 * D

    found = optimal_allocation(Chinchilla(), 1e24, cost=cost, params=TRUTH)
    assert found.method == "SLSQP"
    n = np.logspace(8, 13, 4001)
    d = 1e24 / (6 * n + 1e12)
    assert found.predicted <= Chinchilla().predict(TRUTH, {"N": n, "D": d}).min() * (1 + 1e-9)


def test_an_optimum_outside_the_data_says_how_far():
    n, d = (v.ravel() for v in np.meshgrid(np.logspace(7, 9, 4), np.logspace(9, 11, 4)))
    X = {"N": n, "D": d}
    reg = LawRegressor(Chinchilla()).fit(X, Chinchilla().predict(TRUTH, X))
    found = optimal_allocation(reg, 1e24, cost=six_nd)
    assert found.beyond_data["N"] == pytest.approx(found.axes["N"] / 1e9, rel=1e-6)
    inside = optimal_allocation(reg, 6e18, cost=six_nd)
    assert inside.beyond_data == {}


def test_budgets_and_limits_that_are_none_are_refused():
    with pytest.raises(ValueError, match="positive number"):
        optimal_allocation(Chinchilla(), -1.0, cost=six_nd, params=TRUTH)
    with pytest.raises(ValueError, match="0 < least"):
        optimal_allocation(Chinchilla(), 1e20, cost=six_nd, params=TRUTH, limits={"N": (9, 2)})
    with pytest.raises(ValueError, match="params="):
        optimal_allocation(Chinchilla(), 1e20, cost=six_nd)
    with pytest.raises(ValueError, match="must be positive"):
        optimal_allocation(Chinchilla(), 1e20, cost=lambda N, D: -1.0, params=TRUTH)
