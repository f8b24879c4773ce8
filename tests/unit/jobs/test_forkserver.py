"""The fork server's protocol, with the fake trainer as the module that it serves."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.local.launch import LOST, ForkServer
from scaling.runs.files import read_json
from scaling.runs.process import process_alive


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A running server over the fake trainer."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    server = ForkServer(tmp_path, module="fake_trainer")
    yield server
    server.close()


def start(server, tmp_path, name, words="ok 10 0.01"):
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    environment = {"FAKE_TRAINER": words, "OMP_NUM_THREADS": "2"}
    return server.start(folder / "run.yaml", folder / "train.log", environment)


def test_children_run_side_by_side_with_their_own_environment(server, tmp_path, wait_for):
    children = [start(server, tmp_path, f"run{index}") for index in range(3)]
    codes = {}

    def ended():
        codes.update({c.pid: code for c in children if (code := c.poll()) is not None})
        return len(codes) == 3

    wait_for(ended)
    assert set(codes.values()) == {0}
    for index, child in enumerate(children):
        folder = tmp_path / f"run{index}"
        beat = read_json(folder / "heartbeat.json")
        assert (beat["pid"], beat["threads"]) == (child.pid, "2")
        assert (folder / "train.log").read_text() == "attempt 1 of ok from step 0\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("fail 10 0.01", 1, "attempt 1 of fail"),
        ("crash 10 0.01", 1, "RuntimeError: the fake trainer crashes"),
        ("suicide 10 0.01", -signal.SIGKILL, "attempt 1 of suicide"),
    ],
)
def test_codes_and_output_of_failing_children(server, tmp_path, wait_for, words, code, said):
    child = start(server, tmp_path, "run", words)
    found = []
    wait_for(lambda: (c := child.poll()) is not None and (found.append(c) or True))
    assert found == [code]
    assert said in (tmp_path / "run" / "train.log").read_text()


def test_sigterm_reaches_the_childs_own_handler(server, tmp_path, wait_for):
    child = start(server, tmp_path, "run", "ok 1000 0.01")
    wait_for((tmp_path / "run" / "steps.txt").exists)
    os.kill(child.pid, signal.SIGTERM)
    found = []
    wait_for(lambda: (c := child.poll()) is not None and (found.append(c) or True))
    assert found == [85]


def test_closing_lets_children_save_and_leave(server, tmp_path, wait_for):
    child = start(server, tmp_path, "run", "ok 1000 0.01")
    wait_for((tmp_path / "run" / "steps.txt").exists)
    server.close()
    assert not process_alive(child.pid)
    assert read_json(tmp_path / "run" / "attempts" / "0001.json")["reason"] == "signal"


def test_a_killed_server_is_noticed(server, tmp_path, wait_for):
    child = start(server, tmp_path, "run", "ok 1000 0.01")
    os.kill(server._process.pid, signal.SIGKILL)
    os.kill(child.pid, signal.SIGKILL)  # only now: a living server would tell of its end
    found = []
    wait_for(lambda: (c := child.poll()) is not None and (found.append(c) or True))
    assert found == [LOST]
    with pytest.raises(RuntimeError, match="fork server"):
        start(server, tmp_path, "other")


def test_a_server_that_cannot_import_says_where_to_look(tmp_path):
    with pytest.raises(RuntimeError, match=r"did not start; see .*forkserver\.log"):
        ForkServer(tmp_path, module="no_such_module")
    assert "no_such_module" in (tmp_path / "_local" / "forkserver.log").read_text()


def test_what_imports_print_does_not_reach_the_protocol(tmp_path):
    (tmp_path / "chatty.py").write_text(
        "print('hello from an import')\n"
        "def main(argv):\n"
        "    print('hello from the run')\n"
        "    return 'not a number'\n"
    )
    request = json.dumps({"run_yaml": "r", "log": str(tmp_path / "log"), "env": {}})
    result = subprocess.run(
        [sys.executable, "-m", "jobs.local.forkserver", "chatty"],
        input=request + "\n",
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        timeout=300,
        check=True,
    )
    messages = [json.loads(line) for line in result.stdout.splitlines()]
    assert [sorted(message) for message in messages] == [
        ["ready", "seconds"],
        ["pid", "run_yaml"],
        ["code", "pid"],
    ]
    assert messages[2]["code"] in (1, -signal.SIGTERM)
    assert "hello from an import" in result.stderr
