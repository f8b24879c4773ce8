"""Studies of short runs whose processes are killed at random end equal to an undisturbed one."""

import json
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from slurm_helpers import attempts, losses, result, small_run

from jobs.local.loop import submit as run_here
from jobs.slurm.lives import read_lives
from jobs.slurm.submit import submit
from jobs.status import study_status
from scaling.runs.folder import Run
from scaling.runs.process import process_alive
from scaling.spec import RunSpec

pytestmark = pytest.mark.slurm
NUM_STEPS = 100
KILLED_SHARE = 0.1


class Killer:
    """Kills -9 the trainers of a tenth of the runs once each, at random steps."""

    def __init__(self, specs: list[RunSpec], runs: Path) -> None:
        chance = random.Random(0)
        self.runs = runs
        self.left = max(1, round(KILLED_SHARE * len(specs)))
        # Step 0: while the first checkpoint is far; the last steps may pass between two looks.
        self.at = {spec.run_id: chance.randrange(0, NUM_STEPS * 4 // 5) for spec in specs}
        self.order = chance.sample(list(self.at), len(specs))
        self.killed: list[str] = []

    def look(self) -> None:
        """Kill those of the next victims whose step has come; skip those that got through."""
        for run_id in self.order[: self.left]:
            folder = self.runs / run_id
            first = folder / "attempts" / "0001.json"
            if not first.exists():
                continue
            if (folder / "DONE").exists():  # too quick for us: another one instead
                self.order.remove(run_id)
            elif (pid := _pid_at_work(first)) and _logged_step(folder) >= self.at[run_id]:
                os.kill(pid, signal.SIGKILL)
                self.killed.append(run_id)
                self.order.remove(run_id)
                self.left -= 1


def _pid_at_work(attempt: Path) -> int:
    """Return the process of an open attempt, 0 where it has ended."""
    record = json.loads(attempt.read_text())
    alive = record["end"] is None and process_alive(record["pid"])
    return int(record["pid"]) if alive else 0


def _logged_step(folder: Path) -> int:
    """Return the last step in metrics.jsonl, newer than the heartbeat's; 0 before it."""
    try:
        return int(json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["step"])
    except (OSError, ValueError, IndexError):
        return 0


def train_under_kills(specs: list[RunSpec], runs: Path, cluster) -> list[str]:
    """Train the runs under Slurm until each has a marker; return the ids of those killed."""
    submit(specs, runs, cluster)
    killer = Killer(specs, runs)
    open_runs = [runs / spec.run_id for spec in specs]
    deadline = time.monotonic() + 300 + 30 * len(specs)
    while open_runs:
        assert time.monotonic() < deadline, f"{len(open_runs)} runs never ended"
        for _ in range(25):  # half a second
            killer.look()
            time.sleep(0.02)
        open_runs = [folder for folder in open_runs if not (folder / "DONE").exists()]
        failed = [folder for folder in open_runs if (folder / "FAILED").exists()]
        assert not failed, (failed[0] / "train.log").read_text()[-3000:]
    return killer.killed


@pytest.mark.parametrize("number", [40, pytest.param(200, marks=pytest.mark.long)])
def test_a_study_with_kills_ends_as_undisturbed(slurm, preloaded, tmp_path, dev, number):
    specs = [small_run(seed, num_steps=NUM_STEPS) for seed in range(number)]
    runs, reference = tmp_path / "slurm", tmp_path / "here"
    # More tasks than cores, so that Slurm's own pauses do not leave the cores idle.
    killed = train_under_kills(specs, runs, replace(dev, max_cpu_ranks=4))
    assert len(killed) == round(KILLED_SHARE * number)
    assert study_status(specs, runs).counts == {"done": number}
    assert run_here(specs, reference).done == number
    for spec in specs:
        ours, undisturbed = runs / spec.run_id, reference / spec.run_id
        assert sorted(losses(ours)) == list(range(5, NUM_STEPS + 1, 5))
        assert losses(ours) == losses(undisturbed)
        assert result(ours) == result(undisturbed)
        lives = 2 if spec.run_id in killed else 1
        assert len(attempts(ours)) == len(read_lives(Run(ours))) == lives
