"""The local executor against a fake trainer that writes the real files."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import control
from jobs.handover import prepare
from jobs.local import loop as local
from jobs.local.detach import submit_detached
from jobs.local.launch import train_command
from jobs.local.loop import submit
from jobs.status import run_state, study_status
from scaling.cli.progress import open_progress
from scaling.runs.files import read_json
from scaling.runs.folder import Run

FAKE_TRAINER = str(Path(__file__).with_name("fake_trainer.py"))


def steps_of(runs: Path, spec) -> list[int]:
    return [int(word) for word in (runs / spec.run_id / "steps.txt").read_text().split()]


def chain_of(runs: Path, spec) -> str:
    return json.loads((runs / spec.run_id / "DONE").read_text())["metrics"]["chain"]


def submit_in_process(specs, runs, command, **more):
    """Fork a process that submits, as a terminal would; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        summary = submit(specs, runs, command=command, **more)
        (runs / "summary.json").write_text(json.dumps(summary.to_dict()))
    finally:
        os._exit(0)


@pytest.fixture
def slow_command(fake_command):
    """The fake trainer at 50 ms a step."""
    return lambda spec, path: [*fake_command(spec, path)[:-1], "0.05"]


def test_submitting_twice_repeats_nothing(tmp_path, make_spec, fake_command):
    specs = [make_spec(seed) for seed in range(3)]
    finished = []
    first = submit(
        specs,
        tmp_path,
        command=fake_command,
        on_finished=lambda run_id, state: finished.append((run_id, state)),
    )
    assert (first.submitted, first.done, first.failed) == (3, 3, 0)
    assert sorted(finished) == sorted((spec.run_id, "done") for spec in specs)
    assert first.study == "sweeps.fake"
    again = submit(specs, tmp_path, command=fake_command)
    assert (again.submitted, again.skipped_done, again.runs) == (0, 3, [])
    assert all(steps_of(tmp_path, spec) == list(range(1, 11)) for spec in specs)
    assert not list((tmp_path / "_local" / "queue").glob("*.json"))


def test_no_more_ranks_run_at_once_than_asked_for(tmp_path, make_spec, slow_command, wait_for):
    specs = [make_spec(seed, num_steps=8) for seed in range(5)]
    pid = submit_in_process(specs, tmp_path, slow_command, parallel=2)
    most = 0

    def ended():
        nonlocal most
        counts = study_status(specs, tmp_path).counts
        most = max(most, counts.get("running", 0))
        return counts.get("done") == 5

    wait_for(ended)
    os.waitpid(pid, 0)
    assert most == 2


def test_a_run_of_two_ranks_takes_two_places(tmp_path, make_spec, slow_command, wait_for):
    specs = [make_spec(0, ranks=2), make_spec(1), make_spec(2)]
    pid = submit_in_process(specs, tmp_path, slow_command, parallel=2)
    seen = set()

    def ended():
        states = [row.state for row in study_status(specs, tmp_path).runs]
        seen.add((states[0] == "running", states[1:].count("running")))
        return states == ["done"] * 3

    wait_for(ended)
    os.waitpid(pid, 0)
    assert (True, 0) in seen
    assert not [pair for pair in seen if pair[0] and pair[1]]


def test_a_failed_run_does_not_stop_the_others(tmp_path, make_spec, fake_command):
    specs = [make_spec(0, "fail"), make_spec(1, "silent"), make_spec(2, "lie"), make_spec(3)]
    summary = submit(specs, tmp_path, command=fake_command)
    assert (summary.done, summary.failed) == (1, 3)
    reasons = {row.run_id: row.reason for row in summary.runs}
    assert reasons[specs[0].run_id] == "NonFiniteLossError: loss is nan at step 3"
    assert reasons[specs[1].run_id] == "MemoryError: no room"
    assert reasons[specs[2].run_id].startswith("exit code 0 without DONE")
    attempt = read_json(tmp_path / specs[1].run_id / "attempts" / "0001.json")
    assert attempt["reason"] == "error: MemoryError: no room"
    assert attempt["end"] is not None


