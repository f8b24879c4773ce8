"""Runs of the real trainer on a real Slurm: two nodes, a throttled array, cancel, a chain."""

import json
import subprocess
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pytest
from slurm_helpers import attempts, small_run, step_of, wait_until

from jobs.control import cancel, retry
from jobs.slurm.lives import read_lives
from jobs.slurm.submit import submit
from jobs.status import run_state, study_status
from scaling.runs.folder import Run
from scaling.spec import ResourceConfig

pytestmark = pytest.mark.slurm


def test_two_nodes_train_one_run_with_zero2(start, finish):
    spec = replace(small_run(), resources=ResourceConfig(nodes=2))
    run_dir = start(spec)
    finish(spec)
    environment = json.loads((run_dir / "env.json").read_text())
    assert environment["world_size"] == 2
    assert "on node[1-2]" in (run_dir / "train.log").read_text()
    shards = list((run_dir / "checkpoints").rglob("*optim_states.pt"))
    assert len({path.name for path in shards}) == 2  # one partition of the optimizer a rank


def most_at_once(folders: list[Path]) -> int:
    """Return how many runs were in the cluster's hands at the same time, to the millisecond."""
    changes = []
    for folder in folders:
        (life,) = read_lives(Run(folder))
        changes += [(life.time, 1), ((folder / "DONE").stat().st_mtime, -1)]
    return max(accumulate(change for _, change in sorted(changes)))


def test_an_array_of_eight_keeps_to_its_throttle(
    slurm, preloaded, tmp_path, dev, finish, monkeypatch
):
    specs = [small_run(seed, num_steps=20) for seed in range(8)]
    commands, run = [], subprocess.run

    def noted(words, **named):
        commands.append(words[0])
        return run(words, **named)

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", noted)
        summary = submit(specs, tmp_path, dev)
    assert commands.count("sbatch") == 1
    assert len(commands) < len(specs)
    (array,) = summary.arrays
    assert (array.runs, array.limit) == (8, 2)
    assert submit(specs, tmp_path, dev).submitted == 0  # asked twice, nothing twice
    states = {row.state for row in study_status(specs, tmp_path).runs}
    assert states <= {"queued", "running", "done"}
    finish(*specs)
    folders = [tmp_path / spec.run_id for spec in specs]
    assert most_at_once(folders) == 2
    assert all(len(attempts(folder)) == 1 for folder in folders)
    again = submit(specs, tmp_path, dev)
    assert (again.submitted, again.skipped_done) == (0, 8)


def test_cancel_stops_a_running_and_a_waiting_run_and_retry_takes_both_up_again(
    slurm, preloaded, tmp_path, dev, finish
):
    cluster = replace(dev, max_cpu_ranks=1)
    specs = [small_run(seed, num_steps=800) for seed in (0, 1)]
    submit(specs, tmp_path, cluster)
    running, waiting = (tmp_path / spec.run_id for spec in specs)
    wait_until(lambda: step_of(running) > 50)
    actions = {item.run_id: item.action for item in cancel(specs, tmp_path)}
    assert actions == {running.name: "stopping", waiting.name: "removed from the queue"}
    wait_until(lambda: not slurm.jobs())
    assert [run_state(Run(folder)).state for folder in (running, waiting)] == ["cancelled"] * 2
    assert not (waiting / "attempts").exists()
    assert attempts(running)[0]["end"] is not None
    assert submit(specs, tmp_path, dev, retry_failed=False).submitted == 0
    assert retry(specs, tmp_path) == [running.name, waiting.name]
    assert submit(specs, tmp_path, dev, retry_failed=False).submitted == 2
    finish(*specs)
    first, second = attempts(running)
    assert second["first_step"] == first["last_step"] >= 50  # what the cancelled run had saved


def test_scancel_by_hand_is_seen_and_the_run_goes_on_when_asked(
    slurm, preloaded, tmp_path, dev, start, finish
):
    spec = small_run(num_steps=1500)
    run_dir = start(spec, steps=300)
    slurm.call("scancel", "-u", "0")
    wait_until(lambda: not slurm.jobs())
    wait_until(lambda: run_state(Run(run_dir)).state in ("cancelled", "preempted"))
    assert submit([spec], tmp_path, dev).submitted == 1
    finish(spec)
    assert attempts(run_dir)[1]["first_step"] >= 150


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"partition": "no_such"}, "invalid partition specified: no_such"),
        ({"account": "no_such"}, "Invalid account"),
        ({"qos": "no_such"}, "Invalid qos specification"),
        ({"gpus_per_node": 9}, "Requested node configuration is not available"),
        ({"sbatch_options": ["--no-such-option"]}, "unrecognized option '--no-such-option'"),
    ],
)
def test_what_slurm_refuses_is_one_line_and_leaves_nothing(slurm, tmp_path, dev, wrong, said):
    spec = small_run()
    if wrong.get("gpus_per_node"):
        spec = replace(spec, resources=ResourceConfig(gpus_per_node=9))
    with pytest.raises(ValueError, match=said) as caught:
        submit([spec], tmp_path, replace(dev, **wrong))
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("; nothing was submitted")
    assert not slurm.jobs()
    assert run_state(Run(tmp_path / spec.run_id)).state == "planned"
