"""What users get wrong: each mistake is a ValueError that names it, never a silent number."""

import numpy as np
import pandas as pd
import pytest

from analysis.allocation import optimal_allocation, six_nd
from analysis.design import design_next, isoflop
from analysis.fit import LawRegressor
from analysis.laws import BrokenPowerLaw, Chinchilla, Constant, PowerLaw
from analysis.saturation import saturation_test
from analysis.select import backtest, compare_laws, default_laws
from analysis.success.correlation import correlation_study
from analysis.success.rates import exact_interval, success_rates
from analysis.uncertainty import noise_floor

LAW = PowerLaw("N")
TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}
OFFERS = pd.DataFrame({"N": [1e9, 2e9], "gpu_hours": [10.0, 20.0]})


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    x = np.repeat(np.geomspace(1e6, 1e8, 5), 3)
    y = (0.02 + 9 * x**-0.35) * np.exp(0.02 * rng.standard_normal(15))
    runs = [f"r{i}" for i in range(15)]
    return pd.DataFrame({"run_id": runs, "N": x, "val_l1": y, "compute_flops": x * 1e9})


@pytest.fixture(scope="module")
def fitted(table):
    return LawRegressor(LAW).fit(table, table["val_l1"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"law": "chinchilla"}, "give a law of analysis.laws"),
        ({"delta": "1e-3"}, "positive number"),
        ({"delta": float("inf")}, "positive number"),
        ({"fixed": {"alpha": 12.0}}, "from -10 to 10"),
        ({"fixed": {"E": "0"}}, "finite number"),
        ({"fixed": {"A": -1.0}}, "from 0 to"),
    ],
)
def test_options_that_are_none(table, options, words):
    with pytest.raises(ValueError, match=words):
        LawRegressor(**({"law": LAW} | options)).fit(table, table["val_l1"])


def test_an_unfitted_regressor_says_so(table):
    reg = LawRegressor(LAW)
    for call in (lambda: reg.predict(table), reg.bootstrap, lambda: reg.profile("E")):
        with pytest.raises(ValueError, match="call fit"):
            call()
        with pytest.raises(AttributeError):  # as scikit-learn's NotFittedError
            call()


@pytest.mark.parametrize("level", [95, 0, 1.0, -0.5, "0.95"])
def test_levels_that_are_no_shares(table, fitted, level):
    rollouts = pd.DataFrame({"N": [1, 2], "rollouts": 10, "successes": 5})
    calls = (
        lambda: fitted.predict(table, interval="confidence", level=level),
        lambda: fitted.profile("E", level=level),
        lambda: saturation_test(table, "N", level=level),
        lambda: noise_floor(table, level=level),
        lambda: backtest(table, LAW, "N", level=level),
        lambda: success_rates(rollouts, by=["N"], level=level),
        lambda: exact_interval(np.array([1]), np.array([2]), level),
    )
    for call in calls:
        with pytest.raises(ValueError, match="between 0 and 1"):
            call()


@pytest.mark.parametrize("y", ["nan", "zero", "absent", "mixed"])
def test_errors_that_have_no_logarithm_are_counted_everywhere(table, y):
    bad, words = {
        "nan": (table.assign(val_l1=table["val_l1"].where(table.index != 3)), "1 of 15"),
        "zero": (table.assign(val_l1=0.0), "15 of 15"),
        "absent": (table.drop(columns="val_l1"), "no column 'val_l1'"),
        "mixed": (table.assign(metric=["a", "b", "b"] * 5), "2 metrics"),
    }[y]
    calls = (
        lambda: saturation_test(bad, "N"),
        lambda: compare_laws(bad, default_laws("N")),
        lambda: backtest(bad, LAW, "N"),
        lambda: isoflop(bad),
        lambda: noise_floor(bad),
        lambda: design_next(bad, 30.0, OFFERS, law=LAW),
    )
    for call in calls:
        with pytest.raises(ValueError, match=words):
            call()


def test_axes_and_compute_must_be_positive(table):
    zero = table.assign(N=table["N"].where(table.index != 3, 0.0))
    for call in (lambda: saturation_test(zero, "N"), lambda: backtest(zero, LAW, "N")):
        with pytest.raises(ValueError, match=r"1 of 15|1 values"):
            call()
    for flops in (-1.0, np.nan):
        bad = table.assign(compute_flops=flops)
        for call in (lambda bad=bad: isoflop(bad), lambda bad=bad: backtest(bad, LAW)):
            with pytest.raises(ValueError, match="15 of 15"):
                call()


