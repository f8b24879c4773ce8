"""Studies of short runs whose processes are killed at random end equal to an undisturbed one."""

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from slurm_helpers import attempts, losses, result, small_run, step_of

from jobs.folder import process_alive, read_json
from jobs.local import submit as run_here
from jobs.slurm import submit
from jobs.slurm_task import read_lives
from scaling.spec import RunSpec

pytestmark = pytest.mark.slurm
KILLED_SHARE = 0.1


def kill_some(specs: list[RunSpec], runs: Path, through: Callable[[], bool]) -> int:
    """Kill -9 the process of a tenth of the runs once, at a random step; return how many."""
    chance = random.Random(0)
    victims = chance.sample(specs, max(1, round(KILLED_SHARE * len(specs))))
    at = {spec.run_id: chance.randrange(1, spec.num_steps) for spec in victims}
    killed = 0
    deadline = time.monotonic() + 60 * len(specs)
    while not through():
        assert time.monotonic() < deadline
        for run_id in list(at):
            beat = read_json(runs / run_id / "heartbeat.json") or {}
            if beat.get("phase") in ("train", "save") and beat["step"] >= min(at[run_id], 5):
                del at[run_id]
                if process_alive(beat["pid"]):
                    os.kill(beat["pid"], signal.SIGKILL)
                    killed += 1
        time.sleep(0.05)
    return killed


def run_study(number: int, tmp_path: Path, dev) -> None:
    """Train the same specs under Slurm with kills and here without; compare them all."""
    specs = [small_run(seed, num_steps=200) for seed in range(number)]
    runs, reference = tmp_path / "slurm", tmp_path / "here"
    submit(specs, runs, replace(dev, max_cpu_ranks=2))

    def through() -> bool:
        return all((runs / s.run_id / name).exists() for s in specs for name in ("DONE",)) or any(
            (runs / s.run_id / "FAILED").exists() for s in specs
        )

    killed = kill_some(specs, runs, through)
    assert killed >= max(1, number // 20)
    assert run_here(specs, reference, progress=False)["done"] == number
    for spec in specs:
        assert result(runs / spec.run_id) == result(reference / spec.run_id)
        assert losses(runs / spec.run_id) == losses(reference / spec.run_id)
    assert sum(len(read_lives(runs / s.run_id)) for s in specs) == number + killed
    assert all(step_of(runs / s.run_id) == s.num_steps for s in specs)
    assert max(len(attempts(runs / s.run_id)) for s in specs) == 2


@pytest.mark.long  # ten minutes on two cores
def test_forty_runs_with_kills_end_as_undisturbed(slurm, tmp_path, dev):
    run_study(40, tmp_path, dev)


@pytest.mark.long
def test_two_hundred_runs_with_kills_end_as_undisturbed(slurm, tmp_path, dev):
    run_study(200, tmp_path, dev)
