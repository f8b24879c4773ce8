"""A killed `data simulate` goes on where it stopped and ends with what it would have made."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.sim]
EPISODES = 4
PATIENCE_S = 600.0


def command(out: Path, workers: int) -> list[str]:
    """Return the command under test: small pictures of two tasks in turn."""
    options = f"--episodes {EPISODES} --workers {workers} --seed 3 --size 32 --json"
    main = [sys.executable, "-m", "scaling", "data", "simulate"]
    return [*main, "sim_panda:lift+pick_place", "--out", str(out), *options.split()]


def simulate(out: Path, *, workers: int) -> dict:
    """Run the command to its end and return what it reports."""
    done = subprocess.run(
        command(out, workers), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def finished(folder: Path) -> dict[str, int]:
    """Return the recorded episodes below a folder and when each was written (ns)."""
    files = folder.glob(".killed.raw/*/*.npz")
    return {file.name: file.stat().st_mtime_ns for file in files if "partial" not in file.name}


def kill_after_one_episode(out: Path) -> None:
    """Start the command in a group of its own and kill the group when one episode is there."""
    process = subprocess.Popen(command(out, 1), stdout=subprocess.DEVNULL, start_new_session=True)
    give_up = time.monotonic() + PATIENCE_S
    try:
        while not finished(out.parent):
            assert process.poll() is None, "the command ended before it could be killed"
            assert time.monotonic() < give_up, "no episode was recorded in time"
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def table(out: Path) -> dict[str, np.ndarray]:
    """Return the frame table of a data set as arrays."""
    frames = pq.read_table(out / "data/chunk-000/file-000.parquet")
    return {name: np.array(frames[name].to_pylist()) for name in frames.column_names}


def test_killed_and_resumed_equals_undisturbed(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    kill_after_one_episode(killed)
    kept = len(finished(tmp_path))
    assert 1 <= kept < EPISODES
    assert not killed.exists()
    again = simulate(killed, workers=2)
    assert (again["resumed"], again["episodes"]) == (kept, EPISODES)
    assert not (tmp_path / ".killed.raw").exists()
    undisturbed = simulate(whole, workers=1)
    assert undisturbed["resumed"] == 0
    assert undisturbed["tasks"] == {"lift": 2, "pick_place": 2}
    assert 0 < undisturbed["success_rate"] <= 1
    ours, theirs = table(killed), table(whole)
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        np.testing.assert_array_equal(ours[name], values, err_msg=name)
    tasks = [pq.read_table(out / "meta/tasks.parquet") for out in (killed, whole)]
    assert tasks[0].equals(tasks[1])
    assert tasks[0].num_rows >= 3
