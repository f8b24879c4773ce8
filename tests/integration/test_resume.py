"""kill -9 in the middle, signals, torn and corrupt files: the run ends as if undisturbed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

pytestmark = pytest.mark.integration


def start(run_yaml: Path) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "scaling.train", str(run_yaml)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(run_yaml: Path) -> str:
    process = start(run_yaml)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    return output


def wait_for_checkpoint(run_yaml: Path, step: int) -> None:
    path = run_yaml.parent / "checkpoints" / f"step_{step:07d}"
    for _ in range(12_000):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"no checkpoint {path}")


def metrics(run_yaml: Path) -> dict:
    return json.loads((run_yaml.parent / "DONE").read_text())["metrics"]


def without_time(values: dict) -> dict:
    return {key: value for key, value in values.items() if key != "compute/gpu_hours"}


def test_killed_run_ends_bit_identical(make_run) -> None:
    steps = "num_steps=200"
    whole = make_run(steps, folder="whole")
    broken = make_run(steps, folder="broken")
    finish(whole)
    process = start(broken)
    wait_for_checkpoint(broken, 8)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (broken.parent / "DONE").exists()
    finish(broken)
    assert without_time(metrics(broken)) == without_time(metrics(whole))
    reasons = [
        json.loads(path.read_text())["reason"]
        for path in sorted((broken.parent / "attempts").glob("*.json"))
    ]
    assert reasons == ["killed", "done"]
    episodes = [pd.read_parquet(path.parent / "val_episodes.parquet") for path in (whole, broken)]
    pd.testing.assert_frame_equal(*episodes)


def test_sigterm_saves_and_exits_85(make_run) -> None:
    run_yaml = make_run("num_steps=2000", "engine.save_every=0")
    process = start(run_yaml)
    for _ in range(12_000):
        path = run_yaml.parent / "metrics.jsonl"
        if path.exists() and path.read_text().count("\n") > 3:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=400) == 85
    saved = list((run_yaml.parent / "checkpoints").glob("step_*"))
    assert len(saved) == 1
    assert 0 < int(saved[0].name.removeprefix("step_")) < 2000


def test_corrupt_newest_checkpoint_is_passed_over_loudly(make_run) -> None:
    run_yaml = make_run("num_steps=200")
    process = start(run_yaml)
    wait_for_checkpoint(run_yaml, 12)
    process.send_signal(signal.SIGKILL)
    process.wait()
    newest = sorted((run_yaml.parent / "checkpoints").glob("step_*"))[-1]
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    output = finish(run_yaml)
    assert f"skipping checkpoint {newest}" in output
    first_steps = [
        json.loads(path.read_text())["first_step"]
        for path in sorted((run_yaml.parent / "attempts").glob("*.json"))
    ]
    assert first_steps[1] == int(newest.name.removeprefix("step_")) - 4


def test_second_process_on_a_run_is_refused(make_run) -> None:
    run_yaml = make_run("num_steps=2000")
    first = start(run_yaml)
    try:
        for _ in range(12_000):
            if (run_yaml.parent / ".lock").exists():
                break
            time.sleep(0.05)
        second = subprocess.run(
            [sys.executable, "-m", "scaling.train", str(run_yaml)], capture_output=True, text=True
        )
        assert second.returncode == 2
        assert "in use by another process" in second.stderr
        assert second.stderr.count("\n") == 1
    finally:
        first.kill()
        first.wait()
