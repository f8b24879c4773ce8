"""An MLflow server with PostgreSQL: publishing, checkpoints, search, and a study run against it."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from scaling.best import best, resolve
from scaling.spec import RunSpec
from scaling.tracking.ledger import store_mark
from scaling.tracking.publish import publish
from scaling.tracking.store import TrackingError, connect

sys.path.insert(0, str(Path(__file__).parent))  # for the module beside this file

from mlflow_helpers import (
    NUM_STEPS,
    QUIET,
    STUDY,
    await_health,
    curves,
    free_port,
    make_spec,
    publisher,
    small_study,
    write_done,
)

pytestmark = pytest.mark.integration


def _postgres_folder() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@dataclass(frozen=True)
class Servers:
    """An MLflow server's address, and the URL of an empty database beside its own."""

    uri: str
    database: str


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Start PostgreSQL from the system's packages and an MLflow server on it."""
    programs = _postgres_folder()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    driver = next((name for name in ("psycopg", "psycopg2") if find_spec(name)), None)
    if driver is None:
        pytest.skip("no PostgreSQL driver (pip install psycopg2-binary)")
    if os.geteuid() == 0 and shutil.which("runuser") is None:
        pytest.skip("PostgreSQL refuses to run as root and there is no runuser")
    folder = tmp_path_factory.mktemp("postgres")
    data, port = Path(f"/tmp/scaling-pg-{os.getpid()}"), free_port()
    data.mkdir(mode=0o700)
    as_user: list[str] = []
    if os.geteuid() == 0:
        shutil.chown(data, "postgres", "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    control = [*as_user, str(programs / "pg_ctl"), "-D", str(data / "db"), "-w"]
    init = [
        *as_user,
        str(programs / "initdb"),
        "-D",
        str(data / "db"),
        "-U",
        "mlflow",
        "-A",
        "trust",
    ]
    server: subprocess.Popen[bytes] | None = None
    try:
        subprocess.run(init, check=True, capture_output=True, cwd=data)
        options = f"-p {port} -k {data} -c listen_addresses=127.0.0.1"
        start = [*control, "-o", options, "-l", str(data / "log"), "start"]
        subprocess.run(start, check=True, stdout=subprocess.DEVNULL, cwd=data)
        create = [str(programs / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow"]
        subprocess.run([*create, "optuna"], check=True, cwd=data)
        address = f"postgresql+{driver}://mlflow@127.0.0.1:{port}"
        uri = f"http://127.0.0.1:{free_port()}"
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", uri.rpartition(":")[2], "--workers", "1"]
        command += [
            "--backend-store-uri",
            f"postgresql+{driver}://mlflow@127.0.0.1:{port}/postgres",
        ]
        command += ["--artifacts-destination", str(folder / "artifacts")]
        with open(folder / "server.log", "wb") as log:
            server = subprocess.Popen(command, cwd=folder, env=os.environ | QUIET, stdout=log,
                                      stderr=log, start_new_session=True)  # fmt: skip
        await_health(uri, server, folder / "server.log")
        yield Servers(uri=uri, database=f"{address}/optuna")
    finally:
        if server is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        subprocess.run([*control, "-m", "immediate", "stop"], capture_output=True, cwd=data)
        shutil.rmtree(data, ignore_errors=True)


def test_a_search_in_postgresql_goes_on_after_a_restart(postgres: Servers, tmp_path: Path) -> None:
    from scaling.runs.state import RunStatus
    from scaling.search.controller import Controller
    from scaling.search.runs import RUNS, RunList
    from scaling.search.storage import open_study
    from scaling.search.task import Score, Settings, Task
    from scaling.study import load_study

    name = "sweeps.prompt_and_window"
    search, handed_over = load_study(name).search, []
    assert search is not None
    task = Task(study=name, scale="cpu", search=search)

    def states(specs: list[RunSpec]) -> dict[str, RunStatus]:
        return {
            s.run_id: RunStatus(run_id=s.run_id, state="done" if s in handed_over else "planned")
            for s in specs
        }

    def score(spec: RunSpec, step: int) -> Score:
        return Score(value=1 / spec.model.soft_prompt_length, sem=0.0)

    for trials in (3, 7):
        begun_with = task.begun_with("val_l1")
        study, storage = open_study(name, tmp_path, begun_with=begun_with, url=postgres.database)
        Controller(
            study=study, storage=storage, task=task, settings=Settings(trials=trials, poll_s=0),
            runs=RunList(path=tmp_path / RUNS, task=task), score=score,
            submit=handed_over.extend, states=states, cancel=print,
        ).run_trials()  # fmt: skip
    assert len(study.get_trials()) == 7
    assert len({spec.run_id for spec in handed_over}) == len(handed_over)
    other = Task(study=name, scale="cpu", search=search, overrides=("num_steps=7",))
    with pytest.raises(ValueError, match="begun with default_run="):
        open_study(name, tmp_path, begun_with=other.begun_with("val_l1"), url=postgres.database)


def test_a_study_through_a_server_with_postgresql(postgres: Servers, tmp_path: Path) -> None:
    postgres_server = postgres.uri
    from safetensors.numpy import save_file

    specs = [make_spec(seed) for seed in range(3)]
    folders = [write_done(tmp_path / "runs", spec) for spec in specs]
    # The tracker is down while the study runs: nothing is lost, one clear error.
    with pytest.raises(TrackingError, match="nothing is lost"):
        publish(specs, tmp_path / "runs", tracking_uri="http://127.0.0.1:9")
    total = publish(specs, tmp_path / "runs", tracking_uri=postgres_server)
    assert total.new_runs == 3
    local = f"sqlite:///{tmp_path / 'mlflow.db'}"
    publish(specs, tmp_path / "runs", tracking_uri=local)
    assert curves(postgres_server) == curves(local)
    assert store_mark(postgres_server, STUDY)
    out, errors = publisher(tmp_path / "runs", postgres_server).communicate()
    assert out.split() == ["ready", "0", "False"], errors
    (tmp_path / "moved").mkdir()
    checkpoint = folders[0] / "checkpoints" / f"step_{NUM_STEPS:07d}"
    checkpoint.mkdir(parents=True)
    import hashlib

    import numpy as np

    save_file({"w": np.arange(12.0)}, checkpoint / "model.safetensors")
    (checkpoint / "config.json").write_text("{}")
    digests = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in checkpoint.iterdir()}
    manifest = {"step": NUM_STEPS, "sha256": digests}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    found = best(specs, tmp_path / "runs", tracking_uri=postgres_server)
    assert found.run_id == specs[0].run_id
    again = resolve(f"best:{STUDY}", tmp_path / "moved", tracking_uri=postgres_server)
    assert (again.sha256, str(again.path)) == (found.sha256, found.checkpoint)
    (checkpoint / "model.safetensors").write_bytes(b"changed")
    with pytest.raises(ValueError, match=r"model\.safetensors does not match its sha256"):
        resolve(f"best:{STUDY}", tmp_path / "moved", tracking_uri=postgres_server)


def test_a_study_runs_against_the_server(postgres: Servers, tmp_path: Path) -> None:
    environment = small_study(tmp_path, num_steps=20) | {"MLFLOW_TRACKING_URI": postgres.uri}
    command = [sys.executable, "-m", "scaling", "submit", "small_study", "--parallel", "2"]
    done = subprocess.run(
        [*command, "--runs", str(tmp_path / "runs"), "--json"],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["done"] == 2
    client = connect(postgres.uri)
    experiment = client.get_experiment_by_name("small_study")
    runs = client.search_runs([experiment.experiment_id], "tags.run_key LIKE '%'")
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    for run in runs:
        final = json.loads((tmp_path / "runs" / run.data.tags["run_key"] / "DONE").read_text())
        assert run.data.metrics["val/l1"] == pytest.approx(final["metrics"]["val/l1"])
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "loss/train")]
        assert steps == list(range(2, 21, 2))
        files = {item.path for item in client.list_artifacts(run.info.run_id)}
        assert files == {"env.json", "metrics.jsonl", "run.yaml"}
    assert not (tmp_path / "mlflow.db").exists()
