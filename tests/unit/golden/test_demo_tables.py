"""What the verbs on a finished study say of the demo's own runs: states, tables, laws, lineage."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from golden_files import (
    call_done,
    call_json,
    check_fitted,
    check_json,
    check_text,
    scrub,
    usual_places,
)

STUDY = "sweeps.demo"


@pytest.fixture
def places(demo: Path) -> dict[str, Path | str]:
    """The paths that differ between machines."""
    return usual_places(demo.parent)


@pytest.fixture
def finetuned(demo: Path) -> str:
    """Id of the run that was finetuned from the best of the study."""
    (found,) = (p.parent for p in demo.glob("*/run.yaml") if "stage: finetune" in p.read_text())
    return found.name


@pytest.mark.parametrize("verb", ["plan", "status"])
def test_a_finished_study_is_shown_as_it_was(verb: str, demo: Path) -> None:
    check_json(f"demo-{verb}.json", call_json(verb, STUDY, "--runs", str(demo)))
    check_text(f"demo-{verb}.txt", call_done(verb, STUDY, "--runs", str(demo)), exact=False)


def test_a_selection_of_runs_is_what_it_was(demo: Path) -> None:
    words = ["status", STUDY, "--select", "size=tiny,domains=7", "--runs", str(demo)]
    check_json("demo-status-selected.json", [row["run_id"] for row in call_json(*words)["runs"]])


def test_the_best_checkpoint_is_registered_as_it_was(demo: Path, places) -> None:
    found = {
        "of all": call_json("best", STUDY, "--runs", str(demo)),
        "of all again": call_json("best", STUDY, "--runs", str(demo)),
        "of one size": call_json("best", STUDY, "--size", "tiny-h16", "--runs", str(demo)),
    }
    check_json("demo-best.json", scrub(found, places))


def test_parents_and_children_of_a_run(demo, finetuned, places) -> None:
    tree = call_json("lineage", finetuned, "--runs", str(demo))
    parent = call_json("lineage", tree["parents"][0]["run_id"], "--runs", str(demo))
    check_json("demo-lineage.json", scrub({"finetuned": tree, "parent": parent}, places))
    text = call_done("lineage", finetuned, "--runs", str(demo))
    check_text("demo-lineage.txt", text)


def test_the_table_of_runs_holds_what_it_held(demo, places) -> None:
    document = call_json("export", STUDY, "--runs", str(demo))
    check_json("demo-export.json", scrub(document, places))
    table = pd.read_parquet(document["runs"])
    by_column = {
        name: {"type": str(column.dtype)} | dict(zip(table["run_id"], _plain(column), strict=True))
        for name, column in table.items()
    }
    check_json("demo-runs-table.json", scrub(by_column, places))


def test_the_table_of_curves_holds_what_it_held(demo: Path) -> None:
    table = pd.read_parquet(call_json("export", STUDY, "--runs", str(demo))["curves"])
    document = {"types": {name: str(column.dtype) for name, column in table.items()}}
    for key in ("metric", "run_id"):  # between them they name the curve that changed
        groups = table.groupby(key, sort=False)
        document[key] = {name: _summary(rows) for name, rows in groups}
    check_json("demo-curves-table.json", document)


@pytest.mark.parametrize(
    ("name", "words"),
    {
        "auto": ["--n-column", "num_params_policy", "--draws", "20"],
        "power": [
            "--law",
            "power",
            "--axes",
            "num_params_policy",
            "--loss",
            "ls",
            "--draws",
            "50",
        ],
    }.items(),
)
def test_the_laws_are_what_they_were(name: str, words: list[str], demo: Path, places) -> None:
    command = ["fit", STUDY, *words, "--runs", str(demo)]
    check_fitted(f"demo-fit-{name}.json", scrub(call_json(*command), places))


def _plain(column: "pd.Series[Any]") -> list[Any]:
    """Return the values of a column as JSON has them, None where there is none."""
    return [None if pd.isna(value) else value for value in column.tolist()]


def _summary(rows: pd.DataFrame) -> str:
    """Return the number of points of curves, and a digest of them all in their order.

    The points are numbers read from text, so every machine has the same bits.
    """
    digest = hashlib.sha256(json.dumps(rows.values.tolist()).encode()).hexdigest()[:12]
    return f"{len(rows)} points, digest {digest}"
