"""No better optimum is known than the one the defaults find; LAD ends on a corner."""

import numpy as np
import pandas as pd
import pytest

from analysis.fit import LawRegressor
from analysis.laws import Additive, Chinchilla, PowerLaw
from analysis.solving.lad import polish_lad
from analysis.solving.solver import minimise


def simulated(seed):
    """Return a law, a table and errors, some of them with heavy tails."""
    rng = np.random.default_rng(seed)
    law = (PowerLaw("N"), Chinchilla(), Chinchilla(tied=True), Additive(("a", "b", "c")))[seed % 4]
    rows = int(rng.integers(12, 60))
    if len(law.axes) == 1:
        X = pd.DataFrame({"N": np.repeat(10.0 ** rng.uniform(3, 8, 7), 2)})
    else:
        X = pd.DataFrame({a: 10.0 ** rng.uniform(0, 4, rows) for a in law.axes})
    share, params = rng.dirichlet(np.ones(len(law.terms))), {}
    for term, part in zip(law.terms, share, strict=True):
        params[term.amplitude] = part
        if term.exponent:
            alpha = params.setdefault(term.exponent, float(rng.uniform(0.1, 1.0)))
            params[term.amplitude] = part * np.exp(alpha * np.log(X[term.axis]).mean())
    noise = rng.standard_t(2, len(X)) if rng.random() < 0.4 else rng.standard_normal(len(X))
    return law, X, law.predict(params, X) * np.exp(0.02 * noise)


def best_of_many(reg, starts=40):
    """Return the least cost from random starts, polished."""
    rng = np.random.default_rng(1)
    data, names = reg.data_, reg.law.param_names
    theta = rng.uniform(-1, 3, size=(starts, len(names)))
    for j, name in enumerate(names):
        if name in reg.law.positive:
            theta[:, j] = np.log(np.median(data.y)) + rng.uniform(-4, 0.5, starts)
    how = {"target": data.target, "weights": data.weights, "rho": reg.rho}
    found = minimise(reg._objective, theta, free=np.ones(len(names), dtype=bool), **how)
    theta = found.theta[np.argsort(found.cost)[:8]]
    if reg.loss == "lad":
        theta = np.array([polish_lad(reg._objective, t, data.target, data.weights) for t in theta])
    return reg._objective.cost(theta, **how).min()


@pytest.mark.parametrize("loss", ["huber", "lad", "ls"])
@pytest.mark.parametrize("seed", range(8))
def test_random_starts_find_nothing_better(seed, loss):
    law, X, y = simulated(seed)
    reg = LawRegressor(law, loss=loss).fit(X, y)
    assert reg.cost_ <= best_of_many(reg) * (1 + 1e-9)


def test_lad_passes_through_as_many_points_as_it_has_parameters():
    law, X, y = simulated(1)
    reg = LawRegressor(law, loss="lad").fit(X, y)
    met = np.abs(reg.residuals_) < 1e-9 * np.abs(reg.residuals_).mean()
    assert met.sum() == len(law.param_names)


def test_the_median_of_levels_is_met_without_a_floor():
    x = np.repeat([1.0, 10.0, 100.0], 3)
    y = np.array([0.9, 1.0, 1.2, 0.45, 0.5, 0.7, 0.24, 0.25, 0.26])
    reg = LawRegressor(PowerLaw("x", offset=False), loss="lad").fit({"x": x}, y)
    assert reg.predict({"x": [1.0, 10.0, 100.0]}) == pytest.approx([1.0, 0.5, 0.25], rel=1e-9)


def test_a_large_table_is_fitted_like_a_small_one():
    rng = np.random.default_rng(0)
    X = {"N": 10 ** rng.uniform(6, 10, 100_000), "D": 10 ** rng.uniform(8, 12, 100_000)}
    truth = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}
    y = Chinchilla().predict(truth, X) * np.exp(0.02 * rng.standard_normal(100_000))
    for loss in ("huber", "ls"):
        fit = LawRegressor(Chinchilla(), loss=loss).fit(X, y)
        assert fit.converged_
        assert fit.params_ == pytest.approx(truth, rel=0.02)


