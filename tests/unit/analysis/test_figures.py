"""Figures say what their data say: marks, ranges, units, and files in two formats."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from studies import demo_study

from analysis import plots
from analysis.axis_study import fit_axis
from analysis.budgets import fit_budgets
from analysis.estimator import FitOptions
from analysis.prompts import map_prompts
from analysis.ranking import rank_settings
from analysis.success.points import setting_data, success_data

HOW = FitOptions(num_draws=60)


@pytest.fixture(scope="module")
def axis():
    runs = demo_study()
    return fit_axis(runs[~runs["blind"]], "N", HOW)


def budgets_study():
    """Simulated runs at four budgets; the optimum grows as the square root of compute."""
    rng = np.random.default_rng(0)
    rows = []
    for compute in (1e15, 4e15, 1.6e16, 6.4e16):
        best = 3e6 * (compute / 1e15) ** 0.5
        for ratio in (0.1, 0.3, 1.0, 3.0, 10.0):
            error = 0.05 * (compute / 1e15) ** -0.1 * np.exp(0.05 * np.log(ratio) ** 2)
            rows.append({
                "run_id": f"{len(rows):012x}",
                "num_params_total": best * ratio,
                "num_samples_seen": compute / (6 * best * ratio),
                "compute_flops": compute,
                "val_l1": error * np.exp(0.002 * rng.standard_normal()),
            })  # fmt: skip
    return pd.DataFrame(rows)


def settings_study():
    """Simulated runs over windows and prompt lengths, with closed-loop success."""
    rates = {(1, 16): 0.02, (2, 16): 0.15, (4, 16): 0.6, (8, 16): 0.45, (4, 4): 0.3, (4, 32): 0.7}
    rows = []
    for (window, length), rate in rates.items():
        for seed in range(2):
            rows.append({
                "run_id": f"{len(rows):012x}",
                "seed": seed,
                "num_params_total": 1e6,
                "prediction_window_s": float(window),
                "soft_prompt_length": length,
                "val_l1": 0.08 - 0.07 * rate + 0.001 * seed,
                "successes": round(50 * rate),
                "rollouts": 50,
            })  # fmt: skip
    return pd.DataFrame(rows)


def test_residuals_are_those_of_the_fit(axis):
    with plots.style():
        ax = plots.residuals(Figure().subplots(), axis)
    drawn = np.sort(np.asarray(ax.collections[-1].get_offsets())[:, 1])
    curve, points = axis.fitted.curve, axis.data.points
    fitted = [np.exp(np.interp(np.log(p.x), np.log(curve.x), np.log(curve.mean))) for p in points]
    wanted = [100 * (p.y / f - 1) for p, f in zip(points, fitted, strict=True)]
    assert drawn == pytest.approx(np.sort(wanted))
    assert "%" in ax.get_ylabel()


def test_the_profile_is_shaded_where_the_interval_is(axis):
    found = axis.fitted.law.profiles["alpha"]
    with plots.style():
        ax = plots.profile(Figure().subplots(), found)
    band = ax.patches[0]
    low, high = found.interval
    assert band.get_x() == pytest.approx(low)
    assert band.get_x() + band.get_width() == pytest.approx(high)


def test_forecasts_come_from_levels_below_only(axis):
    cuts = axis.fitted.backtest.cuts
    runs = demo_study()
    runs = runs[~runs["blind"]]
    spoilt = runs.copy()  # what lies at the level forecast must not change its forecast
    spoilt.loc[spoilt["num_params_total"] == cuts[-1].predicted, "val_l1"] *= 3
    again = fit_axis(spoilt, "N", HOW).fitted.backtest.cuts
    assert again[-1].forecast.mean == pytest.approx(cuts[-1].forecast.mean)
    assert np.mean(again[-1].forecast.truth) > 2 * np.mean(cuts[-1].forecast.truth)
    with plots.style():
        ax = plots.backtest(Figure().subplots(), axis.fitted.backtest, label=axis.label)
    assert "level forecast" in ax.get_xlabel()


def test_isoflop_minima_lie_where_they_were_put():
    found = fit_budgets(budgets_study(), HOW)
    assert found.optima.exponent == pytest.approx(0.5, abs=0.02)
    for budget in found.budgets:
        best = 3e6 * (budget.compute / 1e15) ** 0.5
        assert budget.minimum[0] == pytest.approx(best, rel=0.05)
    with plots.style():
        figure = Figure()
        left, right = figure.subplots(1, 2)
        plots.isoflop(left, found.budgets)
        plots.frontier(right, found.optima)
    assert "C$^{0.5" in right.get_title(loc="left")
    assert right.get_xlabel() == "training compute (FLOPs)"


def test_a_study_without_budgets_has_no_isoflop():
    runs = demo_study()
    assert fit_budgets(runs.assign(compute_flops=runs["num_params_total"]), HOW) is None
    assert fit_budgets(runs, HOW) is None


def test_windows_are_compared_by_success_beside_the_papers():
    found = setting_data(settings_study(), HOW)
    assert set(found) == {"prediction_window_s", "soft_prompt_length"}
    window = found["prediction_window_s"]
    assert window.y == "success_rate"
    assert [p.y for p in window.published] == [0, 8.3, 29.16, 27.08]
    assert all(p.lower <= p.y <= p.upper for p in window.points)
    assert found["soft_prompt_length"].published == []
    with plots.style():
        ax = plots.setting_curve(Figure().subplots(), window)
    assert ax.get_xlabel() == "prediction window (s)"
    assert "paper, not reproduced" in [t.get_text() for t in ax.get_legend().get_texts()]


def test_errors_of_windows_are_drawn_with_a_warning():
    found = setting_data(settings_study().drop(columns=["successes", "rollouts"]), HOW)
    assert found["prediction_window_s"].y == "val_l1"
    assert "cannot be ranked" in found["prediction_window_s"].caption


def test_errors_are_never_ranked_across_windows():
    rows = rank_settings(settings_study(), sigma=0.02)
    best = {r.values["prediction_window_s"]: r.delta_over_sigma for r in reversed(rows)}
    assert best == {1.0: 0.0, 2.0: 0.0, 4.0: 0.0, 8.0: 0.0}
    four = [r for r in rows if r.values["prediction_window_s"] == 4.0]
    assert [r.values["soft_prompt_length"] for r in four] == [32, 16, 4]
    assert four[1].delta_over_sigma > 0


def test_errors_over_one_horizon_are_ranked_across_windows():
    runs = settings_study().drop(columns=["successes", "rollouts"])
    runs = runs.rename(columns={"val_l1": "horizon_l1"})
    rows = rank_settings(runs, y="horizon_l1", sigma=0.02)
    assert [r.delta_over_sigma for r in rows].count(0.0) == 1
    assert rows[0].delta_over_sigma == 0.0
    assert [r.error for r in rows] == sorted(r.error for r in rows)
    caption = setting_data(runs, replace(HOW, y="horizon_l1"))["prediction_window_s"].caption
    assert "one target" in caption


def test_success_falls_as_the_error_rises():
    found = success_data(settings_study(), HOW)
    assert found.correlation.spearman < -0.9
    assert found.correlation.spearman_interval[1] < 0
    with plots.style():
        ax = plots.error_against_success(Figure().subplots(), found)
    assert "12 runs" in ax.get_title(loc="left")


def test_success_that_cannot_be_correlated_says_why():
    few = settings_study().head(3)
    assert "needs 4" in success_data(few, HOW).refused
    assert success_data(few.drop(columns="rollouts"), HOW) is None


def test_prompts_of_separate_domains_have_a_high_silhouette():
    rng = np.random.default_rng(0)
    centres = 10 * rng.standard_normal((3, 1, 16))
    centres[2] = centres[1]  # two cameras of one robot
    prompts = centres + rng.standard_normal((3, 8, 16))
    found = map_prompts(prompts, ["arm", "left", "right"], num_shuffles=50)
    assert found.silhouette_by_domain["arm"] > 0.7
    assert abs(found.silhouette_by_domain["left"]) < 0.15
    assert found.nearest == {"arm": found.nearest["arm"], "left": "right", "right": "left"}
    assert found.p_value < 0.05
    assert abs(found.silhouette_shuffled) < 0.2
    flat = map_prompts(prompts.reshape(24, 16), np.repeat(["arm", "left", "right"], 8))
    assert flat.silhouette == pytest.approx(found.silhouette)
    with plots.style():
        ax = plots.soft_prompts(Figure().subplots(), found)
    assert f"silhouette {found.silhouette:.2f}" in ax.get_title(loc="left")
    assert "% of variance" in ax.get_xlabel()


def test_prompts_of_noise_do_not_separate():
    noise = np.random.default_rng(1).standard_normal((4, 8, 16))
    found = map_prompts(noise, list("abcd"), num_shuffles=100)
    assert abs(found.silhouette) < 0.1
    assert found.p_value > 0.05


@pytest.mark.parametrize(
    ("shape", "names", "words"),
    [((2, 1, 4), "ab", "smallest with 1"), ((1, 5, 4), "a", "two domains"),
     ((2, 3, 4), "abc", "3 labels")],
)  # fmt: skip
def test_prompts_that_cannot_be_judged_are_refused(shape, names, words):
    with pytest.raises(ValueError, match=words):
        map_prompts(np.zeros(shape), list(names))


def test_a_figure_is_written_twice_and_identically(axis, tmp_path):
    for folder in ("a", "b"):
        with plots.style():
            figure = Figure(figsize=(3, 2), layout="constrained")
            plots.axis_fit(figure.subplots(), axis)
            plots.save(figure, tmp_path / folder, "axis")
    assert (tmp_path / "a" / "axis.svg").read_bytes() == (tmp_path / "b" / "axis.svg").read_bytes()
    assert (tmp_path / "a" / "axis.png").stat().st_size > 5000
