"""`scaling search` on real training runs: killed between ask and tell, then gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scaling.search.runs import search_specs

pytestmark = [pytest.mark.integration]
STUDY = "sweeps.prompt_and_window"
SHORT = [
    "num_steps=6", "schedule.warmup_steps=1", "engine.eval_every=3", "engine.save_every=3",
    "engine.keep_every=3", "data.eval_starts_other=1", "data.eval_starts_per_episode=4",
    "data.start_stride=40", "global_batch_size=4",
]  # fmt: skip


def command(folder: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "scaling", "search", STUDY, *words, "--json",
            "--runs", str(folder / "runs"), *SHORT]  # fmt: skip


@pytest.mark.long
def test_a_search_of_real_runs_survives_its_controllers_death(tmp_path: Path) -> None:
    words = ["--trials", "3", "--parallel", "2", "--top", "1", "--repeats", "2"]
    log = open(tmp_path / "first.log", "wb")  # noqa: SIM115
    first = subprocess.Popen(command(tmp_path, *words), stdout=log, stderr=log)
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and first.poll() is None:
        if list((tmp_path / "runs").glob("*/DONE")):
            break
        time.sleep(0.2)
    first.send_signal(signal.SIGKILL)
    first.wait()
    done = subprocess.run(command(tmp_path, *words), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["counts"]["trials"] == 3
    assert document["counts"]["complete"] + document["counts"]["pruned"] == 3
    assert document["score"] == "horizon_l1"
    best = document["best"]
    assert len(best["repeats"]) == 2
    assert best["low"] <= best["delta"] <= best["high"]
    assert best["verdict"] in ("better", "worse", "not separable")
    runs = [path.parent for path in (tmp_path / "runs").glob("*/DONE")]
    assert len(runs) == 3 - document["counts"]["pruned"] + 4
    assert all(len(list((run / "attempts").glob("*.json"))) == 1 for run in runs)
    listed = search_specs(STUDY, tmp_path / "runs")
    assert {spec.run_id for spec in listed} >= {run.name for run in runs}
    assert f"going on in {tmp_path}" in done.stderr
    assert "3/3] trial" in done.stderr
    again = subprocess.run(command(tmp_path, *words), capture_output=True, text=True)
    assert json.loads(again.stdout)["best"] == best
    assert "3 trials settled, 0 under way" in again.stderr
    assert (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweeps.demo"], "declares no search; these do: sweeps.prompt_and_window"),
        ([STUDY, "--trials", "0"], "give at least 1"),
        ([STUDY, "--sampler", "dice"], "allowed: tpe, gp, random"),
        ([STUDY, "--score", "luck"], "allowed: val_l1, horizon_l1, adapted_success"),
        ([STUDY, "--on", "moon"], "--on 'moon'"),
        ([STUDY, "--storage", "nowhere"], "not of a known form"),
        ([STUDY, "scale=moon"], "not searched at scale 'moon'"),
        ([STUDY, "model.soft_prompt_length=4"], "an override fixes"),
    ],
)
def test_mistakes_are_one_line_and_submit_nothing(
    words: list[str], message: str, tmp_path: Path
) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "scaling", "search", *words, "--runs", str(tmp_path / "runs")],
        capture_output=True, text=True, env=os.environ,
    )  # fmt: skip
    assert told.returncode == 2, told.stderr
    assert message in told.stderr
    assert told.stderr.count("\n") == 1
    assert not list(tmp_path.glob("runs/*/run.yaml"))
