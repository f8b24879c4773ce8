"""Branches on the local executor: behind the trunk's checkpoint, and never for ever."""

import json
import os
import signal
import sys
import time
from dataclasses import replace

import pytest

from jobs.local.loop import submit
from jobs.slurm.trunks import dependency
from jobs.status import run_state, study_status
from jobs.trunks import SILENT_S, outlook
from scaling.branch import branched
from scaling.runs.files import read_json, write_json
from scaling.runs.folder import Run
from scaling.runs.state import Hold
from scaling.spec import ScheduleConfig

# Saves the steps named, waits for a file if one is named, then is the fake trainer.
TRAINER = """
import os, sys, time
from pathlib import Path
steps, gate, *words = sys.argv[1:]
for step in filter(None, steps.split(",")):
    (Path(words[1]).parent / "checkpoints" / f"step_{int(step):07d}").mkdir(parents=True)
while gate and not all(Path(path).exists() for path in gate.split(",")):
    time.sleep(0.02)
os.execv(sys.executable, [sys.executable, "-S", *words])
"""


@pytest.fixture
def family(make_spec):
    """Return a maker of (trunk of 40 steps, branches of 20 and 10); both say what they do."""

    def make(behaviour: str = "ok", seed: int = 0):
        schedule = ScheduleConfig(kind="wsd", warmup_steps=2, decay_fraction=0.1)
        runs = [
            replace(make_spec(seed, "ok", num_steps=steps), schedule=schedule)
            for steps in (10, 20, 40)
        ]
        trunk, *branches = branched(runs)
        return [replace(trunk, axes={"behaviour": behaviour}), *branches]

    return make


@pytest.fixture
def saving(fake_command):
    """Return a maker of commands: a trunk saves its branch points, then waits for `gate`."""

    def make(gate: str = "", *, saves: bool = True):
        def command(spec, run_yaml):
            steps = ",".join(map(str, spec.engine.keep_steps)) if saves else ""
            own = gate if spec.engine.keep_steps else ""
            return [
                sys.executable,
                "-S",
                "-c",
                TRAINER,
                steps,
                own,
                *fake_command(spec, run_yaml)[2:],
            ]

        return command

    return make


def states(specs, runs):
    return [row.state for row in study_status(specs, runs).runs]


def reasons(specs, runs):
    return [run_state(Run(runs / spec.run_id)).reason for spec in specs]


