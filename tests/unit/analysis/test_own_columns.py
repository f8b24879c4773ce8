"""Tables with columns of their own: what else varies is held apart, and repeats are known."""

import numpy as np
import pandas as pd
import pytest

from analysis.estimator import FitOptions
from analysis.laws import PowerLaw
from analysis.pages.terminal import render_fit
from analysis.report import build_report, run_rows
from analysis.saturation import saturation_test
from analysis.select import backtest
from analysis.study import fit_study
from analysis.table import axis_slice

QUICK = {"num_draws": 40}


def two_axes(first, second, *, noise=0.01, seeds=2):
    """Return every combination of two axes, simulated, with columns named as asked."""
    rng = np.random.default_rng(0)
    a, b = np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5))
    table = pd.DataFrame({first: np.repeat(a.ravel(), seeds), second: np.repeat(b.ravel(), seeds)})
    y = 1.7 + 400 / table[first] ** 0.34 + 410 / table[second] ** 0.28
    return table.assign(val_l1=y * np.exp(noise * rng.standard_normal(len(table))))


@pytest.mark.parametrize(
    ("names", "axes"),
    [(("N", "D"), "auto"), (("width", "depth"), ["width", "depth"])],
    ids=str,
)
def test_each_axis_is_fitted_with_the_other_held(names, axes):
    table = two_axes(*names)
    found = fit_study(table, axes=axes, **QUICK)
    assert set(found.axes) == set(names)
    for axis, other in (names, names[::-1]):
        result = found.axes[axis]
        assert result.data.num_runs == 10
        assert result.data.held_of_many == {other: table[other].max()}
        assert result.fitted.law.sigma < 0.02
    assert found.noise_floor.sigma == pytest.approx(0.01, rel=0.4)
    assert len(found.ranking) == 25
    assert found.joint.status == "fitted"
    assert f"At {names[1]} = 100B." in render_fit(found)


def test_the_column_that_was_used_for_n_is_the_one_that_is_named():
    table = two_axes("N", "D").assign(num_params_policy=lambda t: t["N"] / 2)
    assert fit_study(table, **QUICK).n_column == "N"
    asked = fit_study(table, n_column="num_params_policy", **QUICK)
    assert asked.n_column == "num_params_policy"
    assert asked.axes["N"].data.column == "num_params_policy"


def test_the_floor_test_takes_one_line_of_a_table_of_several_axes():
    table = two_axes("N", "D")
    whole = saturation_test(table, "N", num_draws=100)
    line = saturation_test(axis_slice(table, "N").rows, "N", num_draws=100)
    assert whole == line
    assert whole.num_runs == 10
    ladder = table[np.isclose(table["D"], table["N"] * 100)]  # another column that follows the axis
    assert saturation_test(ladder, "N", num_draws=100).num_runs == len(ladder) == 10


def test_held_columns_can_be_named():
    table = two_axes("N", "depth")
    assert axis_slice(table, "N").rows.shape[0] == 50
    found = fit_study(table, options=FitOptions(hold=("depth",), **QUICK))
    assert found.axes["N"].data.num_runs == 10


def test_compute_may_be_called_c():
    table = two_axes("N", "D")
    table = table.assign(C=6 * table["N"] * table["D"])
    found = backtest(table, PowerLaw("C"), num_draws=0)
    assert found.by == "C"


def test_a_report_shows_every_column_of_a_table_that_is_not_ours(tmp_path):
    table = two_axes("width", "depth").rename(columns={"val_l1": "test error %"})
    table = table.assign(seed=[0, 1] * 25, note="a")
    out = build_report(table, study="own", out_dir=tmp_path, axes=["width", "depth"],
                       y="test error %", **QUICK)  # fmt: skip
    rows = run_rows(table, out.findings.fit)
    assert list(rows[0])[:4] == ["width", "depth", "test error %", "seed"]
    page = (tmp_path / "report.html").read_text()
    runs = page[page.index("<h2>Runs</h2>") :]
    assert "test error %</th>" in runs[: runs.index("</table>")]
    assert "recorded data" not in page  # nobody said so
    assert "; N is" not in page


def test_what_is_to_be_said_against_the_joint_law_is_said():
    table = two_axes("N", "D")
    table["val_l1"] *= (table["D"] / table["D"].min()) ** 0.5
    assert "Remark [rising] alpha_D is negative" in render_fit(fit_study(table, **QUICK))
