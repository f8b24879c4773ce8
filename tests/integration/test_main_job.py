"""The main job through the command line: plan, submit, status, best, finetune, report, twice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

pytestmark = pytest.mark.integration

STUDY = """
from dataclasses import replace
from scaling.config import with_overrides
from scaling.study import Study
from sweeps._mixtures import simulated_run, with_axes

SHORT = ["num_steps=6", "global_batch_size=4", "data.start_stride=40", "engine.eval_every=3",
         "data.eval_starts_per_episode=1", "data.eval_starts_other=1", "engine.log_every=2"]

def runs():
    for seed in (0, 1):
        for size in ("tiny-h16", "tiny-h32", "tiny"):
            spec = simulated_run(size, domains=1, episodes=4, seed=seed)
            yield with_axes(with_overrides(spec, SHORT), size=size)
    blind = simulated_run("tiny", domains=1, episodes=4, blind=True)
    yield with_axes(with_overrides(blind, SHORT), blind=1)

STUDY = Study(name=__name__, description="short", varies=("size",), holds_fixed="all else",
              runs={"cpu": runs})
"""


class Shell:
    """Runs `scaling` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "short_study.py").write_text(STUDY)
        self.environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}

    def __call__(self, *words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "scaling", *words],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=900,
        )  # fmt: skip

    def json(self, *words: str):
        done = self(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def shell(tmp_path_factory) -> Shell:
    return Shell(tmp_path_factory.mktemp("main_job"))


@pytest.fixture(scope="module")
def submitted(shell: Shell) -> dict:
    return shell.json("submit", "short_study", "--parallel", "2")


def test_plan_prices_without_side_effects(shell: Shell) -> None:
    document = shell.json("plan", "short_study")
    assert document["schema"] == 1
    assert document["totals"]["num_runs"] == len(document["runs"]) == 7
    row = document["runs"][0]
    assert row["num_params_total"] > row["num_params_policy"] > 0
    assert row["num_samples_seen"] == 24
    assert row["gpu_hours"] is None
    assert {run["num_params_policy"] for run in document["runs"]} == {59592, 137432, 373400}


def test_submit_runs_all_and_repeats_nothing(shell: Shell, submitted: dict) -> None:
    assert (submitted["submitted"], submitted["done"]) == (7, 7)
    again = shell.json("submit", "short_study", "--parallel", "2")
    assert (again["submitted"], again["skipped_done"]) == (0, 7)
    status = shell.json("status", "short_study")
    assert status["counts"] == {"done": 7}
    assert all(row["val_l1"] > 0 for row in status["runs"])


def test_run_folder_is_the_contract(shell: Shell, submitted: dict) -> None:
    folder = shell.folder / "runs" / submitted["runs"][0]["run_id"]
    for name in ("run.yaml", "env.json", "heartbeat.json", "metrics.jsonl", "DONE",
                 "val_episodes.parquet", "attempts/0001.json", "checkpoints/latest"):  # fmt: skip
        assert (folder / name).exists(), name
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    training = next(line for line in lines if "loss/train" in line)
    for key in ("step", "num_samples_seen", "time", "attempt", "loss/position_loss",
                "lr/transformer_core", "grad_norm/total", "grad_norm/soft_prompts",
                "throughput/samples_per_s", "data_wait_percent"):  # fmt: skip
        assert key in training
    assert "val/l1" in next(
        line for line in lines if line["step"] == 3 and "loss/train" not in line
    )
    final = json.loads((folder / "DONE").read_text())["metrics"]
    for key in ("val/l1", "val/l1_sem", "val/l1_all", "test/l1", "val/l1/sim_kinova3_dual",
                "baseline/hold/val/l1", "baseline/mean_chunk/test/l1",
                "compute/flops"):  # fmt: skip
        assert key in final
    episodes = pd.read_parquet(folder / "val_episodes.parquet")
    assert set(episodes["split"]) == {"val", "test"}


def test_best_is_the_lowest_sighted_run(shell: Shell, submitted: dict) -> None:
    best = shell.json("best", "short_study")
    status = shell.json("status", "short_study")
    sighted = [row for row in status["runs"] if "blind" not in row["axes"]]
    assert best["run_id"] == min(sighted, key=lambda row: row["val_l1"])["run_id"]
    assert (best["model_name"], best["alias"]) == ("short_study", "best")
    assert (Path(best["checkpoint"]) / "model.safetensors").exists()
    assert len(best["sha256"]) == 64


def test_finetune_from_best_then_report(shell: Shell, submitted: dict) -> None:
    words = ("finetune", "--from", "best:short_study", "--domain", "sim_xarm7",
             "num_steps=8", "optim.freeze_steps=3", "schedule.warmup_steps=2")  # fmt: skip
    tuned = shell.json(*words)
    assert tuned["domain"] == "sim_xarm7"
    assert tuned["val_l1_after"] < tuned["val_l1_before"]
    assert tuned["parent"] == shell.json("best", "short_study")["run_id"]
    assert shell.json(*words) == tuned  # asked again: nothing to do, the same answer
    lineage = shell("lineage", tuned["run_id"])
    assert tuned["parent"] in lineage.stdout

    report = shell("report", "short_study")
    assert report.returncode == 0, report.stderr
    for words_of in ("blind", "sim_xarm7", "Best run", "report.html", "mlflow"):
        assert words_of in report.stdout
    page = (shell.folder / "reports" / "short_study" / "report.html").read_text()
    assert "imulated" in page
    exported = pd.read_parquet(shell.folder / "exports" / "short_study" / "runs.parquet")
    assert len(exported) == 7
    assert exported["val_l1"].notna().all()


def test_runs_are_in_mlflow(shell: Shell, submitted: dict) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{shell.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("short_study")
    runs = client.search_runs([experiment.experiment_id], "tags.stage = 'pretrain'")
    runs = [run for run in runs if "run_key" in run.data.tags]
    assert len({run.data.tags["run_key"] for run in runs}) == 7
    assert all("val/l1" in run.data.metrics for run in runs)
