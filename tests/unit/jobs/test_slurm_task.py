"""The node's side: who may start, what follows an end, and when to stop trying."""

import json
import time
from types import SimpleNamespace

import pytest

from jobs.cluster import Cluster
from jobs.slurm import task as slurm_task
from jobs.slurm.submissions import read_submission
from jobs.slurm.submit import submit
from jobs.slurm.task import FAILURE, GO, NOTHING, begin, end, read_lives, wait
from jobs.status import run_state
from scaling.runs.folder import Run

DEV = Cluster(name="dev", time_limit="10")


@pytest.fixture
def task(tmp_path, make_spec, fake_slurm, monkeypatch):
    """A submitted run seen from inside its job: (run_dir, submission, fake)."""
    spec = make_spec()
    summary = submit([spec], tmp_path, DEV)
    for name, value in (("ARRAY_JOB_ID", "1"), ("ARRAY_TASK_ID", "0"), ("JOB_ID", "1")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    folder = tmp_path.__class__(summary.submission)
    return tmp_path / spec.run_id, folder, fake_slurm


def finish(task, code):
    run_dir, submission, _ = task
    return end(Run(run_dir), submission, array=0, code=code)


def checkpoint(run_dir, step):
    (run_dir / "checkpoints").mkdir(exist_ok=True)
    (run_dir / "checkpoints" / "latest").write_text(f"step_{step:07d}")


def reason(run_dir):
    return json.loads((run_dir / "FAILED").read_text())["reason"]


def say(run_dir, text):
    with open(run_dir / "train.log", "a") as stream:
        stream.write(text + "\n")


def test_done_and_cancelled_runs_do_not_start(task):
    run_dir, submission, _ = task
    assert begin(Run(run_dir), submission) == GO
    (run_dir / "FAILED").write_text('{"reason": "cancelled"}')
    assert begin(Run(run_dir), submission) == NOTHING
    (run_dir / "DONE").write_text('{"step": 10, "metrics": {}}')
    assert begin(Run(run_dir), submission) == NOTHING
    assert len(read_lives(Run(run_dir))) == 1


def test_a_stopped_run_requeues_its_own_task_alone(task):
    run_dir, submission, fake = task
    begin(Run(run_dir), submission)
    assert finish(task, 85) == 85
    assert ["requeue", "1_0"] in fake.calls("scontrol")
    assert fake["jobs"]["1_0"] == ["PENDING", "BeginTime"]


def test_status_sees_a_requeue_at_once(task):
    run_dir, submission, fake = task
    fake.set(jobs={"1_0": ["RUNNING", "None"]})
    assert run_state(Run(run_dir)).state == "running"
    begin(Run(run_dir), submission)
    finish(task, 85)
    assert run_state(Run(run_dir)).state == "queued"


def test_where_requeue_is_refused_the_one_run_is_submitted_anew(task):
    run_dir, submission, fake = task
    begin(Run(run_dir), submission)
    fake.set(requeue_refused="Requested operation is presently disabled")
    assert finish(task, 85) == 85
    assert "--array=0" in fake.calls("sbatch")[-1]
    record = read_submission(submission)
    assert record is not None
    assert record.tasks()[run_dir.name] == "2_0"


def test_what_slurm_requeued_itself_is_left_alone(task):
    run_dir, submission, fake = task
    begin(Run(run_dir), submission)
    fake.set(show_job="JobId=1 JobState=PENDING Requeue=1")
    assert finish(task, 85) == 85
    assert ["requeue", "1_0"] not in fake.calls("scontrol")
    assert len(fake.calls("sbatch")) == 1


def test_scancel_by_hand_is_not_undone(task):
    run_dir, submission, fake = task
    begin(Run(run_dir), submission)
    output = submission / "slurm-1_0.out"
    output.write_text("error: *** JOB 1 ON node1 CANCELLED AT 2026-11-22T12:06:17 ***\n")
    fake.set(show_job="JobId=1 JobState=COMPLETING Requeue=1")
    assert finish(task, 85) == FAILURE
    assert ["requeue", "1_0"] not in fake.calls("scontrol")
    assert len(fake.calls("sbatch")) == 1


def test_a_preemption_is_not_taken_for_scancel(task):
    run_dir, submission, fake = task
    begin(Run(run_dir), submission)
    end_of = "CANCELLED AT 2026-11-22T12:06:17 DUE TO PREEMPTION"
    (submission / "slurm-1_0.out").write_text(f"error: *** JOB 1 ON node1 {end_of} ***\n")
    assert finish(task, 85) == 85
    assert ["requeue", "1_0"] in fake.calls("scontrol")


def test_an_error_is_written_with_its_last_words(task):
    run_dir, submission, fake = task
    begin(Run(run_dir), submission)
    say(run_dir, "ModuleNotFoundError: No module named 'torch'")
    assert finish(task, 1) == FAILURE
    assert reason(run_dir) == "ModuleNotFoundError: No module named 'torch'"
    assert ["requeue", "1_0"] not in fake.calls("scontrol")


def test_out_of_memory_says_so_and_stops(task):
    run_dir, submission, _ = task
    begin(Run(run_dir), submission)
    say(run_dir, "slurmstepd: error: StepId=1.0 exceeded memory limit (3000 > 2048), being killed")
    assert finish(task, 137) == FAILURE
    assert reason(run_dir).startswith("out of memory; lower engine.micro_batch_size")


def test_old_words_are_not_held_against_a_new_life(task):
    run_dir, submission, _ = task
    say(run_dir, "error: exceeded memory limit")
    begin(Run(run_dir), submission)
    assert finish(task, 137) == 85


def test_three_lives_without_a_new_step_are_enough(task):
    run_dir, submission, _ = task
    for _ in range(2):
        assert begin(Run(run_dir), submission) == GO
        assert finish(task, 137) == 85
    begin(Run(run_dir), submission)
    say(run_dir, "Bus error")
    assert finish(task, 135) == FAILURE
    assert reason(run_dir).startswith("no checkpoint beyond step 0 in 3 attempts; save more often")
    assert "Bus error" in reason(run_dir)
    assert begin(Run(run_dir), submission) == NOTHING


def test_a_new_step_starts_the_count_again(task):
    run_dir, submission, _ = task
    for step in (0, 0, 10, 10, 20):
        checkpoint(run_dir, step)
        assert begin(Run(run_dir), submission) == GO
        assert finish(task, 137) == 85


def test_lives_that_could_not_say_how_they_ended_count_too(task, monkeypatch):
    run_dir, submission, _ = task
    for restart in ("1", "2", "3"):
        assert begin(Run(run_dir), submission) == GO
        monkeypatch.setenv("SLURM_RESTART_COUNT", restart)
    assert begin(Run(run_dir), submission) == NOTHING
    assert "in 3 attempts" in reason(run_dir)


def test_a_lost_peer_is_no_fault_of_the_run(task, make_spec):
    run_dir, submission, fake = task
    make_spec(ranks=2).save(run_dir / "run.yaml")
    begin(Run(run_dir), submission)
    say(run_dir, "RuntimeError: [gloo/transport/tcp/pair.cc] Connection closed by peer [10.0.0.2]")
    (run_dir / "FAILED").write_text('{"reason": "RuntimeError: Connection closed by peer"}')
    assert finish(task, 1) == 85
    assert not (run_dir / "FAILED").exists()
    assert ["requeue", "1_0"] in fake.calls("scontrol")


def test_a_restart_by_slurm_forgives_what_the_crash_left(task, monkeypatch):
    run_dir, submission, _ = task
    begin(Run(run_dir), submission)
    (run_dir / "FAILED").write_text('{"reason": "RuntimeError: peer"}')
    assert begin(Run(run_dir), submission) == NOTHING
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert begin(Run(run_dir), submission) == GO
    assert not (run_dir / "FAILED").exists()


def test_the_chain_starts_when_all_runs_are_done(task, monkeypatch):
    run_dir, submission, _ = task
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            (run_dir / "DONE").write_text('{"step": 10, "metrics": {}}')

    # Not time.sleep itself: subprocess waits by it, too.
    clock = SimpleNamespace(sleep=sleep, strftime=time.strftime)
    monkeypatch.setattr(slurm_task, "time", clock)
    assert wait(submission) == GO
    assert slept == [slurm_task.POLL_S] * 3


def test_the_chain_stops_when_a_run_failed(task, capsys):
    run_dir, submission, fake = task
    (run_dir / "FAILED").write_text('{"reason": "diverged"}')
    fake.end("1_0")
    assert wait(submission) == FAILURE
    assert "1 of 1 runs are not done" in capsys.readouterr().out