def test_a_noise_floor_needs_to_know_what_a_repeat_is(table):
    named = noise_floor(table)  # N tells settings apart
    assert named.num_cells == 5
    assert named.sigma == pytest.approx(0.02, rel=0.5)
    with pytest.raises(ValueError, match="cells="):
        noise_floor(table[["run_id", "val_l1"]])
    with pytest.raises(ValueError, match="no column 'width'"):
        noise_floor(table, cells=["width"])
    assert noise_floor(table[["run_id", "val_l1"]], cells=[]).num_cells == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gpu_hours": 0.0}, "2 of 2"),
        ({"gpu_hours": -1.0}, "2 of 2"),
        ({"gpu_hours": np.nan}, "2 of 2"),
    ],
)
def test_prices_of_candidates_are_positive(table, change, words):
    with pytest.raises(ValueError, match=words):
        design_next(table, 100.0, OFFERS.assign(**change), law=LAW)


def test_a_design_needs_candidates_a_budget_and_an_axis(table):
    for budget, offers, words in (
        (100.0, OFFERS[:0], "no candidates"),
        (-5.0, OFFERS, "positive number"),
        (float("nan"), OFFERS, "positive number"),
        (100.0, OFFERS.drop(columns="gpu_hours"), "no column 'gpu_hours'"),
        (100.0, OFFERS.rename(columns={"N": "M"}), "name the law"),
    ):
        with pytest.raises(ValueError, match=words):
            design_next(table, budget, offers)


def test_a_design_without_a_law_takes_the_axes_of_the_candidates(table):
    found = design_next(table, 100.0, OFFERS)
    pd.testing.assert_frame_equal(found, design_next(table, 100.0, OFFERS, law=LAW))


@pytest.mark.parametrize(
    ("law", "changes", "words"),
    [
        (Chinchilla(), {"params": {"E": 1.0}}, "no value of"),
        (Chinchilla(), {"cost": 6}, "by keyword"),
        (Chinchilla(), {"cost": lambda a, b: a * b}, "by keyword"),
        (Chinchilla(), {"limits": {"N": 5}}, "0 < least"),
        (Constant(), {"params": {"E": 1.0}}, "no axis"),
    ],
)
def test_budgets_that_cannot_be_split(law, changes, words):
    with pytest.raises(ValueError, match=words):
        optimal_allocation(law, 1e20, **({"cost": six_nd, "params": TRUTH} | changes))


def test_shapes_groups_and_weights_are_taken_at_their_word(table):
    x, y = table["N"].to_numpy(), table["val_l1"].to_numpy()
    wanted = LawRegressor(LAW).fit(table, y).params_
    assert LawRegressor(LAW).fit(list(x), y).params_ == wanted
    with pytest.raises(ValueError, match="shape"):
        LawRegressor(LAW).fit(np.column_stack([x, x]), np.concatenate([y, y]))
    with pytest.raises(ValueError, match="2 missing"):
        LawRegressor(LAW).fit(table, y, groups=[None, None, *range(13)])
    weights = np.where(np.arange(15) % 3 == 0, 0.0, 1.0)
    some = LawRegressor(LAW).fit(table, y, weights=weights)
    kept = LawRegressor(LAW).fit(table[weights > 0], y[weights > 0])
    assert (some.params_, some.df_, some.sigma_) == (kept.params_, kept.df_, kept.sigma_)
    assert len(LawRegressor(Constant()).fit(table, y).predict(np.zeros((4, 0)))) == 4


def test_negative_errors_have_no_law_even_without_a_logarithm(table):
    with pytest.raises(ValueError, match="no y is positive"):
        LawRegressor(LAW, loss="ls", link="identity").fit(table, -table["val_l1"])


def test_alternatives_breaks_and_missing_parameters_are_named():
    pairs = pd.DataFrame({"val_l1": [1, 2, 3, 4.0], "success_rate": [0.9, 0.8, 0.7, 0.1]})
    with pytest.raises(ValueError, match="two-sided"):
        correlation_study(pairs, alternative="lower")
    for breaks in (0, -1, 1.5):
        with pytest.raises(ValueError, match="whole number"):
            BrokenPowerLaw("N", breaks)
    with pytest.raises(ValueError, match="no value of A, alpha"):
        LAW.predict({"E": 1.0}, {"N": [1.0]})
