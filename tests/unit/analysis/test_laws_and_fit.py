"""Laws, their derivatives, and fits that must recover what generated the data."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from analysis.fit import LawRegressor, NotIdentifiedError
from analysis.laws import (
    Additive,
    BrokenPowerLaw,
    Chinchilla,
    Constant,
    DataConstrained,
    PowerLaw,
)

CASES = [
    (Constant(), {"E": 0.05}),
    (PowerLaw("N"), {"E": 0.02, "A": 3.0, "alpha": 0.4}),
    (PowerLaw("N", offset=False), {"A": 3.0, "alpha": 0.4}),
    (Chinchilla(), {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}),
    (Chinchilla(tied=True), {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35}),
    (
        Additive(("N", "episodes", "domains")),
        {
            "E": 0.01,
            "A_N": 2.0,
            "A_episodes": 0.3,
            "A_domains": 0.02,
            "alpha_N": 0.4,
            "alpha_episodes": 0.5,
            "alpha_domains": 0.9,
        },
    ),
]

BROKEN = (
    BrokenPowerLaw("N"),
    {"E": 0.01, "A": 5.0, "alpha": 0.1, "c_1": 0.3, "d_1": 1e8, "f_1": 0.3},
)
REPEATED = (
    DataConstrained(),
    {"E": 1.9, "A": 520.0, "B": 1500.0, "alpha": 0.35, "beta": 0.37, "R_D": 15.0, "R_N": 5.0},
)


def grid(law, levels=5):
    """Every combination of levels of the law's axes."""
    scale = {
        "N": np.logspace(6, 10, levels),
        "D": np.logspace(8, 12, levels),
        "U": np.logspace(7, 10, levels),
        "episodes": np.logspace(1, 3, levels),
        "domains": np.arange(1, levels + 1),
    }
    columns = np.meshgrid(*(scale[a] for a in law.axes)) if law.axes else [np.ones(levels)]
    names = law.axes or ("unused",)
    return pd.DataFrame({n: c.ravel() for n, c in zip(names, columns, strict=True)})


