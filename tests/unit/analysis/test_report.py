"""The report: what it says, what it refuses to say, and that it needs nothing but itself."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from studies import demo_study

from analysis.document import jsonable
from analysis.pages.paper_tables import PUBLISHED, error_rows
from analysis.pages.terminal import render_fit
from analysis.pages.verdict import summary_rows
from analysis.report import build_report
from analysis.study import fit_study

QUICK = {"num_draws": 60}


def test_every_axis_of_a_falling_study_is_said_to_fall(reported):
    document, _ = reported
    assert set(document.findings.fit.axes) == {"N", "episodes", "domains"}
    for result in document.findings.fit.axes.values():
        assert result.fitted
        assert result.trend.verdict == "falls"
        low, high = result.fitted.law.params["alpha"].bootstrap
        assert low < result.fitted.law.params["alpha"].value < high
    assert document.findings.fit.joint.status == "fitted"
    assert document.findings.fit.noise_floor.sigma == pytest.approx(0.02, rel=0.6)


def test_text_names_estimator_sigma_and_seeds(reported):
    document, _ = reported
    text = render_fit(document.findings.fit)
    assert "huber (delta 0.001) on log residuals" in text
    assert "sigma" in text
    assert "2 seeds" in text
    assert "The error falls with parameters" in text


def test_page_is_self_contained_and_small(reported):
    _, out = reported
    page = (out / "report.html").read_text()
    assert not re.search(r"https?://", page)
    assert not re.search(r'(src|href)="(?!data:|#)', page.replace("xlink:href", "href"))
    assert len(page) < 5_000_000
    assert "simulated data" in page
    assert page.count("<svg") >= 4
    assert "sim_xarm7" in page
    assert page.index("Verdict") < page.index("<svg") < page.index('class="sortable"')


def test_refits_are_folded_away_and_left_out_of_large_studies(reported, tmp_path, monkeypatch):
    document, out = reported
    page = (out / "report.html").read_text()
    part = page[page.index("Sensitivity of the fits") :]
    assert part.index("<details>") < part.index("Without one level") < part.index("</details>")
    influential = document.findings.fit.axes["N"].fitted.law.sensitivity.runs[0]
    assert influential.run in set(demo_study()["run_id"])
    monkeypatch.setattr("analysis.report.SENSITIVITY_RUNS", 5)
    build_report(demo_study(), study="s", out_dir=tmp_path, axes=["domains"], **QUICK)
    assert "Sensitivity of the fits" not in (tmp_path / "report.html").read_text()


def test_figures_are_written_as_png_and_svg(reported):
    document, out = reported
    names = {p.name for p in (out / "figures").iterdir()}
    assert {"axes.png", "axes.svg", "axis_N.png", "curves.svg"} <= names
    assert len(document.paths.figures) == len(names)


def test_record_is_strict_json_and_refits_to_the_same_law(reported):
    document, out = reported
    record = json.loads((out / "record.json").read_text(), parse_constant=pytest.fail)
    points = pd.DataFrame(record["axes"]["domains"]["points"])
    table = pd.DataFrame({"domains": points["x"], record["y"]: points["y"]})
    again = fit_study(table, y=record["y"], loss=record["loss"], delta=record["delta"], **QUICK)
    law = again.axes["domains"].fitted.law
    assert law.cost == pytest.approx(record["axes"]["domains"]["law"]["cost"], rel=1e-9)
    assert record["data_sha256"] == document.findings.fit.data_sha256


def test_runs_that_do_not_beat_the_trivial_predictors_are_named(tmp_path):
    runs = demo_study()
    runs.loc[3, "val_l1"] = 0.5
    document = build_report(runs, study="s", out_dir=tmp_path, axes=["N"], **QUICK)
    assert document.findings.not_beating == [runs.loc[3, "run_id"]]
    assert "do NOT beat" in (tmp_path / "report.html").read_text()


def test_a_flat_study_says_plainly_that_the_error_does_not_fall():
    document = fit_study(demo_study(falls=False), study="flat", **QUICK)
    for result in document.axes.values():
        low, high = result.trend.interval
        assert low < 0 < high or result.trend.verdict != "does not fall"
    flat = [r for r in document.axes.values() if r.trend.verdict == "does not fall"]
    assert len(flat) >= 2
    text = render_fit(document)
    assert "does not fall measurably" in text
    assert "No gain is promised" in text


def test_two_levels_are_refused_with_the_reason():
    runs = demo_study()
    runs = runs[runs["size"].isin(["h64", "h16"])]
    document = fit_study(runs, study="few", axes=["N"], **QUICK)
    assert document.axes["N"].outcome.status == "refused"
    assert "2 levels" in document.axes["N"].outcome.reason
    assert "No law along parameters: 2 levels" in render_fit(document)


def test_one_seed_gives_no_noise_floor_but_a_report(tmp_path):
    document = build_report(
        demo_study(seeds=1), study="one", out_dir=tmp_path, axes=["domains"], **QUICK
    )
    assert document.findings.fit.noise_floor is None
    page = (tmp_path / "report.html").read_text()
    assert "Seed noise is unknown" in page
    assert "Not ranked: no setting was run with two seeds" in page
    assert all(row.delta_over_sigma is None for row in document.findings.fit.ranking)


def test_as_many_parameters_as_runs_gives_a_curve_without_intervals(tmp_path):
    runs = demo_study(seeds=1)
    runs = runs[runs["size"].isin(["h16", "h64", "h128"]) & (runs["num_domains"] == 7)]
    runs = runs[runs["episodes_per_domain"] == 40]
    document = build_report(runs, study="three", out_dir=tmp_path, **QUICK)
    result = document.findings.fit.axes["N"]
    assert result.fitted
    assert np.isnan(result.fitted.law.sigma)
    assert result.fitted.saturation.verdict == "undecidable"
    assert result.fitted.law.params["E"].profile is None
    assert "no noise estimate" in render_fit(document.findings.fit)
    json.dumps(jsonable(document), allow_nan=False)


def test_a_single_run_is_reported_without_any_law(tmp_path):
    document = build_report(demo_study().head(1), study="single", out_dir=tmp_path, **QUICK)
    assert document.findings.fit.axes == {}
    assert "no law" in (tmp_path / "report.html").read_text()


def test_no_usable_run_is_an_error_that_counts():
    runs = demo_study().assign(state="failed")
    with pytest.raises(ValueError, match="22 runs not done"):
        fit_study(runs, study="none")


def test_any_table_with_named_columns_can_be_fitted():
    table = pd.DataFrame({"N": [1e6, 1e7, 1e8, 1e9] * 2})
    table["loss"] = 2 + 50 * table["N"] ** -0.3
    document = fit_study(table, y="loss", **QUICK)
    params = document.axes["N"].fitted.law.params
    assert params["E"].value == pytest.approx(2, rel=1e-6)
    assert params["alpha"].value == pytest.approx(0.3, rel=1e-6)


def test_text_in_tables_is_escaped(tmp_path):
    runs = demo_study()
    runs["axis_note"] = "<script>alert(1)</script>"
    build_report(runs, study="<b>x</b>", out_dir=tmp_path, axes=[], **QUICK)
    page = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in page
    assert "<b>x</b>" not in page


def test_settings_are_ranked_with_seeds_and_standard_errors(reported):
    document, out = reported
    fit = document.findings.fit
    ranking, sigma = fit.ranking, fit.noise_floor.sigma
    assert [r.error for r in ranking] == sorted(r.error for r in ranking)
    assert all(r.num_seeds == 2 for r in ranking)
    best, last = ranking[0], ranking[-1]
    gap = np.log(last.error / best.error)
    assert last.delta_over_sigma == pytest.approx(gap / sigma)  # sqrt(1/2 + 1/2) = 1
    assert best.delta_percent == 0
    page = (out / "report.html").read_text()
    for heading in ("delta_over_sigma", "num_seeds"):
        assert page.count(heading) >= 2  # of settings, and of runs


def test_the_page_leads_with_a_line_an_axis_and_what_to_buy(reported):
    document, out = reported
    rows = summary_rows(document.findings.fit)
    assert [r["trend"] for r in rows] == ["falls"] * 3
    for row in rows:
        assert re.match(r"\d+ runs? at \S+ \((new level|another seed)\)", row["buy next"])
    page = (out / "report.html").read_text()
    assert page.index("next doubling buys") < page.index("The error falls with")


def test_what_to_buy_weighs_knowledge_against_its_price():
    runs = demo_study().assign(gpu_hours=1.0)
    cheap = fit_study(runs, axes=["domains"], **QUICK).axes["domains"].fitted.next_runs
    assert cheap.unit == "GPU-hours"
    assert cheap.rows[0].level > 7  # beyond the data, where the prediction is least sure
    assert cheap.rows[-1].spent <= cheap.budget
    sds = [(r.sd_percent_before, r.sd_percent_after) for r in cheap.rows]
    assert all(after < before for before, after in sds)
    steep = runs.assign(gpu_hours=runs["num_domains"].astype(float) ** 6)
    dear = fit_study(steep, axes=["domains"], **QUICK).axes["domains"].fitted.next_runs
    assert dear.rows[0].level < cheap.rows[0].level


def test_the_papers_numbers_stand_beside_ours_and_are_called_published(reported):
    document, out = reported
    rows = error_rows(document.findings.fit, document.findings.references)
    assert {"what": "Table 1: +Scaling up", "val_l1": None, PUBLISHED: 0.032} in rows
    ours = [r for r in rows if r["what"].startswith("this study, best")]
    assert ours[0]["val_l1"] == pytest.approx(min(r.error for r in document.findings.fit.ranking))
    assert ours[0][PUBLISHED] is None
    page = (out / "report.html").read_text()
    for number in (2, 3, 13, 18):
        assert f"Table {number} (published, not reproduced)" in page


def test_every_point_of_a_figure_can_name_its_run(reported):
    document, out = reported
    page = (out / "report.html").read_text()
    hovers = [
        json.loads(text)
        for text in re.findall(r'<script type="application/json">(.*?)</script>', page)
    ]
    marks = hovers[0]["marks"]["runs-N"]
    points = document.findings.fit.axes["N"].data.points
    assert [m["run"] for m in marks] == [p.run_id for p in points]
    panel = hovers[0]["panels"][0]
    assert panel["id"] == "panel-N"
    assert panel["low"] < points[0].x < points[-1].x < panel["high"]
    svg = (out / "figures" / "axes.svg").read_text()
    assert 'id="runs-N"' in svg
    assert 'id="panel-N"' in svg
