"""A wall clock that jumps an hour either way changes no duration, throttle or verdict."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from scaling.runs.attempts import AttemptFile, close_attempt
from scaling.runs.folder import Run
from scaling.runs.log import HEARTBEAT_EVERY_S, RunLog
from scaling.runs.process import birth, process_alive

HOUR = 3600.0
NOON = 1_700_000_000.0


class Clocks:
    """The wall clock, which can be set, and the two that can only go on; all stand still."""

    def __init__(self, monkeypatch) -> None:
        self.passed, self.jump = 0.0, 0.0
        monkeypatch.setattr(time, "time", lambda: NOON + self.passed + self.jump)
        monkeypatch.setattr(time, "monotonic", lambda: self.passed)
        monkeypatch.setattr(time, "clock_gettime", lambda _: HOUR + self.passed)


@pytest.fixture
def clocks(monkeypatch) -> Clocks:
    return Clocks(monkeypatch)


def read(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_the_heartbeat_goes_on_at_its_pace(tmp_path: Path, clocks, jump: float) -> None:
    log = RunLog(Run(tmp_path), num_steps=10, attempt=1)
    log.beat(1, "train")
    clocks.jump = jump
    log.beat(2, "train")
    assert read(tmp_path / "heartbeat.json")["step"] == 1  # not yet
    clocks.passed = HEARTBEAT_EVERY_S + 0.1
    log.beat(3, "train")
    beat = read(tmp_path / "heartbeat.json")
    assert beat["step"] == 3
    assert beat["elapsed_s"] == clocks.passed
    assert beat["born"] == birth(os.getpid())
    assert beat["time"] == NOON + clocks.passed + jump


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_an_attempt_takes_as_long_as_it_takes(tmp_path: Path, clocks, jump: float) -> None:
    attempt = AttemptFile(Run(tmp_path), num_gpus=2)
    attempt.open(0)
    clocks.passed, clocks.jump = 100.0, jump
    attempt.close(reason="done", last_step=9)
    record = read(tmp_path / "attempts" / "0001.json")
    assert record["seconds"] == 100.0
    assert record["gpu_hours"] == pytest.approx(2 * 100 / 3600)


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_killed_attempt_ends_with_its_last_heartbeat(tmp_path: Path, clocks, jump) -> None:
    attempt = AttemptFile(Run(tmp_path), num_gpus=2)
    log = RunLog(Run(tmp_path), num_steps=10, attempt=attempt.number)
    attempt.open(0)
    clocks.passed, clocks.jump = 50.0, jump
    log.beat(7, "train")
    AttemptFile(Run(tmp_path), num_gpus=2).open(4)
    record = read(tmp_path / "attempts" / "0001.json")
    assert (record["reason"], record["last_step"]) == ("killed", 7)
    assert record["gpu_hours"] == pytest.approx(2 * 50 / 3600)
    AttemptFile(Run(tmp_path), num_gpus=2)  # the second was killed before a heartbeat of its own
    record = read(tmp_path / "attempts" / "0002.json")
    assert (record["last_step"], record["seconds"]) == (None, 0.0)


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_the_executor_closes_by_the_boot_clock(tmp_path: Path, clocks, jump: float) -> None:
    AttemptFile(Run(tmp_path)).open(0)
    clocks.passed, clocks.jump = 30.0, jump
    close_attempt(Run(tmp_path), reason="killed", num_gpus=8)
    assert read(tmp_path / "attempts" / "0001.json")["seconds"] == 30.0


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_process_is_known_by_its_birth(clocks, jump: float) -> None:
    seen_at, born = time.time(), birth(os.getpid())
    clocks.jump = jump
    assert process_alive(os.getpid(), seen_at=seen_at, born=born)
    assert not process_alive(os.getpid(), born=birth(1))  # the same number, another process


def test_a_zombie_has_no_birth() -> None:
    child = subprocess.Popen(["true"])
    while birth(child.pid):
        time.sleep(0.01)
    assert not process_alive(child.pid)
    child.wait()
    assert birth(child.pid) is None