def noisy_study(seed=0, noise=0.03, seeds=3, floor=0.02):
    """Six sizes with several seeds each: simulated data with a floor."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"N": np.repeat(np.logspace(6, 8.5, 6), seeds)})
    truth = PowerLaw("N").predict({"E": floor, "A": 9.0, "alpha": 0.35}, table)
    table["y"] = truth * np.exp(noise * rng.standard_normal(len(table)))
    return table


@pytest.mark.parametrize(("law", "params"), [*CASES, BROKEN, REPEATED], ids=lambda c: str(c)[:30])
def test_jacobian_agrees_with_finite_differences(law, params):
    table = grid(law, 3)
    exact = law.jacobian(params, table)
    for j, name in enumerate(law.param_names):
        step = 1e-6 * max(abs(params[name]), 1e-3)
        up = law.predict(params | {name: params[name] + step}, table)
        down = law.predict(params | {name: params[name] - step}, table)
        rounding = 1e-15 * np.abs(up).max() / step
        assert exact[:, j] == pytest.approx((up - down) / (2 * step), rel=1e-5, abs=rounding)


@pytest.mark.parametrize("loss", ["huber", "lad", "ls"])
@pytest.mark.parametrize(("law", "params"), CASES, ids=lambda c: str(c)[:30])
def test_noiseless_data_gives_back_the_parameters(law, params, loss):
    table = grid(law)
    fit = LawRegressor(law, loss=loss).fit(table, law.predict(params, table))
    assert fit.params_ == pytest.approx(params, rel=1e-6)
    assert fit.n_starts_at_optimum_ >= 1


def test_a_broken_law_is_recovered_from_noiseless_data():
    law, params = BROKEN
    table = grid(law, 30)
    fit = LawRegressor(law, loss="ls").fit(table, law.predict(params, table))
    assert fit.params_ == pytest.approx(params, rel=1e-6)


def test_repetition_is_recovered_where_the_base_is_known():
    law, params = REPEATED
    table = grid(law, 4)
    base = {name: params[name] for name in ("E", "A", "B", "alpha", "beta")}
    fit = LawRegressor(law, loss="ls", fixed=base).fit(table, law.predict(params, table))
    assert fit.params_ == pytest.approx(params, rel=1e-6)


@pytest.mark.parametrize("loss", ["huber", "ls", "lad"])
def test_no_held_offset_does_better_than_the_fit(loss):
    rng = np.random.default_rng(41)
    for falls in (-0.1, 0.0, 0.3):  # rising and flat tables have long, nearly level valleys
        x = np.repeat(10.0 ** np.sort(rng.uniform(0, 3, 4)), 2)
        y = x**-falls * np.exp(0.05 * rng.standard_normal(len(x)))
        free = LawRegressor(PowerLaw("x"), loss=loss).fit({"x": x}, y)
        for share in (0.0, 0.3, 0.6, 0.8, 0.95):
            held = LawRegressor(PowerLaw("x"), loss=loss, fixed={"E": share * y.min()})
            assert free.cost_ <= held.fit({"x": x}, y).cost_ * (1 + 1e-9)


def test_offset_zero_is_found_as_a_bound():
    table = grid(PowerLaw("N"))
    y = 3 * table["N"] ** -0.3
    fit = LawRegressor(PowerLaw("N"), loss="ls").fit(table, y)
    assert fit.params_["E"] == 0.0
    assert fit.params_["alpha"] == pytest.approx(0.3, rel=1e-6)
    assert "at_bound" in {note.code for note in fit.notes_}


@pytest.mark.parametrize("loss", ["huber", "lad", "ls"])
def test_units_and_row_order_change_nothing(loss):
    table = noisy_study()
    fit = LawRegressor(PowerLaw("N"), loss=loss).fit(table, table["y"])
    shuffled = table.sample(frac=1, random_state=1)
    again = LawRegressor(PowerLaw("N"), loss=loss).fit(shuffled, shuffled["y"])
    assert again.params_ == fit.params_
    pd.testing.assert_frame_equal(again.bootstrap(20, seed=3), fit.bootstrap(20, seed=3))
    millions = table.assign(N=table["N"] / 1e6, y=table["y"] * 1000)
    scaled = LawRegressor(PowerLaw("N"), loss=loss).fit(millions, millions["y"])
    assert scaled.params_["alpha"] == pytest.approx(fit.params_["alpha"], rel=1e-6)
    assert scaled.params_["E"] == pytest.approx(1000 * fit.params_["E"], rel=1e-6)
    assert scaled.cost_ == pytest.approx(fit.cost_, rel=1e-9)


def test_same_seed_same_draws_other_seed_other_draws():
    table = noisy_study()
    fit = LawRegressor(PowerLaw("N")).fit(table, table["y"])
    pd.testing.assert_frame_equal(fit.bootstrap(30, seed=1), fit.bootstrap(30, seed=1))
    assert not fit.bootstrap(30, seed=1).equals(fit.bootstrap(30, seed=2))


def test_fixed_parameters_keep_their_value():
    table = noisy_study()
    free = LawRegressor(PowerLaw("N"), loss="ls").fit(table, table["y"])
    for name, value in (("E", 0.0), ("E", 0.015), ("A", 5.0), ("alpha", 0.5)):
        fit = LawRegressor(PowerLaw("N"), loss="ls", fixed={name: value}).fit(table, table["y"])
        assert fit.params_[name] == pytest.approx(value, rel=1e-12)
        assert fit.cost_ >= free.cost_


def test_fixing_at_the_optimum_changes_nothing():
    table = noisy_study()
    free = LawRegressor(PowerLaw("N"), loss="ls").fit(table, table["y"])
    for name, value in free.params_.items():
        fit = LawRegressor(PowerLaw("N"), loss="ls", fixed={name: value}).fit(table, table["y"])
        assert fit.cost_ == pytest.approx(free.cost_, rel=1e-9)


def test_weights_count_like_copies():
    table = noisy_study()
    weights = np.random.default_rng(0).integers(1, 4, len(table))
    copies = table.loc[table.index.repeat(weights)]
    weighted = LawRegressor(PowerLaw("N")).fit(table, table["y"], weights=weights)
    copied = LawRegressor(PowerLaw("N")).fit(copies, copies["y"])
    assert weighted.cost_ == pytest.approx(copied.cost_, rel=1e-9)
    assert weighted.params_ == pytest.approx(copied.params_, rel=1e-5)


def test_rising_errors_are_called_rising():
    table = noisy_study()
    table["y"] = 0.03 * (table["N"] / 1e6) ** 0.1
    fit = LawRegressor(PowerLaw("N")).fit(table, table["y"])
    assert fit.params_["alpha"] < 0
    assert "rising" in {note.code for note in fit.notes_}


def test_too_few_cells_are_refused_and_two_levels_flagged():
    table = pd.DataFrame({"N": [1e6, 1e6, 1e7, 1e7]})
    y = [0.05, 0.051, 0.04, 0.041]
    with pytest.raises(NotIdentifiedError, match="2 cells, 3 parameters"):
        LawRegressor(PowerLaw("N")).fit(table, y)
    fit = LawRegressor(PowerLaw("N", offset=False)).fit(table, y)
    assert {n.code: n.value for n in fit.notes_}["few_levels"] == 2


def test_additive_law_says_how_many_cells_it_needs():
    law = Additive(("N", "episodes"))
    table = pd.DataFrame({"N": [1, 2, 4, 4, 4.0], "episodes": [8, 8, 8, 4, 2.0]})
    fit = LawRegressor(law).fit(table, [0.5, 0.4, 0.3, 0.35, 0.45])
    message = next(n.message for n in fit.notes_ if n.code == "not_identified")
    assert "not identified: 5 cells, 5 parameters" in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"N": -1.0}, "not positive"),
        ({"N": np.nan}, "not positive"),
        ({"y": np.nan}, "1 of 18"),
        ({"y": 0.0}, "1 of 18"),
    ],
)
def test_unusable_values_are_counted_in_the_error(change, words):
    table = noisy_study()
    for column, value in change.items():
        table.loc[0, column] = value
    with pytest.raises(ValueError, match=words):
        LawRegressor(PowerLaw("N")).fit(table, table["y"])


def test_wrong_options_name_the_allowed_ones():
    table = noisy_study()
    for options, words in (
        ({"loss": "mse"}, "huber"),
        ({"delta": 0.0}, "positive"),
        ({"fixed": {"gamma": 1.0}}, "alpha"),
    ):
        with pytest.raises(ValueError, match=words):
            LawRegressor(PowerLaw("N"), **options).fit(table, table["y"])
    with pytest.raises(ValueError, match="no column 'D'"):
        LawRegressor(Chinchilla()).fit(table, table["y"])


def test_parameters_can_be_read_and_set_as_in_scikit_learn():
    fit = LawRegressor(PowerLaw("N"), delta=0.01)
    assert LawRegressor(**fit.get_params()).get_params() == fit.get_params()
    assert fit.set_params(delta=0.1).delta == 0.1
    with pytest.raises(ValueError, match="choose from"):
        fit.set_params(gamma=1)


def test_bands_contain_the_curve_and_prediction_is_wider():
    table = noisy_study()
    fit = LawRegressor(PowerLaw("N"), loss="ls").fit(table, table["y"])
    curve = fit.predict(table, interval="confidence")
    run = fit.predict(table, interval="prediction")
    assert list(curve.columns) == ["mean", "lower", "upper"]
    assert ((curve["lower"] < curve["mean"]) & (curve["mean"] < curve["upper"])).all()
    assert ((run["upper"] - run["lower"]) > (curve["upper"] - curve["lower"])).all()


def test_profile_interval_of_a_straight_line_is_the_textbook_interval():
    table = noisy_study(floor=0.0)
    fit = LawRegressor(PowerLaw("N", offset=False), loss="ls").fit(table, table["y"])
    u = np.log(table["N"]) - np.log(table["N"]).mean()
    from scipy.stats import t

    half = t.ppf(0.975, fit.df_) * fit.sigma_ / np.sqrt((u**2).sum())
    low, high = fit.profile("alpha").interval
    assert low == pytest.approx(fit.params_["alpha"] - half, rel=2e-3)
    assert high == pytest.approx(fit.params_["alpha"] + half, rel=2e-3)


def test_profile_never_falls_below_the_fit():
    table = noisy_study()
    fit = LawRegressor(PowerLaw("N")).fit(table, table["y"])
    for name in fit.params_:
        profile = fit.profile(name)
        assert profile.cost.min() >= fit.cost_ * (1 - 1e-9)
        assert profile.interval[0] <= fit.params_[name] <= profile.interval[1]


def test_binomial_loss_weighs_by_trials():
    law = PowerLaw("N", offset=False)
    table = pd.DataFrame({"N": np.logspace(0, 3, 8)})
    failures = law.predict({"A": 0.9, "alpha": 0.25}, table)
    trials = np.full(8, 10_000)
    fit = LawRegressor(law, loss="binomial").fit(table, failures, weights=trials)
    assert fit.params_ == pytest.approx({"A": 0.9, "alpha": 0.25}, rel=1e-6)
    assert fit.bootstrap(200)["alpha"].std() == pytest.approx(0.0012, rel=0.5)


def test_importing_the_fit_loads_neither_matplotlib_nor_sklearn_nor_torch():
    code = (
        "import sys, analysis.fit; "
        "print([m for m in ('matplotlib', 'sklearn', 'torch', 'scipy.stats') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_profile_of_absolute_deviations_is_of_that_loss():
    table = noisy_study()
    fit = LawRegressor(PowerLaw("N"), loss="lad").fit(table, table["y"])
    for name in fit.params_:
        profile = fit.profile(name)
        assert profile.cost.min() >= fit.cost_ * (1 - 1e-12)
        assert profile.interval[0] < fit.params_[name] < profile.interval[1]


def test_a_profile_of_noiseless_data_is_the_estimate_at_a_bound_as_well():
    table = pd.DataFrame({"N": np.geomspace(1e6, 1e9, 8)})
    fit = LawRegressor(PowerLaw("N"), loss="ls").fit(table, 3.0 * table["N"] ** -0.3)
    assert fit.params_["E"] == 0.0
    assert fit.profile("E").interval[0] == pytest.approx(0.0, abs=1e-6)
