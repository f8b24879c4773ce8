"""States of runs, from the files that a run folder may hold."""

import json
import os
import time
from collections import Counter

import pytest
from rich.console import Console

from jobs.local import queue
from jobs.status import run_state, study_status
from scaling.cli.status_table import render_status
from scaling.runs.folder import Run
from scaling.runs.process import process_alive, this_host

DEAD_PID = 2**22 + 1  # above the kernel's largest


@pytest.fixture
def folder(tmp_path):
    """A run folder with run.yaml only."""
    run_dir = tmp_path / "0123456789ab"
    (run_dir / "attempts").mkdir(parents=True)
    (run_dir / "run.yaml").write_text("study: sweeps.fake\nresources: {}\n")
    return run_dir


@pytest.fixture
def frozen(monkeypatch):
    """The wall clock stands still, so that what is told of an age is exact."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)


def put(path, **content):
    path.write_text(json.dumps(content))


def beat(folder, *, age_s=0.0, pid=None, host=None, **more):
    facts = {"step": 7, "num_steps": 10, "samples_per_s": 3.5, "eta_s": 2.0, "attempt": 1}
    facts |= {"time": time.time() - age_s, "pid": pid or os.getpid(), "host": host or this_host()}
    put(folder / "heartbeat.json", **facts, val_l1=0.5, phase="train", **more)


def attempt(folder, number=1, *, end=None, reason=None, pid=None, host=None, **more):
    facts = {"job_id": None, "host": host or this_host(), "pid": pid or os.getpid()}
    facts |= {"start": time.time() - 1, "end": end, "reason": reason, "last_step": 7}
    put(folder / "attempts" / f"{number:04d}.json", **(facts | more))


def test_a_missing_or_fresh_folder_is_planned(tmp_path, folder):
    assert run_state(Run(tmp_path / "ffffffffffff")).state == "planned"
    assert run_state(Run(folder)).state == "planned"


def test_a_living_process_is_running_with_its_numbers(folder):
    beat(folder)
    attempt(folder)
    status = run_state(Run(folder))
    assert (status.state, status.step, status.num_steps) == ("running", 7, 10)
    assert (status.samples_per_s, status.eta_s, status.val_l1) == (3.5, 2.0, 0.5)
    assert (status.attempts, status.pid, status.reason) == (1, os.getpid(), None)


def test_a_late_heartbeat_of_a_living_process_is_reported(folder, frozen):
    # Process 1 is older than its heartbeat, as it has to be: else its pid was given away.
    assert process_alive(1, seen_at=time.time() - 90)
    beat(folder, age_s=90, pid=1)
    attempt(folder, pid=1, start=time.time() - 100)
    status = run_state(Run(folder))
    assert status.state == "running"
    assert status.reason == "no heartbeat for 90 s"


def test_a_pid_given_to_a_younger_process_is_not_ours(folder):
    beat(folder, age_s=10**6)
    attempt(folder, start=time.time() - 10**6 - 5)
    assert run_state(Run(folder)).state == "preempted"


def test_markers_come_before_a_fresh_heartbeat(folder):
    beat(folder)
    attempt(folder)
    put(folder / "FAILED", reason="disk full", step=3, time=0)
    status = run_state(Run(folder))
    assert (status.state, status.reason) == ("failed", "disk full")
    put(folder / "FAILED", reason="cancelled", step=3, time=0)
    assert run_state(Run(folder)).state == "cancelled"
    put(folder / "DONE", step=10, metrics={"val/l1": 0.125})
    status = run_state(Run(folder))
    assert (status.state, status.step, status.val_l1) == ("done", 10, 0.125)


def test_a_dead_process_is_preempted(folder):
    beat(folder, pid=DEAD_PID)
    attempt(folder, pid=DEAD_PID)
    status = run_state(Run(folder))
    assert (status.state, status.reason) == ("preempted", "killed")
    assert status.samples_per_s is None


@pytest.mark.parametrize(
    ("reason", "state", "shown"),
    [
        ("signal", "preempted", "signal"),
        ("killed", "preempted", "killed"),
        ("error: OSError: disk full", "failed", "error: OSError: disk full"),
        ("done", "unknown", "attempt ended (done) without a marker"),
    ],
)
def test_a_closed_attempt_decides(folder, reason, state, shown):
    beat(folder, pid=DEAD_PID)
    attempt(folder, end=time.time(), reason=reason, pid=DEAD_PID)
    status = run_state(Run(folder))
    assert (status.state, status.reason) == (state, shown)


def test_a_closed_attempt_in_a_living_process_is_not_running(folder):
    """scaling.train called within a longer-lived process: the attempt has ended all the same."""
    beat(folder)
    attempt(folder, end=time.time(), reason="signal")
    assert run_state(Run(folder)).state == "preempted"


def test_a_new_attempt_that_is_still_loading_is_running(folder):
    attempt(folder, end=time.time() - 100, reason="killed", pid=DEAD_PID)
    beat(folder)
    assert run_state(Run(folder)).state == "running"


def test_an_old_heartbeat_does_not_speak_for_a_new_attempt(folder):
    beat(folder, pid=DEAD_PID, age_s=50)
    attempt(folder, 1, end=time.time() - 40, reason="killed", pid=DEAD_PID)
    attempt(folder, 2)
    status = run_state(Run(folder))
    assert (status.state, status.attempts) == ("running", 2)


def test_another_host_is_known_by_its_heartbeat_alone(folder, frozen):
    began = time.time() - 1000
    attempt(folder, host="node-7", pid=DEAD_PID, job_id=42, start=began)
    beat(folder, host="node-7", pid=DEAD_PID)
    status = run_state(Run(folder))
    assert (status.state, status.job_id) == ("running", "42")
    beat(folder, host="node-7", pid=DEAD_PID, age_s=400)
    status = run_state(Run(folder))
    assert status.state == "unknown"
    assert "node-7 for 400 s" in str(status.reason)


def test_half_written_files_do_not_break_the_status(folder):
    (folder / "heartbeat.json").write_text('{"time": 1')
    (folder / "attempts" / "0001.json").write_text("")
    (folder / "FAILED").write_text("")
    status = run_state(Run(folder))
    assert status.state == "failed"
    assert (
        status.reason
        == f"no reason was written: {folder}/FAILED is empty; `scaling submit` tries again"
    )


def test_waiting_runs_are_queued_while_their_executor_lives(folder):
    path = queue.queue_path(folder.parent)
    queue.write_queue(path, [folder.name])
    assert run_state(Run(folder)).state == "queued"
    queue.write_queue(path, [], active={folder.name: 77})
    status = run_state(Run(folder))
    assert (status.state, status.pid, status.phase) == ("running", 77, "start")
    queue.write_queue(path, [folder.name], pid=DEAD_PID)
    assert run_state(Run(folder)).state == "planned"
    queue.forget_dead(folder.parent)
    assert not path.exists()


def test_study_status_has_the_contracts_keys(tmp_path, make_spec):
    specs = [make_spec(0), make_spec(1)]
    document = study_status(specs, tmp_path).to_dict()
    assert document["study"] == "sweeps.fake"
    assert document["counts"] == {"planned": 2}
    assert list(document["runs"][0]) == [
        "run_id",
        "axes",
        "state",
        "step",
        "num_steps",
        "samples_per_s",
        "eta_s",
        "val_l1",
        "attempts",
        "job_id",
        "reason",
    ]
    assert document["runs"][1]["axes"] == {"seed": 1, "behaviour": "ok"}
    assert document["runs"][1]["num_steps"] == 10
    assert study_status([], tmp_path).to_dict() == {"study": "", "counts": {}, "runs": []}
    json.dumps(document, allow_nan=False)


def test_the_table_shows_reasons_as_they_are(tmp_path, make_spec):
    spec = make_spec()
    (tmp_path / spec.run_id).mkdir()
    put(tmp_path / spec.run_id / "FAILED", reason="index [3] is out of range")
    console = Console(record=True, width=160, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(render_status(study_status([spec], tmp_path)))
    shown = console.export_text()
    assert "index [3] is out of range" in shown
    assert "1 failed" in shown


def test_a_state_takes_four_small_files_and_the_queues_are_read_once(tmp_path, make_spec, opened):
    """What grows with a run is left alone: its metrics, its log and its earlier attempts."""
    specs = [make_spec(seed) for seed in range(20)]
    for spec in specs:
        run_dir = tmp_path / spec.run_id
        (run_dir / "attempts").mkdir(parents=True)
        for number in (1, 2, 3):
            attempt(run_dir, number, end=1.0, reason="done")
        beat(run_dir, pid=DEAD_PID)
        put(run_dir / "DONE", step=10, metrics={"val/l1": 0.1})
        for name in ("metrics.jsonl", "train.log", "run.yaml"):
            (run_dir / name).write_text("study: s\nresources: {}\n")
    waiting = queue.queue_path(tmp_path)
    queue.write_queue(waiting, [])
    opened.clear()
    assert study_status(specs, tmp_path).counts == {"done": 20}
    names = Counter(path.name for path in opened if path.is_relative_to(tmp_path))
    assert names == {
        "0003.json": 20, "heartbeat.json": 20, "DONE": 20, "run.yaml": 20, waiting.name: 1
    }  # fmt: skip
