"""Specs and a stand-in for the trainer, so that the executor's tests need no torch."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

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
    """Return a function that waits until a condition holds, and fails after 90 s."""

    def wait(condition: Callable[[], object], *, timeout_s: float = 90.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true in time"
            time.sleep(0.02)

    return wait