def submit_in_process(specs, runs, command, **more):
    """Fork a process that submits; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        submit(specs, runs, command=command, **more)
    finally:
        os._exit(0)


def test_branches_start_while_the_trunk_still_trains(tmp_path, family, saving):
    """The trunk trains on only after both branches are done: else this would never end."""
    trunk, *branches = family()
    gate = ",".join(str(tmp_path / spec.run_id / "DONE") for spec in branches)
    order = [*branches, trunk]  # whatever the order given, the trunk goes first
    summary = submit(order, tmp_path, command=saving(gate), parallel=2)
    assert (summary.done, summary.failed) == (3, 0)
    assert [row.run_id for row in summary.runs][-1] == trunk.run_id
    again = submit(order, tmp_path, command=saving())
    assert (again.submitted, again.skipped_done) == (0, 3)


def test_on_one_core_the_trunk_comes_first(tmp_path, family, saving):
    trunk, *branches = family()
    summary = submit([*branches, trunk], tmp_path, command=saving(), parallel=1)
    assert summary.done == 3
    assert next(row.run_id for row in summary.runs) == trunk.run_id


def test_a_failed_trunk_fails_its_branches_and_no_others(tmp_path, family, saving, make_spec):
    trunk, *branches = family("fail")
    other = make_spec(7)
    fails = saving(saves=False)
    summary = submit([trunk, *branches, other], tmp_path, command=fails)
    assert (summary.done, summary.failed) == (1, 3)
    for spec, reason in zip(branches, reasons(branches, tmp_path), strict=True):
        start = f"trunk {trunk.run_id} failed before step {spec.init.trunk_step}: NonFiniteLossErr"
        assert reason.startswith(start)
    again = submit([*family(), other], tmp_path, command=saving())
    assert (again.submitted, again.done, again.skipped_done) == (3, 3, 1)


def test_a_killed_trunk_leaves_its_branches_to_the_next_submission(tmp_path, family, saving):
    trunk, *branches = family("suicide")
    summary = submit([trunk, *branches], tmp_path, command=saving(saves=False))
    assert (summary.submitted, summary.done, summary.failed) == (3, 0, 0)
    assert {row.reason for row in summary.runs[1:]} == {
        f"trunk {trunk.run_id} is preempted (killed by signal 9); submit both again"
    }
    assert states([trunk, *branches], tmp_path) == ["preempted", "planned", "planned"]
    again = submit([trunk, *branches], tmp_path, command=saving())
    assert again.done == 3


def test_a_trunk_in_other_hands_is_waited_for(tmp_path, family, saving, wait_for):
    trunk, *branches = family()
    gate = tmp_path / "go"
    pid = submit_in_process([trunk], tmp_path, saving(str(gate), saves=False))
    wait_for(lambda: states([trunk], tmp_path) == ["running"])
    other = submit_in_process([trunk, *branches], tmp_path, saving())
    wait_for(lambda: states([trunk, *branches], tmp_path) == ["running", "queued", "queued"])
    for step in trunk.engine.keep_steps:
        (tmp_path / trunk.run_id / "checkpoints" / f"step_{step:07d}").mkdir(parents=True)
    wait_for(lambda: states(branches, tmp_path) == ["done", "done"])
    assert states([trunk], tmp_path) == ["running"]
    gate.touch()
    for child in (pid, other):
        os.waitpid(child, 0)
    assert states([trunk], tmp_path) == ["done"]


def test_a_stop_signal_leaves_waiting_branches_planned(tmp_path, family, saving, wait_for):
    specs = family()
    pid = submit_in_process(specs, tmp_path, saving(str(tmp_path / "never"), saves=False))
    wait_for(lambda: states(specs, tmp_path) == ["running", "queued", "queued"])
    os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)
    assert states(specs, tmp_path)[1:] == ["planned", "planned"]


def test_a_cancelled_branch_is_not_started(tmp_path, family, saving, wait_for):
    trunk, first, second = family()
    gate = tmp_path / "go"
    pid = submit_in_process([trunk, first, second], tmp_path, saving(str(gate), saves=False))
    wait_for(lambda: states([trunk], tmp_path) == ["running"])
    Run(tmp_path / first.run_id).write_failed("cancelled")
    for step in trunk.engine.keep_steps:
        (tmp_path / trunk.run_id / "checkpoints" / f"step_{step:07d}").mkdir(parents=True)
    gate.touch()
    os.waitpid(pid, 0)
    assert states([trunk, first, second], tmp_path) == ["done", "cancelled", "done"]


def test_what_a_branch_is_told(tmp_path, family):
    trunk, branch, _ = family()
    folder = tmp_path / trunk.run_id
    folder.mkdir()

    def look(**held):
        return outlook(branch, tmp_path, held=held)

    assert (look().state, look().reason) == (
        "left", f"trunk {trunk.run_id} is planned; submit both again"
    )  # fmt: skip
    assert look(**{trunk.run_id: Hold(executor="local", state="queued")}).state == "waiting"
    write_json(folder / "DONE", {"step": 100, "metrics": {}})
    assert look().state == "lost"
    assert (
        f"is past step {branch.init.trunk_step} and did not keep it; delete its folder"
        in look().reason
    )
    (tmp_path / branch.run_id / "checkpoints").mkdir(parents=True)
    (tmp_path / branch.run_id / "checkpoints" / "latest").write_text("step_0000019")
    assert look().state == "ready"  # it goes on from its own
    assert outlook(trunk, tmp_path, held={}).state == "ready"


def test_a_late_heartbeat_on_another_host_is_waited_for_an_hour(tmp_path, family):
    trunk, branch, _ = family()
    beat = tmp_path / trunk.run_id / "heartbeat.json"
    beat.parent.mkdir()
    write_json(beat, {"time": time.time() - 61, "host": "elsewhere", "pid": 1, "step": 3})
    assert states([trunk], tmp_path) == ["unknown"]
    assert outlook(branch, tmp_path, held={}).state == "waiting"
    assert dependency([branch], tmp_path, within=()) == ""  # not refused: the task looks again
    long_ago = time.time() - SILENT_S - 1
    os.utime(beat, (long_ago, long_ago))
    assert outlook(branch, tmp_path, held={}).state == "left"


def test_a_trunk_past_the_step_is_not_waited_for(tmp_path, family):
    """It began before it had branches: they fail at once and not when it is through."""
    trunk, long, short = family()
    assert long.init.trunk_step > short.init.trunk_step
    folder = tmp_path / trunk.run_id / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "latest").write_text(f"step_{short.init.trunk_step + 1:07d}")
    held = {trunk.run_id}
    found = [outlook(spec, tmp_path, held={}, ours=held) for spec in (long, short)]
    assert [item.state for item in found] == ["waiting", "lost"]
    assert f"is past step {short.init.trunk_step} and did not keep it" in found[1].reason


def test_the_trunk_done_without_the_step_is_named(tmp_path, family, saving):
    trunk, *branches = family()
    plain = replace(trunk, engine=replace(trunk.engine, keep_steps=[]))
    submit([plain], tmp_path, command=saving())
    summary = submit([trunk, *branches], tmp_path, command=saving())
    assert (summary.skipped_done, summary.failed) == (1, 2)
    marker = read_json(tmp_path / branches[0].run_id / "FAILED")
    assert marker is not None
    assert "and did not keep it" in marker["reason"]
    assert json.dumps(summary.to_dict())
