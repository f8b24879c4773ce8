"""Publishing, the model registry and outages against a real MLflow: a SQLite file and a server."""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from scaling.best import best, resolve
from scaling.cost import cost_of
from scaling.spec import InitConfig, RunSpec, SeedConfig
from scaling.tracking.publish import publish
from scaling.tracking.store import TrackingError
from scaling.tracking.view import VIEW_KEY
from xvla.config import DataConfig, DomainEntry

pytestmark = pytest.mark.integration
STUDY = "sweeps.simulated_demo"
NUM_STEPS = 100
START = 1_700_000_000.0


def make_spec(seed: int, **changes: object) -> RunSpec:
    """Return a small run on two simulated domains."""
    data = DataConfig(
        mixture=[
            DomainEntry(name="sim_kinova3_dual", num_episodes=24),
            DomainEntry(name="sim_panda", num_episodes=40),
        ],
        anchor_domain="sim_kinova3_dual",
    )
    spec = RunSpec(
        study=STUDY,
        axes={"num_domains": 2},
        data=data,
        num_steps=NUM_STEPS,
        seeds=SeedConfig(init=seed, data=seed),
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


def metric_line(step: int, attempt: int) -> str:
    """Return a training line, with validation every 50 steps; values differ by attempt."""
    line = {"step": step, "num_samples_seen": 16 * step, "time": START + step + 1000 * attempt}
    line |= {"attempt": attempt, "loss/train": 10.0 / step + attempt, "lr/vlm": 1e-5}
    if step % 50 == 0:
        line |= {"val/l1": 1.0 / step + attempt, "val/l1/sim_panda": 0.3, "val/l1_gripper": None}
    return json.dumps(line)


def write_run(runs_dir: Path, spec: RunSpec, *, steps: list[tuple[int, int]]) -> Path:
    """Write a run folder with metric lines for (step, attempt) pairs; return the folder."""
    folder = runs_dir / spec.run_id
    (folder / "attempts").mkdir(parents=True)
    spec.save(folder / "run.yaml")
    environment = {"code_digest": "c0de", "eval_manifest": {"val": "a" * 64, "test": "b" * 64}}
    (folder / "env.json").write_text(json.dumps(environment))
    for number in range(1, max(attempt for _, attempt in steps) + 1):
        record = {"job_id": f"job-{number}", "start": START + number, "gpu_hours": 0.25}
        (folder / "attempts" / f"{number:04d}.json").write_text(json.dumps(record))
    lines = [metric_line(step, attempt) for step, attempt in steps]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def finish(folder: Path, *, val_l1: float) -> Path:
    """Write a checkpoint of random weights and DONE; return the checkpoint."""
    checkpoint = folder / "checkpoints" / f"step_{NUM_STEPS:07d}"
    checkpoint.mkdir(parents=True)
    generator = np.random.default_rng(int(val_l1 * 1000))
    save_file({"w": generator.normal(size=(3, 4))}, checkpoint / "model.safetensors")
    (checkpoint / "config.json").write_text("{}")
    digests = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in checkpoint.iterdir()
    }
    manifest = {"step": NUM_STEPS, "sha256": digests}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    (folder / "checkpoints" / "latest").write_text(checkpoint.name)
    metrics = {"val/l1": val_l1, "val/l1_sem": 0.01, "test/l1": 0.5, "compute/gpu_hours": 0.5}
    done = {"step": NUM_STEPS, "num_samples_seen": 1600, "time": START + 5000, "metrics": metrics}
    (folder / "DONE").write_text(json.dumps(done))
    return checkpoint


