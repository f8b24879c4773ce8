"""What queued scripts and running executors of an earlier version start by name still answers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def _start(*words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-m", *words],
        input=given,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("module", ["scaling.forkserver", "jobs.local.forkserver"])
def test_the_fork_server_gets_ready_and_ends_with_its_input(module: str) -> None:
    done = _start(module, "json.tool")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ready"] is True


@pytest.mark.parametrize("module", ["scaling.commands.live", "scaling.cli.publisher"])
def test_the_publisher_ends_when_its_parent_is_another(module: str, tmp_path: Path) -> None:
    done = _start(module, "1", str(tmp_path / "runs"), "sweeps.noise_floor")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize("module", ["jobs.trunks", "jobs.slurm.trunks"])
def test_a_batch_script_may_ask_whether_its_trunk_is_there(module: str, tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "0123456789ab"
    run_dir.mkdir(parents=True)
    (run_dir / "FAILED").write_text('{"reason": "cancelled"}')
    done = _start(module, str(run_dir), str(tmp_path / "submission"), "0")
    assert done.returncode == 0, done.stderr  # a run with a marker may start: `begin` decides


@pytest.mark.parametrize("words", [["begin"], ["end"]])
def test_a_batch_script_may_ask_for_its_task(words: list[str], tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "0123456789ab"
    run_dir.mkdir(parents=True)
    (run_dir / "DONE").write_text('{"step": 1, "metrics": {}}')
    more = ["0", "0"] if words == ["end"] else []
    done = _start("jobs.slurm.task", *words, str(run_dir), str(tmp_path / "submission"), *more)
    assert done.returncode == (3 if words == ["begin"] else 0), done.stderr
