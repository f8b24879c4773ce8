"""What a fit owes to its loss, to one level, to one run: on simulated tables with a known flaw."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis.fit import LawRegressor
from analysis.laws import Chinchilla, Constant, PowerLaw
from analysis.sensitivity import sensitivity


def table(seed=0, seeds=3):
    rng = np.random.default_rng(seed)
    x = np.repeat(np.logspace(6, 8.5, 6), seeds)
    y = PowerLaw("N").predict({"E": 0.02, "A": 9.0, "alpha": 0.35}, {"N": x})
    return pd.DataFrame({"N": x, "y": y * np.exp(0.01 * rng.standard_normal(len(x)))})


def test_a_planted_outlier_is_the_most_influential_run_under_least_squares():
    rows = table()
    rows.loc[14, "y"] *= 1.3
    reg = LawRegressor(PowerLaw("N"), loss="ls").fit(rows, rows["y"])
    found = sensitivity(reg)
    assert found.runs[0].rows == [14]
    assert abs(found.runs[0].standard_errors) > abs(found.runs[1].standard_errors)
    without = LawRegressor(PowerLaw("N"), loss="ls").fit(rows.drop(index=14), rows["y"].drop(14))
    ahead = without.predict({"N": [found.target["N"]]})[0]
    assert found.runs[0].refit.prediction == pytest.approx(ahead, rel=1e-6)
    assert found.runs[0].refit.params == pytest.approx(without.params_, rel=1e-5)


def test_levels_left_out_are_refits_without_their_rows():
    rows = table()
    reg = LawRegressor(PowerLaw("N")).fit(rows, rows["y"])
    found = sensitivity(reg)
    assert [r.num_left_out for r in found.levels] == [3] * 6
    last = found.levels[-1]
    part = rows[rows["N"] < rows["N"].max()]
    direct = LawRegressor(PowerLaw("N")).fit(part, part["y"])
    assert last.refit.params == pytest.approx(direct.params_, rel=1e-5)


def test_estimators_are_swept_and_the_fits_own_does_not_move():
    rows = table()
    reg = LawRegressor(PowerLaw("N"), delta=1e-3).fit(rows, rows["y"])
    found = sensitivity(reg, deltas=(1e-4, 1e-3, 1.0))
    shifts = {r.estimator: r.refit.shift for r in found.estimators}
    assert shifts["huber (delta 0.001) on log residuals"] == pytest.approx(0, abs=1e-8)
    squares = shifts["ls on log residuals"]
    assert shifts["huber (delta 1) on log residuals"] == pytest.approx(squares, abs=1e-8)
    assert "lad on log residuals" in shifts
    json.dumps(found.to_dict())
    assert len(found.to_frame()) == len(found.estimators) + len(found.levels) + len(found.runs)


def test_an_axis_without_levels_is_cut_into_bands_and_needed_levels_are_noted():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"N": 10 ** rng.uniform(7, 9, 60), "D": 10 ** rng.uniform(9, 11, 60)})
    rows["y"] = Chinchilla().predict(
        {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}, rows
    )
    found = sensitivity(LawRegressor(Chinchilla()).fit(rows, rows["y"]), num_draws=2)
    assert {r.axis for r in found.levels} == {"N", "D"}
    assert len(found.levels) == 24
    three = table()[lambda t: t["N"].isin(np.unique(t["N"])[:3])]
    tight = sensitivity(LawRegressor(PowerLaw("N"), loss="ls").fit(three, three["y"]))
    assert not tight.levels
    assert tight.notes[0].code == "needed_level"
    assert tight.notes[0].value == 3


def test_an_unfitted_regressor_is_refused_and_a_constant_has_no_levels():
    with pytest.raises(ValueError, match="call fit first"):
        sensitivity(LawRegressor(PowerLaw("N")))
    reg = LawRegressor(Constant(), loss="ls").fit(table(), table()["y"])
    assert sensitivity(reg).levels == ()
