"""The local executor over the real trainer: kills, stops, the fork server, two ranks."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.local.launch import train_command
from jobs.local.loop import submit
from jobs.status import run_state
from scaling.memory import checkpoint_bytes
from scaling.runs.files import read_json
from scaling.runs.folder import Run
from scaling.sizes import SIZES
from scaling.spec import EngineConfig, ResourceConfig, RunSpec, SeedConfig

pytestmark = pytest.mark.integration
NUM_STEPS, SAVE_EVERY = 80, 10
# What a run says about itself rather than about its result.
OWN = ("time", "compute/gpu_hours")


@pytest.fixture(scope="module")
def small_run(tmp_path_factory, made_data) -> Callable[..., RunSpec]:
    """Return a maker of runs of seconds: the smallest model on a made set of six episodes."""
    root = tmp_path_factory.mktemp("data")
    data = made_data(root)

    def make(seed: int) -> RunSpec:
        return RunSpec(
            study="sweeps.test",
            size="tiny-h16",
            axes={"seed": seed},
            model=SIZES["tiny-h16"],
            data=data,
            num_steps=NUM_STEPS,
            global_batch_size=2,
            seeds=SeedConfig(init=seed, data=seed),
            engine=EngineConfig(
                zero_stage=2, log_every=10, save_every=SAVE_EVERY, cache_features=False
            ),
        )

    return make


def when(condition: Callable[[], object], act: Callable[[], object]) -> threading.Thread:
    """Start a thread that acts once the condition holds (within ten minutes)."""

    def watch() -> None:
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            if condition():
                act()
                return
            time.sleep(0.05)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def saved(run_dir: Path) -> bool:
    """Whether the second checkpoint is there and the run goes on."""
    latest = run_dir / "checkpoints" / "latest"
    return latest.exists() and latest.read_text().strip() >= f"step_{2 * SAVE_EVERY:07d}"


def pid_of(run_dir: Path) -> int:
    return int((read_json(run_dir / "heartbeat.json") or {})["pid"])


def result(run_dir: Path) -> dict[str, float]:
    metrics = json.loads((run_dir / "DONE").read_text())["metrics"]
    return {name: value for name, value in metrics.items() if name not in OWN}


def losses(run_dir: Path) -> dict[int, float]:
    """Step -> training loss; a replayed step counts with its last line."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss/train"] for line in lines if "loss/train" in line}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, small_run) -> Path:
    """The runs of seeds 0 and 1, each in a process of its own from start to end."""
    runs = tmp_path_factory.mktemp("undisturbed")
    specs = [small_run(0), small_run(1)]
    assert submit(specs, runs, command=train_command).done == 2
    return runs


def test_a_run_killed_under_the_fork_server_ends_as_undisturbed(tmp_path, small_run, undisturbed):
    specs = [small_run(0), small_run(1)]
    killed, other = (tmp_path / spec.run_id for spec in specs)
    thread = when(lambda: saved(killed), lambda: os.kill(pid_of(killed), signal.SIGKILL))
    summary = submit(specs, tmp_path)
    thread.join()
    assert (summary.done, summary.preempted) == (1, 1)
    assert run_state(Run(killed)).reason == "killed by signal 9"
    again = submit(specs, tmp_path)
    assert (again.submitted, again.done) == (1, 1)
    assert run_state(Run(killed)).attempts == 2
    for run_dir in (killed, other):
        assert result(run_dir) == result(undisturbed / run_dir.name)
        assert losses(run_dir) == losses(undisturbed / run_dir.name)
    assert submit(specs, tmp_path).skipped_done == 2


def test_a_stop_signal_saves_and_the_next_submission_goes_on(tmp_path, small_run, undisturbed):
    spec = small_run(0)
    run_dir = tmp_path / spec.run_id
    thread = when(lambda: saved(run_dir), lambda: os.kill(os.getpid(), signal.SIGINT))
    summary = submit([spec], tmp_path)
    thread.join()
    assert summary.interrupted
    assert run_state(Run(run_dir)).state == "preempted"
    attempt = read_json(run_dir / "attempts" / "0001.json") or {}
    assert attempt["reason"] == "signal"
    latest = (run_dir / "checkpoints" / "latest").read_text().strip()
    assert latest == f"step_{attempt['last_step']:07d}"
    assert submit([spec], tmp_path).done == 1
    assert (read_json(run_dir / "attempts" / "0002.json") or {})["first_step"] == (
        attempt["last_step"]
    )
    assert result(run_dir) == result(undisturbed / run_dir.name)


def test_two_ranks_run_stop_and_resume(tmp_path, small_run):
    ranks = ResourceConfig(processes_per_node=2)
    spec = replace(small_run(0), resources=ranks)
    run_dir = tmp_path / spec.run_id
    thread = when(lambda: saved(run_dir), lambda: os.kill(os.getpid(), signal.SIGTERM))
    summary = submit([spec], tmp_path)
    thread.join()
    assert (summary.preempted, summary.failed) == (1, 0)
    assert submit([spec], tmp_path).done == 1
    assert run_state(Run(run_dir)).attempts == 2


def test_the_plan_prices_checkpoints_as_they_are(small_run, undisturbed):
    spec = small_run(0)
    folder = undisturbed / spec.run_id / "checkpoints" / f"step_{NUM_STEPS:07d}"
    actual = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert actual == pytest.approx(checkpoint_bytes(spec), rel=0.1)