def test_failed_runs_are_left_alone_or_retried_as_asked(tmp_path, make_spec, fake_command):
    spec = make_spec(0, "silent")
    submit([spec], tmp_path, command=fake_command)
    kept = submit([spec], tmp_path, command=fake_command, retry_failed=False)
    assert (kept.submitted, kept.skipped_failed) == (0, 1)
    tried = submit([spec], tmp_path, command=fake_command)
    assert (tried.submitted, tried.failed) == (1, 1)
    assert run_state(Run(tmp_path / spec.run_id)).attempts == 2
    assert control.retry([spec], tmp_path) == [spec.run_id]
    assert control.retry([spec], tmp_path) == []
    assert run_state(Run(tmp_path / spec.run_id)).state == "preempted"


def test_a_killed_run_resumes_to_the_undisturbed_result(tmp_path, make_spec, fake_command):
    killed, other = make_spec(0, "suicide", num_steps=20), make_spec(1)
    summary = submit([killed, other], tmp_path, command=fake_command)
    assert (summary.done, summary.preempted) == (1, 1)
    assert sorted(row.state for row in summary.runs) == ["done", "preempted"]
    status = run_state(Run(tmp_path / killed.run_id))
    assert (status.state, status.reason) == ("preempted", "killed by signal 9")
    attempt = read_json(tmp_path / killed.run_id / "attempts" / "0001.json")
    assert (attempt["reason"], attempt["last_step"]) == ("killed", 8)
    assert attempt["end"] >= attempt["start"]
    again = submit([killed, other], tmp_path, command=fake_command)
    assert (again.submitted, again.done, again.skipped_done) == (1, 1, 1)
    assert steps_of(tmp_path, killed) == [*range(1, 9), *range(6, 21)]
    undisturbed = make_spec(2, num_steps=20)
    submit([undisturbed], tmp_path, command=fake_command)
    assert chain_of(tmp_path, killed) == chain_of(tmp_path, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_signal_leaves_all_runs_resumable(
    tmp_path, make_spec, slow_command, fake_command, wait_for, number
):
    specs = [make_spec(seed, num_steps=40) for seed in range(3)]
    pid = submit_in_process(specs, tmp_path, slow_command)
    wait_for(lambda: all((tmp_path / s.run_id / "steps.txt").exists() for s in specs[:2]))
    os.kill(pid, number)
    os.waitpid(pid, 0)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["interrupted"]
    assert (summary["preempted"], summary["done"], summary["failed"]) == (2, 0, 0)
    assert [run_state(Run(tmp_path / s.run_id)).state for s in specs] == ["preempted"] * 2 + [
        "planned"
    ]
    submit(specs, tmp_path, command=fake_command)
    for spec in specs:
        assert steps_of(tmp_path, spec) == list(range(1, 41))


def test_a_second_stop_signal_kills(tmp_path, make_spec, slow_command, wait_for):
    spec = make_spec(0, "stubborn", num_steps=400)
    pid = submit_in_process([spec], tmp_path, slow_command)
    wait_for((tmp_path / spec.run_id / "steps.txt").exists)
    os.kill(pid, signal.SIGINT)
    wait_for(lambda: len(steps_of(tmp_path, spec)) > 12)
    os.kill(pid, signal.SIGINT)
    os.waitpid(pid, 0)
    assert run_state(Run(tmp_path / spec.run_id)).reason == "killed by signal 9"


def test_runs_in_other_hands_are_skipped(tmp_path, make_spec, slow_command, wait_for):
    specs = [make_spec(0, num_steps=30), make_spec(1, num_steps=30)]
    pid = submit_in_process(specs, tmp_path, slow_command, parallel=1)
    wait_for((tmp_path / specs[0].run_id / "steps.txt").exists)
    states = [row.state for row in study_status(specs, tmp_path).runs]
    assert states == ["running", "queued"]
    summary = submit(specs, tmp_path, command=slow_command)
    assert (summary.submitted, summary.skipped_running) == (0, 2)
    os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)


def test_cancel_stops_the_running_and_unqueues_the_waiting(
    tmp_path, make_spec, slow_command, fake_command, wait_for
):
    specs = [make_spec(seed, num_steps=60) for seed in range(2)] + [make_spec(2, num_steps=2)]
    pid = submit_in_process(specs, tmp_path, slow_command, parallel=1)
    wait_for((tmp_path / specs[0].run_id / "steps.txt").exists)
    results = control.cancel(specs[:2], tmp_path)
    os.waitpid(pid, 0)
    assert [row.was for row in results] == ["running", "queued"]
    assert [row.action for row in results] == ["stopped", "removed from the queue"]
    document = study_status(specs, tmp_path)
    assert [row.state for row in document.runs] == ["cancelled", "cancelled", "done"]
    assert json.loads((tmp_path / "summary.json").read_text())["cancelled"] == 2
    assert control.cancel(specs[2:], tmp_path)[0].action == "nothing to cancel"
    submit(specs, tmp_path, command=fake_command)
    assert steps_of(tmp_path, specs[0]) == list(range(1, 61))


