"""The ledger from made attempts, and what prune deletes."""

import json
import time
from dataclasses import replace

import pytest

from jobs.ledger import ledger, render_ledger
from jobs.prune import prune, render_pruned
from jobs.slurm.commands import Job
from scaling.branch import branched
from scaling.runs.files import write_json
from scaling.spec import ScheduleConfig


def write_attempts(run_dir, *attempts):
    (run_dir / "attempts").mkdir(parents=True)
    for number, (start, end, first, last) in enumerate(attempts, 1):
        record = {"start": start, "end": end, "first_step": first, "last_step": last}
        record["reason"] = "killed"
        (run_dir / "attempts" / f"{number:04d}.json").write_text(json.dumps(record))


def test_replayed_steps_are_not_useful(tmp_path, make_spec):
    spec = make_spec()
    run_dir = tmp_path / spec.run_id
    write_attempts(run_dir, (0, 3600, 0, 100), (4000, 4000 + 1800, 80, 130), (6000, 6900, 130, 150))
    (run_dir / "DONE").write_text('{"step": 10, "metrics": {}}')
    book = ledger([spec, make_spec(1)], tmp_path)
    assert book.unit == "CPU-rank-hours"
    assert book.useful == pytest.approx(0.8 + 0.5 + 0.25)
    assert book.replayed == pytest.approx(0.2)
    assert book.total == pytest.approx(1.75)
    shown = render_ledger(book)
    assert "1.55 useful (89 %), 0.2 replayed (11 %)" in shown
    assert "waited 0 in the queue, behind arrays of its own too" in shown


def test_an_attempt_s_own_clock_counts_where_the_wall_clock_was_set(tmp_path, make_spec):
    spec = make_spec()
    run_dir = tmp_path / spec.run_id
    write_attempts(run_dir, (0, 90_000, 0, 100), (100_000, None, 100, None))
    for number, changes in ((1, {"seconds": 1800.0}), (2, {"born": "b/7"})):
        path = run_dir / "attempts" / f"{number:04d}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    beat = {"step": 120, "time": 500_000, "elapsed_s": 900.0, "born": "b/7"}
    (run_dir / "heartbeat.json").write_text(json.dumps(beat))
    assert ledger([spec], tmp_path).total == pytest.approx(0.75)


def test_hours_of_a_failed_run_are_failed_and_ranks_multiply(tmp_path, make_spec):
    spec = make_spec(ranks=2)
    run_dir = tmp_path / spec.run_id
    write_attempts(run_dir, (0, 3600, 0, 100))
    (run_dir / "FAILED").write_text('{"reason": "diverged"}')
    book = ledger([spec], tmp_path)
    assert (book.failed, book.useful) == (2.0, 0.0)


def test_waiting_is_counted_before_every_life(tmp_path, make_spec):
    spec = make_spec()
    run_dir = tmp_path / spec.run_id
    now = time.time()
    write_attempts(run_dir, (now - 7000, now - 4000, 0, 50), (now - 1000, now, 50, 100))
    (run_dir / "DONE").write_text('{"step": 10, "metrics": {}}')
    folder = tmp_path / "_slurm" / "s"
    folder.mkdir(parents=True)
    (folder / "submission.json").write_text(json.dumps({"time": now - 9000, "arrays": []}))
    lives = [{"submission": "s", "time": t, "step": 0} for t in (now - 7200, now - 1300)]
    (run_dir / "lives.jsonl").write_text("".join(json.dumps(life) + "\n" for life in lives))
    waited = 9000 - 7200 + (4000 - 1300)
    assert ledger([spec], tmp_path).queued == pytest.approx(waited / 3600, rel=1e-3)


def test_a_killed_run_s_steps_since_its_checkpoint_are_not_useful(tmp_path, make_spec):
    """Preempted: what counts is where it will go on, 0 without a checkpoint."""
    none, some, idle = make_spec(0), make_spec(1), make_spec(2)
    write_attempts(tmp_path / none.run_id, (0, 3600, 0, 100))
    write_attempts(tmp_path / some.run_id, (0, 3600, 0, 100))
    make_checkpoints(tmp_path / some.run_id, 75)
    write_attempts(tmp_path / idle.run_id, (0, 3600, 0, 50), (4000, 7600, 50, 50))
    make_checkpoints(tmp_path / idle.run_id, 50)
    book = ledger([none, some, idle], tmp_path)
    assert [row.useful for row in book.runs] == pytest.approx([0, 0.75, 1])
    assert [row.replayed for row in book.runs] == pytest.approx([1, 0.25, 1])


