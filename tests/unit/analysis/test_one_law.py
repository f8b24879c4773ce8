"""One law on any table with named columns, through the library and the command."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from studies import ask

from analysis.estimator import FitOptions
from analysis.law_fit import Param
from analysis.one_law import fit_table, make_law
from analysis.pages.terminal import render_law

QUICK = FitOptions(num_draws=40)


@pytest.fixture
def table():
    n, d = np.meshgrid(np.geomspace(1e6, 1e9, 6), np.geomspace(1e8, 1e11, 6))
    frame = pd.DataFrame({"Model Size": n.ravel(), "D": d.ravel(), "colour": "#fff"})
    frame["loss"] = 1.8 + 480 * frame["Model Size"] ** -0.35 + 2100 * frame["D"] ** -0.37
    return frame


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Call `scaling fit` as the command line does; return its JSON document."""
    monkeypatch.chdir(tmp_path)

    def call(frame, *words):
        frame.to_csv("table.csv", index=False)
        assert ask("fit", "table.csv", "--json", "--draws=40", *words) == 0
        return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)

    return call


def test_noiseless_chinchilla_is_recovered_from_named_columns(table, command):
    found = command(table, "--law", "chinchilla", "--loss", "huber", "--delta", "1e-3",
                    "N=Model Size")  # fmt: skip
    wanted = {"E": 1.8, "A": 480, "B": 2100, "alpha": 0.35, "beta": 0.37}
    assert found["params"] == pytest.approx(wanted, rel=1e-5)
    assert found["columns"] == {"N": "Model Size", "D": "D"}
    assert found["y"] == "loss"
    assert found["estimator"] == "huber (delta 0.001) on log residuals"
    assert set(found["intervals"]) == set(wanted)


def test_the_estimator_asked_for_is_the_one_used(table, command):
    noisy = table.assign(loss=table["loss"] * np.exp(0.01 * np.sin(np.arange(36.0) ** 2)))
    costs = {}
    for loss in ("huber", "lad", "ls"):
        found = command(noisy, "--law=chinchilla", f"--loss={loss}", "--delta=0.002")
        assert found["loss"] == loss
        costs[loss] = found["cost"]
    assert found["delta"] == 0.002
    assert costs["ls"] < costs["huber"] * 10 < costs["lad"] * 10
    assert len({f"{c:.6g}" for c in costs.values()}) == 3


def test_a_parameter_can_be_held(table):
    found = fit_table(table, make_law("chinchilla"), fixed={"E": 1.7}, options=QUICK)
    assert found.fit.params["E"] == Param(value=1.7)
    assert found.fixed == {"E": 1.7}
    assert found.to_dict()["intervals"]["E"] == {"bootstrap": None, "profile": None}
    assert "held" in render_law(found)


def test_sensitivity_is_fitted_only_when_asked(table, command):
    noisy = table.assign(loss=table["loss"] * np.exp(0.01 * np.sin(np.arange(36.0) ** 2)))
    assert "sensitivity" not in command(noisy, "--law=chinchilla", "N=Model Size")
    columns, how = {"N": "Model Size"}, replace(QUICK, sensitivity=True)
    law = fit_table(noisy, make_law("chinchilla"), columns=columns, options=how)
    assert "moves by" in render_law(law)
    found = command(noisy, "--law=chinchilla", "--sensitivity", "N=Model Size")
    told = found["sensitivity"]
    assert len(told["estimators"]) == 8
    assert {row["axis"] for row in told["levels"]} == {"N", "D"}
    assert told["target"] == pytest.approx({"N": 2e9, "D": 2e11})