@dataclass
class Store:
    """A tracking store and, for a server, the call that kills it."""

    uri: str
    kill: Callable[[], None] | None = None


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_server(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start `mlflow server` in a folder of its own and wait until it answers."""
    uri = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", uri.rpartition(":")[2], "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    off = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = (folder / "server.log").open("wb")
    process = subprocess.Popen(
        command, cwd=folder, env=os.environ | off, stdout=log, stderr=log, start_new_session=True
    )
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=2):
                return process, uri
        except OSError:
            time.sleep(0.3)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail(f"the server did not answer: {(folder / 'server.log').read_text()[-2000:]}")


@pytest.fixture(scope="module", params=["sqlite", "server"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """Yield one empty tracking store of each kind."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sqlite":
        yield Store(uri=f"sqlite:///{folder / 'mlflow.db'}")
        return
    process, uri = start_server(folder)

    def kill() -> None:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    yield Store(uri=uri, kill=kill)
    kill()


def content(uri: str) -> dict:
    """Return what the store holds of the study: runs with tags, params and whole curves."""
    from mlflow import MlflowClient

    client = MlflowClient(uri, registry_uri=uri)
    experiment = client.get_experiment_by_name(STUDY)
    runs = client.search_runs([experiment.experiment_id])
    return {
        run.data.tags.get("run_key", "sweep"): {
            "id": run.info.run_id,
            "status": run.info.status,
            "tags": dict(run.data.tags),
            "params": dict(run.data.params),
            "curves": {
                name: [
                    (point.step, point.value, point.timestamp)
                    for point in client.get_metric_history(run.info.run_id, name)
                ]
                for name in run.data.metrics
            },
            "inputs": sorted(
                (item.dataset.name, item.dataset.digest) for item in run.inputs.dataset_inputs
            ),
            "files": sorted(item.path for item in client.list_artifacts(run.info.run_id)),
            "versions": [
                (str(version.version), version.tags["sha256"], version.source)
                for version in client.search_model_versions("name = 'simulated_demo'")
            ],
        }
        for run in runs
    }


@pytest.fixture(scope="module")
def published(store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list, dict]:
    """Publish two runs, the second killed at step 60 and resumed from 40 between two calls."""
    runs_dir = tmp_path_factory.mktemp("runs")
    specs = [make_spec(0), make_spec(1), make_spec(2)]  # the third is only planned
    straight = write_run(runs_dir, specs[0], steps=[(step, 1) for step in range(10, 101, 10)])
    finish(straight, val_l1=0.25)
    before_kill = [(step, 1) for step in range(10, 61, 10)]
    resumed = write_run(runs_dir, specs[1], steps=before_kill)
    first = publish(specs, runs_dir, tracking_uri=store.uri)
    assert first.unfinished == 1
    replayed = [metric_line(step, 2) for step in range(50, 101, 10)]
    with (resumed / "metrics.jsonl").open("a") as stream:
        stream.write("\n".join(replayed) + "\n")
    (resumed / "attempts" / "0002.json").write_text(
        json.dumps({"job_id": "job-2", "start": START + 9, "gpu_hours": 0.25})
    )
    finish(resumed, val_l1=0.75)
    second = publish(specs, runs_dir, tracking_uri=store.uri)
    return runs_dir, specs, {"first": first, "second": second}


def test_experiment_holds_a_sweep_and_its_runs(store: Store, published: tuple) -> None:
    _, specs, totals = published
    held = content(store.uri)
    assert set(held) == {"sweep", specs[0].run_id, specs[1].run_id}
    assert totals["first"].new_runs == 2
    assert totals["second"].new_runs == 0
    assert totals["second"].planned == 1
    assert totals["second"].unfinished == 0
    child, sweep = held[specs[1].run_id], held["sweep"]
    assert (child["status"], sweep["status"]) == ("FINISHED", "FINISHED")
    assert child["tags"]["mlflow.parentRunId"] == sweep["id"]
    wanted = {"study": STUDY, "size": "tiny", "stage": "pretrain", "code_digest": "c0de"}
    wanted |= {"axis": "num_domains", "axis/num_domains": "2", "job_ids": "job-1,job-2"}
    assert wanted.items() <= child["tags"].items()
    total = str(cost_of(specs[0]).num_params_total)
    params = {"num_params_total": total, "num_samples_seen": "1600", "num_unique_episodes": "64"}
    params |= {"num_domains": "2", "seed": "1", "soft_prompt_length": "32"}
    assert params.items() <= child["params"].items()
    assert float(child["params"]["prediction_window_s"]) == 4.0
    assert [name for name, _ in child["inputs"]] == [
        "evaluation test",
        "evaluation val",
        "sim_kinova3_dual",
        "sim_panda",
    ]
    assert child["files"] == ["env.json", "metrics.jsonl", "run.yaml"]


def test_replayed_steps_are_published_once(store: Store, published: tuple) -> None:
    _, specs, _ = published
    curves = content(store.uri)[specs[1].run_id]["curves"]
    assert [step for step, _, _ in curves["loss/train"]] == list(range(10, 101, 10))
    by_step = {step: value for step, value, _ in curves["loss/train"]}
    assert by_step[60] == pytest.approx(10 / 60 + 1)  # published before the kill, so it stays
    assert by_step[70] == pytest.approx(10 / 70 + 2)
    assert [step for step, _, _ in curves["val/l1"]] == [50, 100]
    assert curves["val/l1"][-1][1] == 0.75  # the value in DONE
    assert curves["compute/flops"][0][1] == cost_of(specs[1]).compute_flops
    assert curves["compute/gpu_hours"][0][1] == 0.5
    assert {"test/l1", "val/l1_sem", "val/l1/sim_panda"} <= set(curves)


def test_publishing_again_changes_nothing(store: Store, published: tuple) -> None:
    runs_dir, specs, _ = published
    before = content(store.uri)
    again = publish(specs, runs_dir, tracking_uri=store.uri)
    assert (again.values, again.new_runs) == (0, 0)
    assert content(store.uri) == before


def test_a_lost_ledger_does_not_double_points(store: Store, published: tuple) -> None:
    runs_dir, specs, _ = published
    before = content(store.uri)[specs[0].run_id]
    shutil.rmtree(runs_dir / "_publish")  # as for a folder of runs moved elsewhere
    again = publish(specs, runs_dir, tracking_uri=store.uri)
    assert again.values > 0
    assert content(store.uri)[specs[0].run_id]["curves"] == before["curves"]


def test_best_registers_once_and_resolves_through_the_alias(
    store: Store, published: tuple, tmp_path: Path
) -> None:
    runs_dir, specs, _ = published
    found = best(specs, runs_dir, tracking_uri=store.uri)
    assert found.run_id == specs[0].run_id
    assert (found.step, found.val_l1, found.val_l1_sem) == (NUM_STEPS, 0.25, 0.01)
    assert (found.model_name, found.alias) == ("simulated_demo", "best")
    again = best(specs, runs_dir, tracking_uri=store.uri, size="tiny")
    assert again.version == found.version
    assert again.alias == "best-tiny"
    (version,) = content(store.uri)["sweep"]["versions"]
    assert version[:2] == (found.version, found.sha256)
    # From a folder without these runs, the registered path is what is left.
    for reference in (f"best:{STUDY}", f"best-tiny:{STUDY}"):
        checkpoint = resolve(reference, tmp_path, tracking_uri=store.uri)
        assert str(checkpoint.path) == found.checkpoint
        assert checkpoint.sha256 == found.sha256
    with pytest.raises(ValueError, match=r"no alias 'best-2b'.*best, best-tiny"):
        resolve(f"best-2b:{STUDY}", tmp_path, tracking_uri=store.uri)
    with pytest.raises(ValueError, match=r"no alias 'best'.*none"):
        resolve("best:sweeps.unknown", tmp_path, tracking_uri=store.uri)


def test_best_publishes_a_run_that_was_not_there(store: Store, tmp_path: Path) -> None:
    spec = make_spec(7, init=InitConfig(encoder="simulated"), size="0.26b")
    finish(write_run(tmp_path, spec, steps=[(100, 1)]), val_l1=0.125)
    found = best([spec], tmp_path, tracking_uri=store.uri, size="0.26b")
    assert found.alias == "best-0_26b"
    assert resolve(f"best-0.26b:{STUDY}", tmp_path / "x", tracking_uri=store.uri).sha256 == (
        found.sha256
    )
    params = content(store.uri)[spec.run_id]["params"]
    assert params["num_params_total"] == str(cost_of(spec).num_params_total)
    (Path(found.checkpoint) / "model.safetensors").write_bytes(b"changed")
    with pytest.raises(ValueError, match=r"model\.safetensors does not match its sha256"):
        resolve(f"best-0.26b:{STUDY}", tmp_path / "x", tracking_uri=store.uri)


def test_failed_and_cancelled_runs_show_their_reason(store: Store, tmp_path: Path) -> None:
    failed, cancelled = make_spec(8), make_spec(9)
    for spec, reason in ((failed, "loss is not finite"), (cancelled, "cancelled")):
        folder = write_run(tmp_path, spec, steps=[(10, 1)])
        (folder / "FAILED").write_text(json.dumps({"reason": reason, "step": 10, "time": START}))
    publish([failed, cancelled], tmp_path, tracking_uri=store.uri)
    held = content(store.uri)
    assert held[failed.run_id]["status"] == "FAILED"
    assert held[failed.run_id]["tags"]["reason"] == "loss is not finite"
    assert held[cancelled.run_id]["status"] == "KILLED"
    (tmp_path / failed.run_id / "FAILED").unlink()  # a retry has started
    publish([failed, cancelled], tmp_path, tracking_uri=store.uri)
    held = content(store.uri)
    assert held[failed.run_id]["status"] == "RUNNING"
    assert held[failed.run_id]["tags"].get("reason", "") == ""
    assert held["sweep"]["status"] == "RUNNING"


def test_a_server_that_went_away_is_one_clear_error(
    store: Store, published: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow by itself would knock again and again, with pauses."""
    if store.kill is None:
        pytest.skip("a SQLite file has no server to kill")
    runs_dir, specs, _ = published
    store.kill()
    knocks, pauses, connect = [], [], socket.socket.connect

    def knock(self: socket.socket, address: object) -> None:
        knocks.append(address)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", knock)
    monkeypatch.setattr(time, "sleep", pauses.append)
    with pytest.raises(TrackingError, match=r"no MLflow server answers at http://127\.0\.0\.1"):
        publish(specs, runs_dir, tracking_uri=store.uri)
    assert len(knocks) in (1, 2, 3)
    assert pauses == []


def test_following_ends_with_the_runs(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    spec = make_spec(4)
    folder = write_run(tmp_path / "runs", spec, steps=[(10, 1)])
    timer = threading.Timer(4.0, finish, args=[folder], kwargs={"val_l1": 0.5})
    timer.start()
    total = publish([spec], tmp_path / "runs", tracking_uri=uri, follow=True, poll_s=0.2)
    timer.join()
    assert (total.new_runs, total.unfinished) == (1, 0)
    assert content(uri)[spec.run_id]["status"] == "FINISHED"
    assert content(uri)[spec.run_id]["curves"]["val/l1"][-1][1] == 0.5


def test_two_publishers_on_a_new_database_agree_quietly(tmp_path: Path) -> None:
    spec = make_spec(3)
    finish(write_run(tmp_path / "runs", spec, steps=[(10, 1), (100, 1)]), val_l1=0.5)
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    code = (
        "import sys; from scaling.spec import load_spec\n"
        "from scaling.tracking.publish import publish\n"
        "publish([load_spec(sys.argv[1])], sys.argv[2], tracking_uri=sys.argv[3]); "
        "assert 'torch' not in sys.modules, 'publishing imported torch'"
    )
    spec_file = tmp_path / "runs" / spec.run_id / "run.yaml"
    command = [sys.executable, "-c", code, str(spec_file), str(tmp_path / "runs"), uri]
    processes = [
        subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.communicate() == ("", "")
        assert process.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "runs"]
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(STUDY)
    assert len(client.search_runs([experiment.experiment_id])) == 2  # the sweep and its run
    view = json.loads(experiment.tags[f"mlflow.sharedViewState.{VIEW_KEY}"])
    found = client.search_runs([experiment.experiment_id], view["searchFilter"])
    assert [run.data.tags["run_key"] for run in found] == [spec.run_id]
