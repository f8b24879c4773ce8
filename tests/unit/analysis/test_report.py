"""The report: what it says, what it refuses to say, and that it needs nothing but itself."""

import json
import re

import pandas as pd
import pytest
from studies import demo_study

from analysis.report import build_report, fit_study, render_fit

QUICK = {"num_draws": 60}


def test_every_axis_of_a_falling_study_is_said_to_fall(reported):
    document, _ = reported
    assert set(document["axes"]) == {"N", "episodes", "domains"}
    for result in document["axes"].values():
        assert result["status"] == "fitted"
        assert result["trend"]["verdict"] == "falls"
        low, high = result["law"]["params"]["alpha"]["bootstrap"]
        assert low < result["law"]["params"]["alpha"]["value"] < high
    assert document["joint"]["status"] == "fitted"
    assert document["noise_floor"]["sigma"] == pytest.approx(0.02, rel=0.6)


def test_text_names_estimator_sigma_and_seeds(reported):
    document, _ = reported
    text = render_fit(document)
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


def test_figures_are_written_as_png_and_svg(reported):
    document, out = reported
    names = {p.name for p in (out / "figures").iterdir()}
    assert {"axes.png", "axes.svg", "axis_N.png", "curves.svg"} <= names
    assert len(document["paths"]["figures"]) == len(names)


def test_record_is_strict_json_and_refits_to_the_same_law(reported):
    document, out = reported
    record = json.loads((out / "record.json").read_text(), parse_constant=pytest.fail)
    points = pd.DataFrame(record["axes"]["domains"]["points"])
    table = pd.DataFrame({"domains": points["x"], record["y"]: points["y"]})
    again = fit_study(table, y=record["y"], loss=record["loss"], delta=record["delta"], **QUICK)
    law = again["axes"]["domains"]["law"]
    assert law["cost"] == pytest.approx(record["axes"]["domains"]["law"]["cost"], rel=1e-9)
    assert record["data_sha256"] == document["data_sha256"]


def test_runs_that_do_not_beat_the_trivial_predictors_are_named(tmp_path):
    runs = demo_study()
    runs.loc[3, "val_l1"] = 0.5
    document = build_report(runs, study="s", out_dir=tmp_path, axes=["N"], **QUICK)
    assert document["not_beating"] == [runs.loc[3, "run_id"]]
    assert "do NOT beat" in (tmp_path / "report.html").read_text()


def test_a_flat_study_says_plainly_that_the_error_does_not_fall(tmp_path):
    document = build_report(demo_study(falls=False), study="flat", out_dir=tmp_path, **QUICK)
    for result in document["axes"].values():
        low, high = result["trend"]["interval"]
        assert low < 0 < high or result["trend"]["verdict"] != "does not fall"
    flat = [r for r in document["axes"].values() if r["trend"]["verdict"] == "does not fall"]
    assert len(flat) >= 2
    page = (tmp_path / "report.html").read_text()
    assert "does not fall measurably" in page
    assert "No gain is promised" in page


def test_two_levels_are_refused_with_the_reason(tmp_path):
    runs = demo_study()
    runs = runs[runs["size"].isin(["h64", "h16"])]
    document = build_report(runs, study="few", out_dir=tmp_path, axes=["N"], **QUICK)
    assert document["axes"]["N"]["status"] == "refused"
    assert "2 levels" in document["axes"]["N"]["reason"]
    assert "No law along parameters: 2 levels" in (tmp_path / "report.html").read_text()


def test_one_seed_gives_no_noise_floor_but_a_report(tmp_path):
    document = build_report(
        demo_study(seeds=1), study="one", out_dir=tmp_path, axes=["domains"], **QUICK
    )
    assert document["noise_floor"] is None
    assert "Seed noise is unknown" in (tmp_path / "report.html").read_text()


def test_as_many_parameters_as_runs_gives_a_curve_without_intervals(tmp_path):
    runs = demo_study(seeds=1)
    runs = runs[runs["size"].isin(["h16", "h64", "h128"]) & (runs["num_domains"] == 7)]
    runs = runs[runs["episodes_per_domain"] == 40]
    document = build_report(runs, study="three", out_dir=tmp_path, **QUICK)
    result = document["axes"]["N"]
    assert result["status"] == "fitted"
    assert result["law"]["sigma"] is None
    assert result["saturation"]["verdict"] == "undecidable"
    assert result["law"]["params"]["E"]["profile"] is None
    assert "no noise estimate" in render_fit(document)
    json.dumps(document, allow_nan=False)


def test_a_single_run_is_reported_without_any_law(tmp_path):
    document = build_report(demo_study().head(1), study="single", out_dir=tmp_path, **QUICK)
    assert document["axes"] == {}
    assert "no law" in (tmp_path / "report.html").read_text()


def test_no_usable_run_is_an_error_that_counts():
    runs = demo_study().assign(state="failed")
    with pytest.raises(ValueError, match="22 runs not done"):
        fit_study(runs, study="none")


def test_any_table_with_named_columns_can_be_fitted():
    table = pd.DataFrame({"N": [1e6, 1e7, 1e8, 1e9] * 2})
    table["loss"] = 2 + 50 * table["N"] ** -0.3
    document = fit_study(table, y="loss", **QUICK)
    params = document["axes"]["N"]["law"]["params"]
    assert params["E"]["value"] == pytest.approx(2, rel=1e-6)
    assert params["alpha"]["value"] == pytest.approx(0.3, rel=1e-6)


def test_text_in_tables_is_escaped(tmp_path):
    runs = demo_study()
    runs["axis_note"] = "<script>alert(1)</script>"
    build_report(runs, study="<b>x</b>", out_dir=tmp_path, axes=[], **QUICK)
    page = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in page
    assert "<b>x</b>" not in page
