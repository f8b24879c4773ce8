"""Markers that skip with a reason, and the paths that tests share."""

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def _missing(marker: str) -> str | None:
    """Return why tests with this marker cannot run here, or None when they can."""
    if marker == "gpu":
        import torch

        return None if torch.cuda.is_available() else "no CUDA device"
    if marker == "slurm":
        return None if shutil.which("sbatch") else "no sbatch on PATH; see make test-slurm"
    if marker == "sim":
        found = importlib.util.find_spec("robosuite")
        return None if found else "robosuite is not installed; pip install '.[sim]'"
    return None


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
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY
