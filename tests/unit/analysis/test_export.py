"""The exported tables: exact columns, states read from folders, replayed steps counted once."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from scaling.runs.table import CURVE_COLUMNS, RUN_COLUMNS, export_study

ROW = {
    "study": "sweeps.toy",
    "stage": "pretrain",
    "seed": 0,
    "size": "tiny",
    "num_params_total": 1_000_000,
    "num_params_policy": 400_000,
    "num_params_trainable": 1_000_000,
    "num_samples_seen": 6400,
    "num_unique_episodes": 280,
    "num_domains": 7,
    "soft_prompt_length": 4,
    "prediction_window_s": 4.0,
    "compute_flops": 1e12,
    "axis_size": "tiny",
}


def write_run(folder, *, done=True):
    (folder / "attempts").mkdir(parents=True)
    (folder / "run.yaml").write_text("init:\n  checkpoint: runs/aaaa/checkpoints/step_0000100\n")
    (folder / "env.json").write_text(json.dumps({"code_digest": "c0ffee"}))
    for number, hours in ((1, 0.5), (2, 0.25)):
        record = {"gpu_hours": hours, "start": 1.0, "end": 2.0, "reason": "signal"}
        (folder / "attempts" / f"{number:04d}.json").write_text(json.dumps(record))
    head = {"num_samples_seen": 640, "time": 1.0, "attempt": 1}
    lines = [
        {"step": 10, **head, "loss/train": 3.0},
        {"step": 10, **head, "attempt": 2, "loss/train": 2.5},
        {"step": 20, **head, "val/l1": 0.09, "val/l1/sim_panda": 0.1},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines) + '{"st')
    if done:
        metrics = {
            "val/l1": 0.08,
            "val/l1_sem": 0.002,
            "val/l1_all": 0.085,
            "val/l1/sim_panda": 0.09,
            "test/l1": 0.081,
            "baseline/hold/val/l1": 0.3,
            "baseline/mean_chunk/val/l1": 0.2,
        }
        (folder / "DONE").write_text(json.dumps({"metrics": metrics, "step": 20, "time": 2.0}))


@pytest.fixture
def exported(tmp_path):
    write_run(tmp_path / "runs" / "000000000001")
    write_run(tmp_path / "runs" / "000000000002", done=False)
    failed = tmp_path / "runs" / "000000000003"
    failed.mkdir()
    (failed / "FAILED").write_text(json.dumps({"reason": "out of memory"}))
    rows = [ROW | {"run_id": f"{i:012x}"} for i in range(1, 5)]
    result = export_study(rows, tmp_path / "runs", tmp_path / "exports" / "sweeps.toy")
    return result, pd.read_parquet(result.runs), pd.read_parquet(result.curves)


def test_runs_have_the_contracts_columns_first_and_in_order(exported):
    _, runs, _ = exported
    assert tuple(runs.columns[: len(RUN_COLUMNS)]) == RUN_COLUMNS
    assert {"val_l1_sim_panda", "test_l1", "baseline_hold_l1", "axis_size"} <= set(runs.columns)


def test_states_come_from_the_folders(exported):
    result, runs, _ = exported
    assert list(runs["state"]) == ["done", "preempted", "failed", "planned"]
    assert (result.num_runs, result.num_done) == (4, 1)


def test_final_metrics_come_from_done_and_hours_add_up(exported):
    _, runs, _ = exported
    first, second = runs.iloc[0], runs.iloc[1]
    assert first["val_l1"] == 0.08
    assert first["val_l1_all"] == 0.085
    assert first["baseline_mean_chunk_l1"] == 0.2
    assert first["gpu_hours"] == 0.75
    assert first["code_digest"] == "c0ffee"
    assert first["parent_checkpoint"].endswith("step_0000100")
    assert second["val_l1"] == 0.09
    assert runs["val_l1"].isna().tolist() == [False, False, True, True]


def test_curves_are_long_and_a_replayed_step_counts_once(exported):
    _, _, curves = exported
    assert tuple(curves.columns) == CURVE_COLUMNS
    one = curves[(curves["run_id"] == "000000000001") & (curves["metric"] == "loss_train")]
    assert one[["step", "value"]].to_numpy().tolist() == [[10, 2.5]]
    assert not curves["metric"].str.contains("/").any()


def test_a_run_given_twice_is_refused(tmp_path):
    rows = [ROW | {"run_id": "a"}, ROW | {"run_id": "a"}]
    with pytest.raises(ValueError, match="more than once"):
        export_study(rows, tmp_path, tmp_path / "out")


def test_a_damaged_run_yaml_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    (tmp_path / "a" / "run.yaml").write_text("init: [1, 2\n")
    rows = [ROW | {"run_id": "a"}]
    found = export_study(rows, tmp_path, tmp_path / "out")
    assert found.states == {"unknown": 1}
    (problem,) = found.problems
    assert re.search(r"a/run\.yaml is damaged .*delete it", problem)
