"""What squeue and sacct print, duplicates, midnight, odd states, silence; and what runs become."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from jobs.cluster import Cluster
from jobs.slurm import queue as slurm_queue
from jobs.slurm.commands import SlurmError, expand_tasks, parse_sacct, parse_squeue, sacct, squeue
from jobs.slurm.queue import read_slurm
from jobs.slurm.submit import submit
from jobs.status import run_state
from scaling.runs.folder import Run

DEV = Cluster(name="dev", time_limit="10")


@pytest.fixture
def one(tmp_path, make_spec, fake_slurm, monkeypatch):
    """One submitted run whose state is read without a cache: (folder, fake)."""
    monkeypatch.setattr(slurm_queue, "CACHE_S", 0.0)
    spec = make_spec()
    submit([spec], tmp_path, DEV)
    return tmp_path / spec.run_id, fake_slurm


def open_attempt(run_dir, **heartbeat):
    (run_dir / "attempts").mkdir(exist_ok=True)
    attempt = {"start": time.time() - 100, "end": None, "host": "elsewhere", "first_step": 0}
    (run_dir / "attempts" / "0001.json").write_text(json.dumps(attempt))
    beat = {"time": time.time(), "host": "elsewhere", "step": 3, "pid": 1} | heartbeat
    (run_dir / "heartbeat.json").write_text(json.dumps(beat))


def settled(run_dir):
    """The state after squeue has left the task out twice."""
    run_state(Run(run_dir))
    time.sleep(0.25)
    return run_state(Run(run_dir))


@pytest.mark.parametrize(
    ("text", "tasks"),
    [("7", ["7"]), ("[0-2,5%2]", ["0", "1", "2", "5"]), ("N/A", [""]), ("[3,...]", ["3"])],
)
def test_task_ranges(text, tasks):
    assert expand_tasks(text) == tasks


def test_squeue_lines():
    jobs = parse_squeue(
        "8|0|COMPLETING|None\n8|0|PENDING|BeginTime\n8|[3-4%2]|PENDING|JobArrayTaskLimit\n"
        "9|N/A|RUNNING|None\ngarbage\nslurm_load_jobs error: x|y|z|w\n"
    )
    assert jobs["8_0"].state == "PENDING"  # the new life counts, whatever the order
    assert set(jobs) == {"8_0", "8_3", "8_4", "9"}
    assert (jobs["9"].state, jobs["9"].reason) == ("RUNNING", "")


def test_sacct_lines_of_several_lives():
    jobs = parse_sacct(
        "8_3|PREEMPTED|0:0\n8_3.batch|CANCELLED|0:15\n8_3|COMPLETED|0:0\n8_3.0|COMPLETED|0:0\n"
        "8_4|CANCELLED by 0|0:0\n8_5|FAILED|1:0\n8_5.batch|FAILED|1:0\n8_5.0|OUT_OF_MEMORY|0:125\n"
        "8_[6-7%2]|PENDING|0:0\n8_9|OUT_OF_ME+|0:125\n|||\n"
    )
    assert jobs["8_3"].state == "COMPLETED"
    assert (jobs["8_4"].state, jobs["8_4"].reason) == ("CANCELLED", "CANCELLED by 0")
    assert jobs["8_5"].state == jobs["8_9"].state == "OUT_OF_MEMORY"
    assert jobs["8_6"].state == jobs["8_7"].state == "PENDING"


def test_sacct_asks_from_before_midnight(fake_slurm):
    fake_slurm.set(sacct="1_0|COMPLETED|0:0")
    assert sacct(["1_0"], since="2026-01-01T00:00:00")["1_0"].state == "COMPLETED"
    (call,) = fake_slurm.calls("sacct")
    assert call[call.index("-S") + 1] == "2026-01-01T00:00:00"
    assert "-D" in call
    assert call[call.index("-j") + 1] == "1"


def test_one_squeue_serves_many_runs_for_half_a_minute(tmp_path, make_spec, fake_slurm):
    specs = [make_spec(seed) for seed in range(5)]
    submit(specs, tmp_path, DEV)
    before = len(fake_slurm.calls("squeue"))
    for spec in specs:
        assert run_state(Run(tmp_path / spec.run_id)).state == "queued"
    assert len(fake_slurm.calls("squeue")) == before + 1


def test_threads_that_ask_at_once_get_one_answer(tmp_path, make_spec, fake_slurm):
    spec = make_spec()
    submit([spec], tmp_path, DEV)
    before = len(fake_slurm.calls("squeue"))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: read_slurm(tmp_path)[0], range(8)))
    assert {jobs[spec.run_id].state for jobs in found} == {"PENDING"}
    assert len(fake_slurm.calls("squeue")) == before + 1


def test_a_job_that_runs_but_has_not_spoken(one):
    run_dir, fake = one
    fake.set(jobs={"1_0": ["RUNNING", "None"]})
    status = run_state(Run(run_dir))
    assert (status.state, status.job_id) == ("running", "1_0")


def test_an_odd_state_is_alive(one):
    run_dir, fake = one
    fake.set(jobs={"1_0": ["STAGE_OUT_FUTURE", "None"]})
    assert run_state(Run(run_dir)).state == "running"
    fake.set(jobs={"1_0": ["REQUEUE_HOLD", "JobHeldUser"]})
    status = run_state(Run(run_dir))
    assert (status.state, status.reason) == ("queued", "JobHeldUser")


def test_an_empty_reply_is_not_dead(one):
    run_dir, fake = one
    open_attempt(run_dir)
    fake.set(squeue="", sacct="")
    assert settled(run_dir).state == "running"  # the heartbeat is fresh
    open_attempt(run_dir, time=time.time() - 300)
    assert settled(run_dir).state == "preempted"


def test_a_job_without_a_trace_was_never_started(one):
    run_dir, fake = one
    fake.set(squeue="", sacct=None)
    assert run_state(Run(run_dir)).state == "unknown"  # one empty reply decides nothing
    status = settled(run_dir)
    assert status.state == "planned"
    assert "ended without starting" in status.reason


def test_a_silent_squeue_keeps_what_was_known(one):
    run_dir, fake = one
    assert run_state(Run(run_dir)).state == "queued"
    fake.set(down=True)
    assert run_state(Run(run_dir)).state == "queued"
    with pytest.raises(SlurmError, match="no controller"):
        read_slurm(run_dir.parent, fresh=True)


@pytest.mark.parametrize(
    ("ended", "state", "reason"),
    [
        ("TIMEOUT|0:0", "preempted", "time limit"),
        ("PREEMPTED|0:0", "preempted", "preempted by another job"),
        ("NODE_FAIL|1:0", "preempted", "a node failed"),
        ("CANCELLED by 1000|0:0", "cancelled", "cancelled in Slurm"),
        ("OUT_OF_MEMORY|0:125", "failed", "out of memory"),
        ("FAILED|127:0", "failed", "exit code 127:0"),
        ("COMPLETED|0:0", "planned", "ended without starting"),
    ],
)
def test_ends_that_left_no_marker(one, ended, state, reason):
    run_dir, fake = one
    fake.set(squeue="", sacct=f"1_0|{ended}")
    status = run_state(Run(run_dir))
    assert status.state == state
    assert reason in status.reason


def test_a_requeued_run_waits_although_its_attempt_is_open(one):
    run_dir, fake = one
    open_attempt(run_dir, time=time.time() - 1)
    fake.set(jobs={"1_0": ["PENDING", "BeginTime"]})
    assert run_state(Run(run_dir)).state == "queued"


def test_markers_beat_the_queue(one):
    run_dir, fake = one
    (run_dir / "DONE").write_text('{"step": 10, "metrics": {}}')
    fake.set(jobs={"1_0": ["RUNNING", "None"]})
    assert run_state(Run(run_dir)).state == "done"


def test_a_failure_is_final_when_its_job_has_gone(one):
    run_dir, fake = one
    (run_dir / "FAILED").write_text('{"reason": "RuntimeError: peer"}')
    fake.set(jobs={"1_0": ["RUNNING", "None"]})
    status = run_state(Run(run_dir))
    assert (status.state, status.reason) == ("running", "ending: RuntimeError: peer")
    fake.set(squeue="")
    assert run_state(Run(run_dir)).state == "failed"
    (run_dir / "FAILED").write_text('{"reason": "cancelled"}')
    fake.set(jobs={"1_0": ["RUNNING", "None"]})
    assert run_state(Run(run_dir)).state == "cancelled"


def test_a_finished_submission_is_not_read_again(one):
    run_dir, fake = one
    (run_dir / "DONE").write_text('{"step": 10, "metrics": {}}')
    fake.set(squeue="")
    run_state(Run(run_dir))
    assert list((run_dir.parent / "_slurm").glob("*/closed"))
    before = len(fake.calls("squeue"))
    run_state(Run(run_dir))
    assert len(fake.calls("squeue")) == before


def test_squeue_asks_for_all_tasks_of_this_user(fake_slurm):
    squeue()
    (call,) = fake_slurm.calls("squeue")
    assert "-r" in call
    assert "-u" in call