def test_an_attempt_killed_while_it_started_is_not_useful(tmp_path, make_spec):
    spec = make_spec()
    write_attempts(tmp_path / spec.run_id, (0, 3600, 0, 50), (4000, 7600, None, None))
    make_checkpoints(tmp_path / spec.run_id, 50)
    book = ledger([spec], tmp_path)
    assert (book.useful, book.replayed) == (1.0, 1.0)


def test_a_branch_does_not_queue_while_its_trunk_trains(tmp_path, make_spec):
    schedule = ScheduleConfig(kind="wsd", warmup_steps=2, decay_fraction=0.1)
    runs = [replace(make_spec(), schedule=schedule, num_steps=steps) for steps in (20, 40)]
    trunk, branch = branched(runs)
    now = time.time()
    write_attempts(tmp_path / trunk.run_id, (now - 8000, now - 2000, 0, 40))
    write_attempts(tmp_path / branch.run_id, (now - 1400, now, 18, 20))
    for spec in (trunk, branch):
        (tmp_path / spec.run_id / "DONE").write_text('{"step": 10, "metrics": {}}')
    folder = tmp_path / "_slurm" / "s"
    folder.mkdir(parents=True)
    (folder / "submission.json").write_text(json.dumps({"time": now - 9000, "arrays": []}))
    life = {"submission": "s", "time": now - 1400, "step": 0}
    (tmp_path / branch.run_id / "lives.jsonl").write_text(json.dumps(life) + "\n")
    assert ledger([branch], tmp_path).queued == pytest.approx(600 / 3600, rel=1e-3)


def test_a_branch_that_waits_for_its_trunk_does_not_queue_yet(tmp_path, make_spec, monkeypatch):
    schedule = ScheduleConfig(kind="wsd", warmup_steps=2, decay_fraction=0.1)
    runs = [replace(make_spec(), schedule=schedule, num_steps=steps) for steps in (20, 40)]
    trunk, branch = branched(runs)
    record = {"time": time.time() - 3600, "arrays": [{"job_id": "1", "runs": [branch.run_id]}]}
    write_json(tmp_path / "_slurm" / "s" / "submission.json", record)
    (tmp_path / branch.run_id).mkdir()
    monkeypatch.setattr("jobs.slurm.queue.squeue", lambda: {"1_0": Job(id="1_0", state="PENDING")})
    assert ledger([branch], tmp_path).queued == 0
    make_checkpoints(tmp_path / trunk.run_id, branch.init.trunk_step)
    assert ledger([branch], tmp_path).queued == pytest.approx(1, rel=0.01)


def make_checkpoints(run_dir, *steps):
    for step in steps:
        folder = run_dir / "checkpoints" / f"step_{step:07d}"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
    (run_dir / "checkpoints" / "latest").write_text(f"step_{steps[-1]:07d}")


def test_prune_keeps_the_newest_and_what_others_started_from(tmp_path, make_spec):
    spec, child, busy = make_spec(0), make_spec(1), make_spec(2)
    run_dir = tmp_path / spec.run_id
    make_checkpoints(run_dir, 10, 20, 30)
    (run_dir / "DONE").write_text('{"step": 10, "metrics": {}}')
    make_checkpoints(tmp_path / busy.run_id, 10, 20)
    parent = run_dir / "checkpoints" / "step_0000010"
    folder = tmp_path / child.run_id
    folder.mkdir()
    (folder / "run.yaml").write_text(f"init:\n  checkpoint: {parent}\n")
    listed = prune([spec, child, busy], tmp_path)
    assert [item.checkpoint for item in listed.checkpoints] == [
        str(run_dir / "checkpoints" / "step_0000020")
    ]
    assert "--yes deletes them" in render_pruned(listed)
    assert prune([spec, child, busy], tmp_path, really=True).deleted
    left = sorted(path.name for path in (run_dir / "checkpoints").iterdir())
    assert left == ["latest", "step_0000010", "step_0000030"]
    assert len(list((tmp_path / busy.run_id / "checkpoints").glob("step_*"))) == 2
