"""Markers that skip with a reason, and the paths that tests share."""

import importlib.util
import shutil
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


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY
