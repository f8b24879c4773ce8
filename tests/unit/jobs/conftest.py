"""Specs and a stand-in for the trainer, so that the executor's tests need no torch."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scaling.spec import EngineConfig, ResourceConfig, RunSpec, SeedConfig
from xvla.config import DataConfig, DomainEntry

FAKE_TRAINER = Path(__file__).with_name("fake_trainer.py")

MakeSpec = Callable[..., RunSpec]


@pytest.fixture
def make_spec() -> MakeSpec:
    """Return a maker of small specs; `behaviour` tells the fake trainer what to do."""

    def make(
        seed: int = 0,
        behaviour: str = "ok",
        *,
        num_steps: int = 10,
        ranks: int = 1,
        threads: int = 1,
    ) -> RunSpec:
        return RunSpec(
            study="sweeps.fake",
            axes={"seed": seed, "behaviour": behaviour},
            data=DataConfig(
                mixture=[DomainEntry(name="sim_panda", num_episodes=10)],
                anchor_domain="sim_panda",
            ),
            num_steps=num_steps,
            seeds=SeedConfig(init=seed, data=len(behaviour)),
            engine=EngineConfig(threads=threads),
            resources=ResourceConfig(processes_per_node=ranks),
        )

    return make


@pytest.fixture
def fake_command() -> Callable[[RunSpec, Path], list[str]]:
    """Return the executor's command for the fake trainer, at 10 ms a step."""

    def command(spec: RunSpec, run_yaml: Path) -> list[str]:
        words = [str(run_yaml), spec.axes["behaviour"], str(spec.num_steps), "0.01"]
        return [sys.executable, "-S", str(FAKE_TRAINER), *words]

    return command


@pytest.fixture
def wait_for() -> Callable[..., None]:
    """Return a function that waits until a condition holds, and fails after 300 s."""

    def wait(condition: Callable[[], object], *, timeout_s: float = 300.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true in time"
            time.sleep(0.02)

    return wait


class FakeSlurm:
    """The commands of fake_slurm.py on PATH, and the JSON file that drives them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "state.json"
        self.path.write_text("{}")
        for name in ("sbatch", "squeue", "sacct", "scancel", "scontrol"):
            script = folder / name
            program = Path(__file__).with_name("fake_slurm.py")
            script.write_text(f"#!{sys.executable} -S\n{program.read_text()}")
            script.chmod(0o755)

    def __getitem__(self, key: str) -> Any:
        return json.loads(self.path.read_text())[key]

    def set(self, **values: Any) -> None:
        """Change what the commands say."""
        self.path.write_text(json.dumps(json.loads(self.path.read_text()) | values))

    def calls(self, name: str) -> list[list[str]]:
        """Return the arguments of every call of one command."""
        found = json.loads(self.path.read_text()).get("calls", [])
        return [words[1:] for words in found if words[0] == name]

    def end(self, *tasks: str) -> None:
        """Take tasks out of the queue."""
        self.set(jobs={key: job for key, job in self["jobs"].items() if key not in tasks})


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Put the fake Slurm first on PATH; polls decide at once."""
    folder = tmp_path / "fake_slurm"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    monkeypatch.setattr("jobs.slurm.queue.GONE_AFTER_S", 0.2)
    return FakeSlurm(folder)
