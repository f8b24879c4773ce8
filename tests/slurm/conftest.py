"""Fixtures of the Slurm tests: the cluster of the session and undisturbed references."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobs.cluster import Cluster
from jobs.slurm.submit import submit
from jobs.status import run_state
from scaling.runs.folder import Run
from scaling.spec import RunSpec

sys.path.insert(0, str(Path(__file__).parent))  # for the tests beside this file
from preloaded import preloaded_python
from slurm_helpers import Slurm, losses, open_slurm, result, step_of, wait_until


@pytest.fixture(scope="session")
def session_slurm() -> Iterator[Slurm]:
    """Start the cluster once for all tests."""
    yield from open_slurm()


@pytest.fixture
def slurm(session_slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """Return the cluster, empty before and after the test, its queue read afresh."""
    monkeypatch.setattr("jobs.slurm.queue.CACHE_S", 1.0)
    session_slurm.quiet()
    yield session_slurm
    session_slurm.quiet()


@pytest.fixture(scope="session")
def dev() -> Cluster:
    """Return what the emulated cluster offers, with two ranks at once (this machine's cores)."""
    return Cluster(name="dev", partition="main", nodes=2, gpus_per_node=8, time_limit="10",
                   max_cpu_ranks=2, mem_gib_per_rank=2.0)  # fmt: skip


@pytest.fixture(scope="session")
def preloaded_session() -> Iterator[str]:
    """Serve trainers from one preloaded process for all tests that ask for `preloaded`."""
    # Short: the paths of sockets end at 108 characters.
    folder = tempfile.TemporaryDirectory(prefix="preloaded-", dir="/tmp")
    with folder as name, preloaded_python(Path(name)) as python:
        yield python


@pytest.fixture
def preloaded(preloaded_session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this test's runs start without their imports, where these are not the point."""
    monkeypatch.setattr(sys, "executable", preloaded_session)


class Undisturbed:
    """The same runs in one go, without Slurm; begun early, they train on the core left free."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.begun: dict[str, subprocess.Popen] = {}

    def begin(self, spec: RunSpec) -> None:
        """Start a run; once is enough for all tests that compare with it."""
        if spec.run_id not in self.begun:
            run_yaml = self.runs / spec.run_id / "run.yaml"
            spec.save(run_yaml)
            words = [sys.executable, "-m", "scaling.train", str(run_yaml)]
            with open(run_yaml.with_name("train.log"), "wb") as log:
                self.begun[spec.run_id] = subprocess.Popen(words, stdout=log, stderr=log)

    def folder(self, spec: RunSpec) -> Path:
        """Return the folder of a run that was begun, when it is done."""
        assert self.begun[spec.run_id].wait(timeout=600) == 0
        return self.runs / spec.run_id


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Undisturbed:
    """Return the references, shared by all tests."""
    return Undisturbed(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def same_as_undisturbed(undisturbed: Undisturbed) -> Callable[[RunSpec, Path], None]:
    """Return a check that a run's losses and final metrics are those of an undisturbed one."""

    def check(spec: RunSpec, run_dir: Path) -> None:
        reference = undisturbed.folder(spec)
        assert losses(run_dir) == losses(reference)
        assert result(run_dir) == result(reference)

    return check


@pytest.fixture
def finish(tmp_path) -> Callable[..., None]:
    """Return a function that waits for runs and fails with their logs unless all are done."""

    def wait(*specs: RunSpec, timeout_s: float = 600.0) -> None:
        folders = [tmp_path / spec.run_id for spec in specs]

        def through() -> bool:
            states = {run_state(Run(folder)).state for folder in folders}
            return states <= {"done", "failed", "cancelled"}

        wait_until(through, timeout_s=timeout_s)
        for folder in folders:
            assert run_state(Run(folder)).state == "done", (folder / "train.log").read_text()[
                -3000:
            ]

    return wait


@pytest.fixture
def start(slurm, tmp_path, dev) -> Callable[..., Path]:
    """Return a function that submits one run and waits until it has made a number of steps."""

    def begin(spec: RunSpec, cluster: Cluster = dev, *, steps: int = 0) -> Path:
        submit([spec], tmp_path, cluster)
        run_dir = tmp_path / spec.run_id
        if steps:
            wait_until(lambda: step_of(run_dir) >= steps)
        return run_dir

    return begin
