"""Faults on a real Slurm: every run ends as if undisturbed, or says why it stopped."""

import json
import os
import signal
import sys
from dataclasses import replace

import pytest
from slurm_helpers import attempts, log_of, small_run, step_of, wait_until

from jobs.control import retry
from jobs.slurm.lives import read_lives
from jobs.slurm.submit import submit
from jobs.status import run_state
from scaling.runs.folder import Run
from scaling.spec import ResourceConfig

pytestmark = pytest.mark.slurm
NUM_STEPS = 1500  # about ten seconds, so that a fault finds the run at work


def test_a_time_limit_saves_requeues_and_goes_on_exactly(
    slurm, start, finish, dev, undisturbed, same_as_undisturbed
):
    spec = small_run(num_steps=8000)
    undisturbed.begin(spec)
    # Slurm warns up to a minute early: here, 20 to 50 s after the start.
    run_dir = start(spec, replace(dev, time_limit="2", signal_lead_s=65))
    wait_until(lambda: "requeued" in log_of(run_dir))
    (task,) = wait_until(slurm.jobs)
    slurm.call("scontrol", "update", f"jobid={task}", "timelimit=10")  # one warning is enough
    finish(spec)
    tries = attempts(run_dir)
    assert tries[0]["reason"] == "signal"
    assert tries[1]["first_step"] == tries[0]["last_step"]  # not one step lost
    assert tries[-1]["reason"] == "done"
    assert len({life.job_id for life in read_lives(Run(run_dir))}) == 1  # requeued, not new
    same_as_undisturbed(spec, run_dir)


# Put back by Slurm; cancelled after half a minute's notice; cancelled at once.
@pytest.mark.parametrize("partition", ["main", "spot", "leftover"])
def test_preemption_by_requeue_and_by_cancel(
    slurm, start, finish, dev, undisturbed, same_as_undisturbed, partition
):
    spec = small_run(num_steps=NUM_STEPS)
    undisturbed.begin(spec)
    run_dir = start(spec, replace(dev, partition=partition), steps=300)
    slurm.occupy()
    wait_until(lambda: run_state(Run(run_dir)).state in ("queued", "preempted"))
    finish(spec)
    tries = attempts(run_dir)
    assert len(tries) == 2
    assert tries[1]["first_step"] >= 150
    same_as_undisturbed(spec, run_dir)


def test_a_node_crash_under_two_ranks(slurm, start, finish):
    spec = replace(small_run(num_steps=NUM_STEPS), resources=ResourceConfig(nodes=2))
    run_dir = start(spec, steps=300)
    slurm.do("kill-node", "node2")
    wait_until(lambda: run_state(Run(run_dir)).state != "running")
    slurm.do("start-node", "node2")
    finish(spec)
    tries = attempts(run_dir)
    assert len(tries) >= 2
    assert tries[-1]["first_step"] >= 150
    assert not (run_dir / "FAILED").exists()


def test_a_restart_of_slurmctld_disturbs_nothing(slurm, preloaded, tmp_path, dev, start, finish):
    spec = small_run(num_steps=4 * NUM_STEPS)
    run_dir = start(spec, steps=100)
    slurm.settle()  # a controller killed before that forgets the job, whoever submitted it
    slurm.do("restart-ctld")
    assert step_of(run_dir) < spec.num_steps
    assert submit([spec], tmp_path, dev).submitted == 0
    finish(spec)
    assert len(attempts(run_dir)) == 1


def test_a_requeued_task_leaves_its_siblings_alone(slurm, preloaded, tmp_path, dev, finish):
    specs = [small_run(seed, num_steps=NUM_STEPS) for seed in (0, 1)]
    submit(specs, tmp_path, dev)
    first, last = (tmp_path / spec.run_id for spec in specs)
    wait_until(lambda: step_of(first) > 300 and step_of(last) > 300)
    # The last task's own job id is the array's: requeueing it bare would restart both.
    pid = json.loads((last / "heartbeat.json").read_text())["pid"]
    os.kill(pid, signal.SIGKILL)
    finish(*specs)
    assert [len(attempts(folder)) for folder in (first, last)] == [1, 2]


def test_out_of_memory_says_so_and_is_not_tried_again_until_asked(
    slurm, tmp_path, dev, start, finish
):
    spec = small_run()
    run_dir = start(spec, replace(dev, mem_gib_per_rank=0.1))
    wait_until(lambda: (run_dir / "FAILED").exists())
    wait_until(lambda: not slurm.jobs())
    status = run_state(Run(run_dir))
    assert status.state == "failed"
    assert status.reason is not None
    assert "out of memory" in status.reason
    assert len(read_lives(Run(run_dir))) == 1
    assert retry([spec], tmp_path) == [spec.run_id]
    assert submit([spec], tmp_path, dev).submitted == 1
    finish(spec)


def test_three_attempts_without_a_new_step_are_enough(slurm, tmp_path, dev):
    spec = small_run(num_steps=NUM_STEPS)
    # A site's prolog that kills whatever starts: the job dies before its first step.
    killer = [f"export BROKEN=1; {sys.executable} -c 'pass'", "srun() { (kill -9 $BASHPID); }"]
    submit([spec], tmp_path, replace(dev, setup=killer))
    run_dir = tmp_path / spec.run_id
    wait_until(lambda: (run_dir / "FAILED").exists())
    status = run_state(Run(run_dir))
    assert status.reason is not None
    assert "no checkpoint beyond step 0 in 3 attempts" in status.reason
    assert len(read_lives(Run(run_dir))) == 3


@pytest.mark.parametrize("accounting", ["absent", "empty"])
def test_without_accounting_the_files_decide(
    slurm, preloaded, tmp_path, dev, start, finish, monkeypatch, accounting
):
    answer = _no_accounting if accounting == "absent" else lambda *_, **__: {}
    monkeypatch.setattr("jobs.slurm.queue.sacct", answer)
    spec = small_run(num_steps=NUM_STEPS)
    run_dir = start(spec, steps=300)
    slurm.call("scancel", "-u", "0")
    wait_until(lambda: not slurm.jobs())
    wait_until(lambda: run_state(Run(run_dir)).state == "preempted")
    assert submit([spec], tmp_path, dev).submitted == 1
    finish(spec)


def _no_accounting(*_, **__):
    from jobs.slurm.commands import SlurmError

    raise SlurmError("sacct: Slurm accounting storage is disabled")