def test_scikit_learns_clone_works():
    base = pytest.importorskip("sklearn.base")
    reg = LawRegressor(Additive(("a", "b")), delta=0.01, fixed={"E": 0.0})
    twin = base.clone(reg)
    assert twin is not reg
    assert twin.get_params() == reg.get_params()


def nearly_flat(seed):
    """Return three axes along which errors hardly change, one of them rising: simulated."""
    rng = np.random.default_rng(seed)
    levels = np.geomspace(6e7, 2e9, 4), np.geomspace(20, 300, 3), np.geomspace(1, 7, 3)
    X = pd.DataFrame({k: v.ravel() for k, v in zip("abc", np.meshgrid(*levels), strict=True)})
    y = 0.03 + 0.1 * X["a"] ** -0.2 + 0.05 * X["b"] ** -0.01 + 0.01 * X["c"] ** 0.1
    return X, y * np.exp(0.03 * rng.standard_normal(len(X)))


@pytest.mark.parametrize("loss", ["huber", "ls"])
@pytest.mark.parametrize("seed", [1, 2, 5])
def test_no_term_left_out_of_flat_data_does_better_than_the_fit(seed, loss):
    X, y = nearly_flat(seed)
    law = Additive(("a", "b", "c"))
    reg = LawRegressor(law, loss=loss).fit(X, y)
    assert reg.converged_
    for name in ("E", "A_a", "A_b", "A_c"):
        held = LawRegressor(law, loss=loss, fixed={name: 0.0}).fit(X, y)
        assert reg.cost_ <= held.cost_ * (1 + 1e-9)


@pytest.mark.parametrize(
    ("seed", "loss", "link"),
    [(6, "huber", "logit"), (7, "huber", "logit"), (24, "huber", "logit"), (20, "ls", "log")],
)
def test_a_step_is_fitted_as_well_as_at_the_bound_of_the_exponent(seed, loss, link):
    rng = np.random.default_rng(seed)
    X = pd.DataFrame({"N": np.repeat(np.geomspace(1e6, 1e8, 5), 2)})
    y = np.where(X["N"] < 2e6, 0.9, 0.3) * np.exp(0.005 * rng.exponential(size=10))
    how = {"loss": loss, "link": link, "delta": 0.01}
    free = LawRegressor(PowerLaw("N"), **how).fit(X, y)
    held = LawRegressor(PowerLaw("N"), fixed={"alpha": 10.0}, **how).fit(X, y)
    assert free.converged_
    assert free.cost_ <= held.cost_ * (1 + 1e-9)


def test_lad_reopens_a_term_that_vanished_on_the_way():
    rng = np.random.default_rng(37)
    X = pd.DataFrame({axis: np.exp(rng.uniform(0, 3.4, 80)) for axis in "ab"})
    noise = 0.01 * rng.standard_normal(80) + (rng.random(80) < 0.06) * rng.exponential(0.3, 80)
    y = (0.3 * X["a"] ** -0.7 + 0.3 * X["b"] ** -0.85) * np.exp(noise)
    reg = LawRegressor(Additive(("a", "b")), loss="lad").fit(X, y)
    data = reg.data_
    how = {"target": data.target, "weights": data.weights, "rho": reg.rho}
    for share in (0.003, 0.01, 0.03):
        start = reg._theta.copy()
        start[0] = np.log(share * np.median(y))
        found = polish_lad(reg._objective, start, data.target, data.weights)
        assert reg.cost_ <= reg._objective.cost(found[None], **how)[0] * (1 + 1e-9)


def test_scikit_learns_searches_and_cross_validation_work():
    selection = pytest.importorskip("sklearn.model_selection")
    x = np.geomspace(1e6, 1e9, 20)
    X, y = pd.DataFrame({"N": x}), 0.02 + 9 * x**-0.35
    scores = selection.cross_val_score(LawRegressor(PowerLaw("N")), X, y, cv=4)
    assert scores == pytest.approx(np.ones(4), abs=1e-6)
    grid = selection.GridSearchCV(LawRegressor(PowerLaw("N")), {"loss": ["ls", "huber"]}, cv=3)
    assert grid.fit(X, y).best_params_["loss"] in ("ls", "huber")
