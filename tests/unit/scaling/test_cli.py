"""The command line: exit codes, one line on stderr, JSON alone on stdout, tables."""

import json
import os
import re
import socket
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jobs.executor import Link
from scaling.cli import main
from scaling.search.runs import RUNS, RunList, search_folder
from scaling.search.task import Task
from scaling.spec import RunSpec
from scaling.study import load_study


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


def write_state(runs: Path, run_id: str, **marker: object) -> Path:
    """Make a run done (metrics given) or failed (reason given)."""
    folder = runs / run_id
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ("FAILED" if "reason" in marker else "DONE")).write_text(json.dumps(marker))
    return folder


@pytest.fixture
def demo(tmp_path: Path) -> tuple[Path, list[RunSpec]]:
    """The demo's runs: the first done, the second failed, the others planned."""
    runs, specs = tmp_path / "runs", load_study("sweeps.demo").expand()
    write_state(runs, specs[0].run_id, step=500, metrics={"val/l1": 0.03})
    write_state(runs, specs[1].run_id, reason="loss is nan")
    return runs, specs


def test_selectors_reach_status_retry_and_prune(capsys, demo) -> None:
    runs, specs = demo
    where = ["--runs", str(runs), "--json", "--select"]
    assert main(["status", "sweeps.demo", *where, "size=tiny-h32,state=failed"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["counts"] == {"failed": 1}
    assert document["runs"][0]["reason"] == "loss is nan"
    checkpoints = runs / specs[0].run_id / "checkpoints"
    for step in ("step_0000250", "step_0000500"):
        (checkpoints / step).mkdir(parents=True)
        (checkpoints / step / "manifest.json").write_text("{}")
    (checkpoints / "latest").write_text("step_0000500")
    assert main(["prune", "sweeps.demo", *where, "state=done|failed", "--yes"]) == 0
    assert len(json.loads(capsys.readouterr().out)["checkpoints"]) == 1
    assert [path.name for path in sorted(checkpoints.glob("step_*"))] == ["step_0000500"]
    assert main(["retry", "sweeps.demo", *where, "state=failed"]) == 0
    assert json.loads(capsys.readouterr().out) == [specs[1].run_id]
    assert not (runs / specs[1].run_id / "FAILED").exists()


@pytest.mark.parametrize("verb", ["status", "cancel", "retry", "prune"])
@pytest.mark.parametrize(
    ("selector", "words"),
    [
        ("size=0.3b,state=failed",
         r"matches none of 22 runs \(1 done, 1 failed, 20 planned\); keys: attempts, blind, "
         r"domains, episodes_per_domain, .*scale, size, stage, state, .*study"),
        ("colour=red", r"key 'colour' is unknown; allowed: .*size.*state"),
        ("failed", r"not of the form key=value, e\.g\. state=failed"),
    ],
)  # fmt: skip
def test_selectors_that_choose_nothing(capsys, demo, verb: str, selector: str, words: str) -> None:
    assert main([verb, "sweeps.demo", "--runs", str(demo[0]), "--select", selector]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert re.search(words, captured.err), captured.err


def test_the_trials_of_a_search_are_in_its_status(capsys, tmp_path: Path) -> None:
    study = load_study("sweeps.prompt_and_window")
    task = Task(study=study.name, scale="cpu", search=study.search)
    point = {"soft_prompt_length": 23, "prediction_window_s": 2.0}
    RunList(path=search_folder(tmp_path, study.name) / RUNS, task=task).add([(point, 0)])
    write_state(tmp_path, task.spec(point).run_id, step=500, metrics={"val/l1": 0.03})
    assert main(["status", study.name, "--runs", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["counts"] == {"planned": 5, "done": 1}
    assert document["runs"][-1]["axes"] == point
    assert main(["plan", study.name, "--runs", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["totals"]["num_runs"] == 5  # what submit knows


@pytest.fixture
def two_looks(demo, monkeypatch):
    """A run that is under way at the first look, with a heartbeat, and done at the second."""
    runs, specs = demo
    folder = runs / specs[2].run_id
    folder.mkdir()
    beat = {"time": time.time(), "pid": os.getpid(), "host": socket.gethostname(), "step": 120,
            "num_steps": 500, "samples_per_s": 81.5, "eta_s": 75.0, "val_l1": 0.05}  # fmt: skip
    (folder / "heartbeat.json").write_text(json.dumps(beat))
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        write_state(runs, specs[2].run_id, step=500, metrics={"val/l1": 0.04})

    monkeypatch.setattr("scaling.cli.study.time.sleep", sleep)
    return runs, looks


def test_watching_ends_when_nothing_runs(capsys, two_looks) -> None:
    runs, looks = two_looks
    assert main(["status", "sweeps.demo", "--watch", "--runs", str(runs)]) == 0
    shown = capsys.readouterr().out
    assert len(looks) == 1
    assert shown.count("sweeps.demo") == 2  # piped: one table below the other
    assert "120/500  24%" in shown
    assert "81.5" in shown
    assert "1:15" in shown
    assert "2 done" in shown


def test_watching_as_json_is_one_document(capsys, two_looks) -> None:
    assert main(["status", "sweeps.demo", "--watch", "--json", "--runs", str(two_looks[0])]) == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"done": 2, "failed": 1, "planned": 19}


def test_watching_in_a_terminal_redraws_in_place(capsys, two_looks, monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("LINES", "14")
    assert main(["status", "sweeps.demo", "--watch", "--runs", str(two_looks[0])]) == 0
    shown = capsys.readouterr().out
    assert "\x1b[1A" in shown  # the cursor goes back up
    first, second = shown.split("not shown")[:2]
    assert "24%" in first  # what runs stays in sight of a low window
    assert "24%" not in second


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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["submit", "sweeps.demo", "--on", "a100", "--parallel", "-1"], "--parallel: '-1'; give a"),
        (["submit", "sweeps.demo", "--on", "a100", "--max-gpu-hours", "nan"], "'nan'; give a"),
        (["submit", "sweeps.demo", "--on", "a100", "--max-gpu-hours=-5"], "'-5'; give a number"),
        (["plan"], "the following arguments are required: STUDY; see"),
        (["search", "sweeps.prompt_and_window", "--top", "-1"], "--top: '-1'; give a whole"),
        (["search", "sweeps.prompt_and_window", "--repeats", "1.5"], "--repeats: '1.5'; give a"),
    ],
)
def test_numbers_out_of_range_are_refused(capsys, words: list[str], said: str) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_a_log_as_json_is_one_document(capsys, tmp_path: Path) -> None:
    log = tmp_path / "0123456789ab" / "train.log"
    log.parent.mkdir()
    log.write_text("starts\nsaves\n")
    assert main(["logs", "0123", "--json", "--runs", str(tmp_path)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == {"run_id": "0123456789ab", "log": str(log), "lines": ["starts", "saves"]}


def test_status_ends_with_the_chain_behind_the_study(capsys, tmp_path, monkeypatch) -> None:
    links = [
        Link(job_id="7", command="fit s", state="failed", reason="no [/x]", log="l"),
        Link(job_id="8", command="report s", state="waiting", reason=None, log="m"),
    ]
    monkeypatch.setattr("jobs.slurm.chain.chain_state", lambda runs, study: links)
    words = ["status", "sweeps.demo", "--runs", str(tmp_path)]
    assert main(words) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[-2:] == ["then fit s: failed (no [/x]), job 7", "then report s: waiting, job 8"]
    assert main([*words, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"study", "counts", "runs"}


def test_fit_refuses_a_column_of_n_that_is_not_there(capsys, tmp_path) -> None:
    table = pd.DataFrame({"run_id": list("abc"), "num_params_total": [1, 2, 3], "val_l1": 0.1})
    table.to_csv(tmp_path / "t.csv", index=False)
    assert main(["fit", str(tmp_path / "t.csv"), "--n-column", "depth"]) == 2
    words = "n_column 'depth' is not in the table; allowed: num_params_total"
    assert words in capsys.readouterr().err


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
