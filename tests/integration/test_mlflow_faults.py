"""The publisher killed at random, MLflow away or too new, PostgreSQL, and nothing to do."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from scaling.best import best, resolve
from scaling.mlflow_client import TrackingError, connect
from scaling.spec import RunSpec, SeedConfig
from scaling.tracking import publish
from scaling.tracking_ledger import contents
from xvla.config import DataConfig, DomainEntry

pytestmark = pytest.mark.integration
STUDY = "sweeps.simulated_faults"
NUM_STEPS, START = 1000, 1_700_000_000.0
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def make_spec(seed: int) -> RunSpec:
    """Return a small simulated run."""
    data = DataConfig(mixture=[DomainEntry(name="sim_panda", num_episodes=40)],
                      anchor_domain="sim_panda")  # fmt: skip
    return RunSpec(study=STUDY, axes={"n": seed}, data=data, num_steps=NUM_STEPS,
                   seeds=SeedConfig(init=seed))  # fmt: skip


def write_done(runs_dir: Path, spec: RunSpec) -> Path:
    """Write the folder of a finished run with 100 metric lines and a checkpoint."""
    folder = runs_dir / spec.run_id
    (folder / "attempts").mkdir(parents=True)
    spec.save(folder / "run.yaml")
    (folder / "env.json").write_text(json.dumps({"eval_manifest": {"val": "a" * 64}}))
    attempt = {"job_id": "1", "start": START, "gpu_hours": 0.5}
    (folder / "attempts" / "0001.json").write_text(json.dumps(attempt))
    lines = [
        {"step": step, "num_samples_seen": step, "time": START + step, "attempt": 1}
        | {f"metric/{index}": step / (index + 1) for index in range(12)}
        for step in range(10, NUM_STEPS + 1, 10)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics = {"val/l1": 0.05 + spec.seeds.init / 100, "val/l1_sem": 0.01}
    done = {"step": NUM_STEPS, "time": START + 2000, "metrics": metrics}
    (folder / "DONE").write_text(json.dumps(done))
    return folder


def curves(uri: str) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Return run key -> metric -> (step, value) as the store holds them."""
    client = connect(uri)
    experiment = client.get_experiment_by_name(STUDY)
    runs = client.search_runs([experiment.experiment_id], "tags.run_key LIKE '%'")
    return {
        run.data.tags["run_key"]: {
            name: [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        for run in runs
    }


def publisher(runs_dir: Path, uri: str) -> subprocess.Popen[str]:
    """Start a publisher of all runs in a process of its own."""
    code = (
        "import sys; from pathlib import Path; from scaling.spec import load_spec\n"
        "from scaling.tracking import publish\n"
        "specs = [load_spec(path) for path in sorted(Path(sys.argv[1]).glob('*/run.yaml'))]\n"
        "print('ready', flush=True)\n"
        "total = publish(specs, sys.argv[1], tracking_uri=sys.argv[2])\n"
        "print(total['values'], 'mlflow' in sys.modules, flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(runs_dir), uri]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | QUIET
    )


def test_a_publisher_killed_at_random_leaves_no_point_out_or_twice(tmp_path: Path) -> None:
    specs = [make_spec(seed) for seed in range(6)]
    for spec in specs:
        write_done(tmp_path / "runs", spec)
    uris = [f"sqlite:///{tmp_path / name / 'mlflow.db'}" for name in ("straight", "killed")]
    publish(specs, tmp_path / "runs", tracking_uri=uris[0])
    connect(uris[1])
    pick, kills = random.Random(3), 0
    for _ in range(8):
        process = publisher(tmp_path / "runs", uris[1])
        assert process.stdout is not None
        process.stdout.readline()
        database, before = tmp_path / "killed" / "mlflow.db", time.monotonic()
        size = _num_values(database)
        while _num_values(database) == size and time.monotonic() - before < 30:
            if process.poll() is not None:
                break
            time.sleep(0.01)  # until it writes; then somewhere within the next writes
        time.sleep(pick.uniform(0, 0.2))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
    assert kills >= 3
    assert process.returncode in (0, -signal.SIGKILL)
    last = publisher(tmp_path / "runs", uris[1])
    _, errors = last.communicate()
    assert last.returncode == 0, errors
    assert curves(uris[1]) == curves(uris[0])
    assert publish(specs, tmp_path / "runs", tracking_uri=uris[1])["values"] == 0


def _num_values(path: Path) -> int:
    if not path.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0.5) as database:
            return database.execute("SELECT count(*) FROM metrics").fetchone()[0]
    except sqlite3.Error:
        return 0


def test_nothing_to_do_needs_no_mlflow_and_notices_every_change(tmp_path: Path) -> None:
    specs = [make_spec(seed) for seed in range(3)]
    folders = [write_done(tmp_path / "runs", spec) for spec in specs]
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    first = publish(specs, tmp_path / "runs", tracking_uri=uri)
    out, errors = publisher(tmp_path / "runs", uri).communicate()
    assert out.split() == ["ready", "0", "False"], errors
    again = publish(specs, tmp_path / "runs", tracking_uri=uri)
    assert again["pages"] == first["pages"]
    assert (again["runs"], again["values"], again["unfinished"]) == (3, 0, 0)
    # A retry: the run is unfinished again, with one line more.
    (folders[0] / "DONE").unlink()
    with open(folders[0] / "metrics.jsonl", "a") as stream:
        line = {"step": NUM_STEPS, "num_samples_seen": 1, "time": START, "attempt": 2}
        stream.write(json.dumps({**line, "new/metric": 1.0}) + "\n")
    changed = publish(specs, tmp_path / "runs", tracking_uri=uri)
    assert (changed["values"], changed["unfinished"]) == (1, 1)
    # A run deleted in MLflow comes back; a new database is filled.
    client = connect(uri)
    experiment = client.get_experiment_by_name(STUDY)
    (gone,) = client.search_runs([experiment.experiment_id], f"tags.run_key = '{specs[1].run_id}'")
    client.delete_run(gone.info.run_id)
    assert publish(specs, tmp_path / "runs", tracking_uri=uri)["new_runs"] == 1
    fresh = f"sqlite:///{tmp_path / 'fresh.db'}"
    assert publish(specs, tmp_path / "runs", tracking_uri=fresh)["new_runs"] == 3


def test_a_database_of_a_newer_mlflow_is_one_clear_line(tmp_path: Path) -> None:
    spec, uri = make_spec(0), f"sqlite:///{tmp_path / 'mlflow.db'}"
    write_done(tmp_path / "runs", spec)
    connect(uri)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    code = "from scaling.mlflow_client import connect; import sys; connect(sys.argv[1])"
    command = [sys.executable, "-c", code, uri]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | QUIET)
    assert "made by a newer MLflow than" in done.stderr.strip().splitlines()[-1]
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        (version,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
    assert version == "ffffffffffff"  # nothing was migrated


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


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
        _await_health(uri, server, folder / "server.log")
        yield Servers(uri=uri, database=f"{address}/optuna")
    finally:
        if server is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        subprocess.run([*control, "-m", "immediate", "stop"], capture_output=True, cwd=data)
        shutil.rmtree(data, ignore_errors=True)


def _await_health(uri: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"the server did not answer: {log.read_text()[-2000:]}")


def test_a_search_in_postgresql_goes_on_after_a_restart(postgres: Servers, tmp_path: Path) -> None:
    from scaling.search import Executor, Options, Score, Task, run_trials
    from scaling.search_storage import open_study
    from scaling.study import load_study

    name = "sweeps.prompt_and_window"
    search, handed_over = load_study(name).search, []
    assert search is not None
    task = Task(study=name, scale="cpu", search=search)
    executor = Executor(
        submit=handed_over.extend,
        states=lambda specs: {
            s.run_id: ("done" if s in handed_over else "planned", None) for s in specs
        },
        cancel=lambda specs: None,
    )

    def score(spec: RunSpec, step: int) -> Score:
        return Score(value=1 / spec.model.soft_prompt_length, sem=0.0)

    for trials in (3, 7):
        words = task.begun_with("val_l1")
        study = open_study(name, tmp_path, begun_with=words, storage=postgres.database)
        run_trials(study, task, Options(trials=trials, poll_s=0), executor=executor, score=score)
    assert len(study.get_trials()) == 7
    assert len({spec.run_id for spec in handed_over}) == len(handed_over)
    other = Task(study=name, scale="cpu", search=search, overrides=("num_steps=7",))
    words = other.begun_with("val_l1")
    with pytest.raises(ValueError, match="begun with default_run="):
        open_study(name, tmp_path, begun_with=words, storage=postgres.database)


def test_a_study_through_a_server_with_postgresql(postgres: Servers, tmp_path: Path) -> None:
    postgres_server = postgres.uri
    from safetensors.numpy import save_file

    specs = [make_spec(seed) for seed in range(3)]
    folders = [write_done(tmp_path / "runs", spec) for spec in specs]
    # The tracker is down while the study runs: nothing is lost, one clear error.
    with pytest.raises(TrackingError, match="nothing is lost"):
        publish(specs, tmp_path / "runs", tracking_uri="http://127.0.0.1:9")
    total = publish(specs, tmp_path / "runs", tracking_uri=postgres_server)
    assert total["new_runs"] == 3
    local = f"sqlite:///{tmp_path / 'mlflow.db'}"
    publish(specs, tmp_path / "runs", tracking_uri=local)
    assert curves(postgres_server) == curves(local)
    assert contents(postgres_server, STUDY) is not None
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
    assert found["run_id"] == specs[0].run_id
    again = resolve(f"best:{STUDY}", tmp_path / "moved", tracking_uri=postgres_server)
    assert (again.sha256, str(again.path)) == (found["sha256"], found["checkpoint"])
    (checkpoint / "model.safetensors").write_bytes(b"changed")
    with pytest.raises(ValueError, match=r"model\.safetensors does not match its sha256"):
        resolve(f"best:{STUDY}", tmp_path / "moved", tracking_uri=postgres_server)