@pytest.fixture
def background(tmp_path):
    """Return a maker of background programs that call `submit` once `go` is there."""
    script = tmp_path / "background.py"
    script.write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        "from jobs.local.loop import submit\n"
        "from scaling.cli.progress import open_progress\n"
        "from scaling.spec import load_spec\n"
        "while not Path(sys.argv[1], 'go').exists():\n"
        "    time.sleep(0.02)\n"
        "specs = [load_spec(Path(sys.argv[1], i, 'run.yaml')) for i in sys.argv[3:]]\n"
        "words = [sys.executable, '-S', sys.argv[2]]\n"
        "submit(specs, sys.argv[1], progress=open_progress,\n"
        "       command=lambda spec, path: [*words, str(path), 'ok', '3', '0.01'])\n"
    )
    words = [sys.executable, str(script), str(tmp_path), FAKE_TRAINER]
    return lambda specs: [*words, *(spec.run_id for spec in specs)]


def test_a_run_cancelled_before_the_background_is_up_stays_cancelled(
    tmp_path, make_spec, fake_command, wait_for, background
):
    specs = [make_spec(0, "silent"), make_spec(1, num_steps=3)]
    submit(specs[:1], tmp_path, command=fake_command)  # a failure to be cleared
    result = submit_detached(specs, tmp_path, command=background(specs))
    assert (result.submitted, result.skipped_failed) == (2, 0)
    assert control.cancel(specs[:1], tmp_path)[0].action == "removed from the queue"
    (tmp_path / "go").touch()
    wait_for(lambda: (tmp_path / specs[1].run_id / "DONE").exists())
    wait_for(lambda: not list((tmp_path / "_local" / "queue").glob("*.json")))
    assert study_status(specs, tmp_path).counts == {"cancelled": 1, "done": 1}


def test_detached_runs_show_as_queued_and_finish(tmp_path, make_spec, wait_for, background):
    specs = [make_spec(seed, num_steps=3) for seed in range(2)]
    result = submit_detached(specs, tmp_path, command=background(specs))
    assert result.submitted == 2
    assert study_status(specs, tmp_path).counts == {"queued": 2}
    (tmp_path / "go").touch()
    wait_for(lambda: study_status(specs, tmp_path).counts == {"done": 2})
    wait_for(lambda: "2/2 run" in Path(result.log).read_text())
    assert submit_detached(specs, tmp_path).pid is None


def test_a_failed_run_can_be_resubmitted_in_the_background(
    tmp_path, make_spec, fake_command, wait_for, monkeypatch
):
    """The default background program, over a stand-in for the module that it starts."""
    spec = make_spec(0, "silent")
    submit([spec], tmp_path, command=fake_command)
    assert run_state(Run(tmp_path / spec.run_id)).state == "failed"
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, jobs.local.loop as local\n"
        f"local.train_command = lambda spec, path: [sys.executable, '-S', {FAKE_TRAINER!r},\n"
        "    str(path), 'ok', '10', '0.01']\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = submit_detached([spec], tmp_path)
    assert (result.submitted, result.skipped_failed) == (1, 0)
    wait_for(lambda: run_state(Run(tmp_path / spec.run_id)).state == "done")
    wait_for(lambda: not list((tmp_path / "_local" / "queue").glob("*.json")))
    assert not list((tmp_path / "_local").glob("request-*"))


def test_a_full_disk_fails_its_run_alone(tmp_path, make_spec, fake_command, caplog):
    specs = [make_spec(0), make_spec(1)]
    prepare(specs, tmp_path)
    (tmp_path / specs[0].run_id / "train.log").symlink_to("/dev/full")
    summary = submit(specs, tmp_path, command=fake_command)
    assert (summary.done, summary.failed) == (1, 1)
    assert "cannot start: No space left on device" in caplog.text


