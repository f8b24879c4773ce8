"""The command line: exit codes, one line on stderr, JSON alone on stdout, tables."""

import json

import numpy as np
import pandas as pd
import pytest

from scaling.cli import main


def test_plan_json_has_the_contract_keys(capsys, tmp_path) -> None:
    assert main(["plan", "sweeps.pretrain", "--runs", str(tmp_path / "runs"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"schema", "study", "scale", "runs", "totals"}
    (row,) = document["runs"]
    assert set(row) == {
        "run_id", "axes", "num_params_total", "num_params_trainable", "num_params_policy",
        "num_samples_seen", "num_unique_episodes", "num_domains", "seed", "global_batch_size",
        "num_steps", "compute_flops", "nodes", "gpus_per_node", "memory_gib_per_gpu", "gpu_hours",
        "gpu_hours_low", "gpu_hours_high", "state",
    }  # fmt: skip
    assert row["num_params_total"] == 879_482_456
    assert row["gpu_hours_low"] < row["gpu_hours"] < row["gpu_hours_high"]
    assert not (tmp_path / "runs").exists()


def test_status_of_a_study_that_never_ran(capsys, tmp_path) -> None:
    assert main(["status", "sweeps.demo", "--runs", str(tmp_path / "runs"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["counts"] == {"planned": 22}
    assert set(document["runs"][0]) == {
        "run_id", "axes", "state", "step", "num_steps", "samples_per_s", "eta_s", "val_l1",
        "attempts", "job_id", "reason",
    }  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [["nothing"], ["plan"], ["plan", "sweeps.nothing"], ["plan", "sweeps.demo", "model.depht=3"]],
)
def test_mistakes_exit_2_with_one_line(capsys, words: list[str]) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1


def test_fit_takes_a_table(capsys, tmp_path) -> None:
    rng = np.random.default_rng(0)
    size = np.repeat([1e5, 3e5, 1e6, 3e6, 1e7], 3)
    error = (0.05 + 3.0 * size**-0.4) * np.exp(0.01 * rng.standard_normal(len(size)))
    table = pd.DataFrame(
        {
            "run_id": [f"r{i}" for i in range(len(size))],
            "num_params_total": size,
            "seed": np.tile([0, 1, 2], 5),
            "val_l1": error,
        }
    )
    path = tmp_path / "table.csv"
    table.to_csv(path, index=False)
    assert main(["fit", str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    exponent = document["axes"]["N"]["law"]["params"]["alpha"]
    low, high = exponent["profile"]
    assert low < 0.4 < high
