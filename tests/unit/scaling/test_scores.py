"""--score: a study's runs by another measure than val/l1, in its table and its report."""

import json
from pathlib import Path

import pandas as pd
import pytest

from scaling.cli import main
from scaling.cli.scores import score_columns
from scaling.search.task import Score
from scaling.spec import RunSpec
from scaling.study import load_study

STUDY = "sweeps.prediction_window"


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, list[RunSpec]]:
    """All runs of the study, done: val/l1 rises with the window, as nearer targets make it."""
    folder, specs = tmp_path / "runs", load_study(STUDY).expand("cpu")
    for spec in specs:
        window, noise = spec.data.prediction_window_s, 0.001 * spec.seeds.init
        last = folder / spec.run_id / "checkpoints" / f"step_{spec.num_steps:07d}"
        last.mkdir(parents=True)
        (last / "manifest.json").write_text("{}")
        spec.save(folder / spec.run_id / "run.yaml")
        metrics = {"val/l1": 0.02 * window + noise, "val/l1_sem": 0.001}
        done = {"step": spec.num_steps, "metrics": metrics}
        (folder / spec.run_id / "DONE").write_text(json.dumps(done))
    return folder, specs


@pytest.fixture
def horizon(monkeypatch) -> list[str]:
    """Replace the evaluation of checkpoints: 4 s is best. Return the runs that were evaluated."""
    evaluated = []

    def score(spec: RunSpec, checkpoint: Path, windows_s, **_) -> Score:
        assert list(windows_s) == [1.0, 2.0, 4.0, 8.0]
        evaluated.append(spec.run_id)
        return Score(value=0.1 + abs(spec.data.prediction_window_s - 4) / 100, sem=0.01)

    monkeypatch.setattr("scaling.scores.horizon_score", score)
    return evaluated


def test_the_horizon_is_scored_once_and_stays_in_the_table(capsys, runs, horizon) -> None:
    folder, specs = runs
    words = ["export", STUDY, "--runs", str(folder), "--json"]
    assert main(words) == 0
    assert "horizon_l1" not in pd.read_parquet(json.loads(capsys.readouterr().out)["runs"])
    for more in (["--score", "horizon_l1"], ["--score", "horizon_l1"], []):
        assert main([*words, *more]) == 0
        table = pd.read_parquet(json.loads(capsys.readouterr().out)["runs"])
        best = table.loc[table["horizon_l1"].idxmin()]
        assert (best["prediction_window_s"], best["horizon_l1"]) == (4.0, 0.1)
        assert set(table["horizon_l1_sem"]) == {0.01}
    assert sorted(horizon) == sorted(spec.run_id for spec in specs)


def test_success_after_adaptation_counts_where_there_are_rollouts(capsys, runs) -> None:
    folder, specs = runs
    words = ["export", STUDY, "--runs", str(folder), "--score", "adapted_success", "--json"]
    assert main(words) == 2
    assert "needs rollouts: run" in capsys.readouterr().err.splitlines()[-1]
    parent = folder / specs[0].run_id / "checkpoints" / f"step_{specs[0].num_steps:07d}"
    tuned = folder / "0123456789ab"
    tuned.mkdir()
    text = (folder / specs[0].run_id / "run.yaml").read_text().replace("pretrain", "finetune")
    text = text.replace("checkpoint: ''", f"checkpoint: {parent}", 1)
    (tuned / "run.yaml").write_text(text)
    (tuned / "DONE").write_text('{"step": 10, "metrics": {}}')
    (tuned / "rollout.json").write_text('{"episodes": 10, "successes": 8}')
    assert main(words) == 0
    table = pd.read_parquet(json.loads(capsys.readouterr().out)["runs"]).set_index("run_id")
    assert table.loc[specs[0].run_id, "adapted_failure"] == pytest.approx(0.2)
    assert table["adapted_failure"].notna().sum() == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit", STUDY, "--score", "luck"], "allowed: val_l1, horizon_l1, adapted_success"),
        (["fit", STUDY, "--score", "horizon_l1"], f"no run of {STUDY} is done in"),
        (["fit", "some.csv", "--score", "horizon_l1"], "--score belongs to a study"),
    ],
)
def test_mistakes(capsys, tmp_path: Path, words: list[str], message: str) -> None:
    assert main([*words, "--runs", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_a_study_without_runs_has_no_scores(tmp_path: Path) -> None:
    assert score_columns([], tmp_path) == {}
    assert score_columns(load_study("sweeps.demo").expand(), tmp_path) == {}