def test_bars_are_drawn_on_a_terminal(tmp_path, make_spec, fake_command):
    spec = make_spec(0, "gated")
    prepare([spec], tmp_path)
    script = (
        "import sys\n"
        "from jobs.local.loop import submit\n"
        "from scaling.spec import load_spec\n"
        "from scaling.cli.progress import open_progress\n"
        "command = lambda spec, path: sys.argv[3:]\n"
        "submit([load_spec(sys.argv[1])], sys.argv[2], progress=open_progress, command=command)\n"
    )
    run_yaml = tmp_path / spec.run_id / "run.yaml"
    words = [str(run_yaml), str(tmp_path), *fake_command(spec, run_yaml)]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", script, *words],
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal's way to say that the other end closed
        while data := os.read(ours, 65536):
            shown += data
            if b"100 samples/s" in shown:
                (tmp_path / spec.run_id / "go").touch()
    os.close(ours)
    assert process.wait() == 0
    text = shown.decode()
    assert "100 samples/s" in text
    assert f"run {spec.run_id}" in text
    assert "1/1 runs" in text


def test_threads_of_the_spec_reach_the_process(tmp_path, make_spec, fake_command):
    spec = make_spec(0, threads=3)
    submit([spec], tmp_path, command=fake_command)
    assert read_json(tmp_path / spec.run_id / "heartbeat.json")["threads"] == "3"


def test_several_ranks_start_under_torchrun(make_spec):
    command = train_command(make_spec(0, ranks=2), Path("runs/x/run.yaml"))
    words = " ".join(command[1:])
    assert words == (
        "-m torch.distributed.run --standalone --nproc-per-node 2 -m scaling.train runs/x/run.yaml"
    )
    assert train_command(make_spec(0), Path("y"))[1:] == ["-m", "scaling.train", "y"]


def test_what_this_machine_cannot_hold_is_refused(tmp_path, make_spec, fake_command):
    spec = make_spec()
    big = replace(spec, resources=replace(spec.resources, nodes=4, gpus_per_node=8))
    with pytest.raises(ValueError, match=r"4 node.*8 GPU.*scale=cpu"):
        submit([big], tmp_path, command=fake_command)
    with pytest.raises(ValueError, match="parallel=0"):
        submit([spec], tmp_path, parallel=0, command=fake_command)
    assert not list(tmp_path.iterdir())


def test_a_failing_callback_does_not_stop_the_study(tmp_path, make_spec, fake_command, caplog):
    def broken(run_id: str, state: str) -> None:
        raise RuntimeError("the tracker is out")

    specs = [make_spec(0), make_spec(1)]
    summary = submit(specs, tmp_path, command=fake_command, on_finished=broken)
    assert summary.done == 2
    assert "the tracker is out" in caplog.text


def test_submit_works_outside_the_main_thread(tmp_path, make_spec, fake_command):
    summaries = []
    thread = threading.Thread(
        target=lambda: summaries.append(submit([make_spec()], tmp_path, command=fake_command))
    )
    thread.start()
    thread.join(300)
    assert summaries[0].done == 1


def test_plain_progress_names_every_end(tmp_path, make_spec, fake_command, capsys):
    specs = [make_spec(0), make_spec(1, "fail")]
    submit(specs, tmp_path, progress=open_progress, command=fake_command)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "2 runs, 0 of them done or in other hands"
    assert any(f"run {specs[1].run_id} failed (NonFiniteLossError" in line for line in lines)
    assert sum("2/2 run" in line for line in lines) == 1


def test_without_a_fork_server_runs_start_by_command(tmp_path, make_spec, monkeypatch, caplog):
    """The server cannot start: a warning, and each run becomes a process of its own."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the fork server did not start; see its log")

    monkeypatch.setattr(local, "ForkServer", broken)
    started = []

    def start(command, log, environment):
        started.append(command)
        run_dir = log.parent
        script = (
            f"open({str(run_dir / 'DONE')!r}, 'w').write('{{\"step\": 10, \"metrics\": {{}}}}')"
        )
        return real_start([sys.executable, "-S", "-c", script], log, environment)

    real_start = local.start_command
    monkeypatch.setattr(local, "start_command", start)
    summary = submit([make_spec(0), make_spec(1)], tmp_path)
    assert summary.done == 2
    assert all(command[1:3] == ["-m", "scaling.train"] for command in started)
    assert "fork server did not start" in caplog.text
