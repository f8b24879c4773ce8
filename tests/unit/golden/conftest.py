"""What the goldens share: the run folders of a finished demo, and the report written of them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from demo_runs import unpack
from golden_files import REPOSITORY

REPORT = ("report", "sweeps.demo", "--n-column", "num_params_policy", "--draws", "50")


@pytest.fixture(autouse=True)
def plain_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what a user's surroundings change of the output."""
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("SCALING_DEBUG", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the demo's runs; exports and MLflow's database go beside it."""
    return unpack(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="session", autouse=True)
def report_process(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple["subprocess.Popen[bytes]", Path] | None]:
    """Start the report of a second copy of the demo, which is written while other tests run."""
    wanted = any("reported" in getattr(i, "fixturenames", ()) for i in request.session.items)
    if not wanted:
        yield None
        return
    folder = tmp_path_factory.mktemp("reported")
    words = [*REPORT, "--runs", str(unpack(folder))]
    with open(folder / "printed.txt", "wb") as printed:
        process = subprocess.Popen(
            [sys.executable, "-m", "scaling", *words],
            stdout=printed,
            stderr=subprocess.STDOUT,
            cwd=REPOSITORY,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    yield process, folder
    process.kill()
    process.wait()


@pytest.fixture(scope="session")
def reported(report_process: tuple["subprocess.Popen[bytes]", Path]) -> Path:
    """Folder with the written report, what it printed, and the runs that it is of."""
    process, folder = report_process
    code = process.wait(timeout=600)
    assert code == 0, f"`scaling {' '.join(REPORT)}`: {(folder / 'printed.txt').read_text()}"
    return folder
