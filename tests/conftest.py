"""Markers that skip with a reason, and the paths that tests share."""

import importlib.util
import io
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def _missing(marker: str) -> str | None:
    """Return why tests with this marker cannot run here, or None when they can."""
    if marker == "gpu":
        import torch

        rehearsed = os.environ.get("DRY") == "1"
        return None if rehearsed or torch.cuda.is_available() else "no CUDA device; see DRY=1"
    if marker == "slurm":
        return None if shutil.which("sbatch") else "no sbatch on PATH; see make test-slurm"
    if marker == "sim":
        found = importlib.util.find_spec("robosuite")
        return None if found else "robosuite is not installed; pip install '.[sim]'"
    return None


def pytest_configure() -> None:
    """Keep tests out of the folder of runs and the tracking store that a user's shell names."""
    for name in ("MLFLOW_TRACKING_URI", "SCALING_RUNS"):
        os.environ.pop(name, None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose marker needs what this machine lacks."""
    for marker in item.iter_markers():
        reason = _missing(marker.name)
        if reason:
            pytest.skip(reason)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes the run.yaml of a short run on shipped data.

    `make_run("num_steps=8", folder="a")` takes overrides on the demo's smallest run: the anchor
    domain alone, no images (blind), one evaluation frame an episode.
    """

    def write(*overrides: str, folder: str = "runs") -> Path:
        from scaling.config import with_overrides
        from sweeps._mixtures import simulated_run

        spec = simulated_run("tiny-h16", domains=1, episodes=3, blind=True)
        short = (
            "num_steps=8",
            "global_batch_size=4",
            "data.eval_starts_per_episode=1",
            "init.encoder=none",
            "init.encoder_sha256=''",
            "engine.save_every=4",
            "engine.log_every=1",
            "engine.eval_every=0",
        )
        spec = with_overrides(spec, [*short, *overrides]).validate()
        path = tmp_path / folder / spec.run_id / "run.yaml"
        spec.save(path)
        return path

    return write


@pytest.fixture(scope="session")
def released_batch() -> Callable[[dict[str, Any]], Any]:
    """Return what makes a Batch of the inputs that the authors' code was given."""
    from xvla.batch import Batch

    def batch(inputs: dict[str, Any]) -> Batch:
        return Batch(
            input_ids=inputs["input_ids"],
            images=inputs["image_input"],
            view_mask=inputs["image_mask"],
            domain_id=inputs["domain_id"],
            proprio=inputs["proprio"],
            action=inputs["action"],
        )

    return batch


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture
def num_calls() -> Callable[[Callable[[], object]], int]:
    """Return a function that counts the calls that `work()` makes in this thread, C's included.

    What a piece of work costs, on however slow or busy a machine.
    """

    def count(work: Callable[[], object]) -> int:
        calls = 0

        def note(_frame: FrameType, event: str, _argument: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(note)
        try:
            work()
        finally:
            sys.setprofile(before)
        return calls

    return count


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return a list that grows by each file that this process opens with `open` or a Path."""
    paths: list[Path] = []
    real = io.open

    def noted(file: Any, *words: Any, **named: Any) -> Any:
        if not isinstance(file, int):
            paths.append(Path(os.fsdecode(file)))
        return real(file, *words, **named)

    monkeypatch.setattr("builtins.open", noted)
    monkeypatch.setattr(io, "open", noted)
    return paths