def test_success_counts_are_fitted_by_the_binomial_likelihood(command):
    x = np.array([1.0, 2, 4, 8, 16, 32])
    frame = pd.DataFrame({"N": x, "failure": 0.1 + 0.7 * x**-0.8, "trials": 400})
    frame["failure"] = (frame["failure"] * 400).round() / 400
    found = command(frame, "--law=power", "--loss=binomial", "--y=failure", "--weights=trials")
    assert found["params"]["E"] == pytest.approx(0.1, abs=0.03)
    assert found["params"]["alpha"] == pytest.approx(0.8, abs=0.15)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--law", "chinchila"], "choose from constant, power"),
        (["--law", "power", "--axes", "Q"], "give Q=COLUMN"),
        (["--law", "chinchilla", "D=tokens"], "no such column"),
        (["--law", "chinchilla", "Z=D"], "no axis Z"),
        (["--law", "chinchilla", "--y", "nope"], "name the error with --y"),
        (["--law", "chinchilla", "--fixed", "E"], "--fixed NAME=NUMBER"),
        (["--law", "chinchilla", "--fixed", "E=x"], "NAME=NUMBER"),
        (["--law", "chinchilla", "--fixed", "Q=1"], "fixed has 'Q'"),
        (["--law", "chinchilla", "--weights", "w"], "no column 'w'"),
        (["--law", "additive"], "two axes or more"),
        (["--law", "chinchilla", "--axes", "N"], "has axes"),
        (["--law", "chinchilla", "--level", "95"], "between 0 and 1"),
        (["--fixed", "E=0"], "belongs to one law"),
        (["scale=a100"], "no effect on a table"),
    ],
)
def test_a_mistake_is_named_with_its_cure(table, command, words, message):
    with pytest.raises(ValueError, match=message):
        command(table, *words)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"D": -1.0}, "not positive and finite"),
        ({"D": "many"}, "no number"),
        ({"loss": float("nan")}, "no usable row"),
        ({"run_id": "a"}, "more than once"),
    ],
)
def test_values_that_cannot_be_fitted_are_refused(table, change, message):
    with pytest.raises(ValueError, match=message):
        fit_table(table.assign(**change), make_law("chinchilla"), options=QUICK)


def test_a_constant_column_is_remarked_on(table):
    found = fit_table(table.assign(D=5.0), make_law("chinchilla"), options=QUICK)
    notes = {n.code: n.message for n in found.fit.notes}
    assert "axis D has 1 levels" in notes["few_levels"]


def test_rows_without_an_error_are_counted(table):
    table.loc[:2, "loss"] = np.nan
    found = fit_table(table, make_law("chinchilla"), options=QUICK)
    assert found.num_rows == 33
    assert found.notes[0].code == "no_value"
    assert found.notes[0].value == 3
    assert found.to_dict()["notes"][0] == found.notes[0].to_dict()


def write_odd_tables(folder, table):
    """Write tables that are nearly right, each with what is wrong."""
    table.to_csv(folder / "semi.csv", sep=";")
    table.drop(columns=["colour", "D"]).to_csv(folder / "tab.csv", sep="\t", index=False)
    (folder / "latin.csv").write_bytes("Größe,loss\n1,2\n".encode("latin-1"))
    (folder / "empty.csv").write_text("")
    (folder / "bad.jsonl").write_text('{"N": 1}\n{oops\n')
    (folder / "bad.parquet").write_bytes(b"nope")
    (folder / "folder.csv").mkdir()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("semi.csv", "separate columns by commas"),
        ("tab.csv", "separate columns by commas"),
        ("latin.csv", "UTF-8"),
        ("empty.csv", "no csv table"),
        ("bad.jsonl", "no jsonl table"),
        ("bad.parquet", "no parquet table"),
        ("folder.csv", "no table at"),
    ],
)
def test_a_file_that_is_no_table_is_named(table, tmp_path, name, message):
    write_odd_tables(tmp_path, table)
    with pytest.raises(ValueError, match=message) as problem:
        ask("fit", str(tmp_path / name), "--law", "chinchilla")
    assert name in str(problem.value)


def test_padded_names_capital_suffixes_and_usual_errors_are_read(table, tmp_path, capsys):
    padded = table.rename(columns={"Model Size": " N ", "D": "D ", "loss": " loss"})
    padded.to_csv(tmp_path / "TABLE.CSV", index=False)
    for words in (["--law=chinchilla", "--fixed=E=1.8"], []):
        assert ask("fit", str(tmp_path / "TABLE.CSV"), "--json", "--draws=20", *words) == 0
        assert json.loads(capsys.readouterr().out)["y"] == "loss"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--law", "chinchilla", "--n-column", "foo"], "n_column 'foo' is not in the table"),
        (["--seed", "-1"], "0 or more"),
        (["--axes", "Q"], "no column for axis 'Q'"),
    ],
)
def test_options_without_a_meaning_are_refused(table, command, words, message):
    with pytest.raises(ValueError, match=message):
        command(table, *words)
