"""Simulated finished runs, publishers of their own, and servers, for the tests of MLflow."""

import json
import os
import runpy
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from scaling.spec import RunSpec, SeedConfig
from scaling.tracking.store import connect
from xvla.config import DataConfig, DomainEntry

STUDY = "sweeps.simulated_faults"
NUM_STEPS, START = 1000, 1_700_000_000.0
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
MAKE_SET = Path(__file__).parents[1] / "unit" / "xvla" / "make_lerobot.py"
SMALL_STUDY = """
from scaling.config import with_overrides
from scaling.sizes import SIZES
from scaling.spec import EngineConfig, RunSpec, SeedConfig
from scaling.study import Study
from xvla.config import DataConfig, DomainEntry

def runs():
    for seed in (0, 1):
        yield RunSpec(
            study=__name__, size="tiny-h16", axes={{"seed": seed}}, model=SIZES["tiny-h16"],
            data=DataConfig(
                mixture=[DomainEntry(name="sim_panda", num_episodes=4)], anchor_domain="sim_panda",
                root={root!r}, image_size=96, num_views=2, text_length=8, tokenizer="demo",
                prediction_window_s=1.0, augmentation="none", eval_starts_per_episode=4),
            num_steps={num_steps}, global_batch_size=2, seeds=SeedConfig(init=seed, data=seed),
            engine=EngineConfig(zero_stage=2, log_every=2, save_every=100, cache_features=False))

STUDY = Study(name=__name__, description="two seeds", varies=("seed",), holds_fixed="all else",
              runs={{"cpu": runs}})
"""


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
        "from scaling.tracking.publish import publish\n"
        "specs = [load_spec(path) for path in sorted(Path(sys.argv[1]).glob('*/run.yaml'))]\n"
        "print('ready', flush=True)\n"
        "say = lambda text: print(text, file=sys.stderr, flush=True)\n"
        "total = publish(specs, sys.argv[1], tracking_uri=sys.argv[2], say=say)\n"
        "print(total.values, 'mlflow' in sys.modules, flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(runs_dir), uri]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | QUIET
    )


def num_values(path: Path) -> int:
    if not path.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0.5) as database:
            return database.execute("SELECT count(*) FROM metrics").fetchone()[0]
    except sqlite3.Error:
        return 0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def await_health(uri: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"the server did not answer: {log.read_text()[-2000:]}")


def small_study(folder: Path, *, num_steps: int) -> dict[str, str]:
    """Write the module `small_study` and its data; return the environment to run it in."""
    runpy.run_path(str(MAKE_SET))["write_set"](folder / "data" / "sim_panda")
    text = SMALL_STUDY.format(root=str(folder / "data"), num_steps=num_steps)
    (folder / "small_study.py").write_text(text)
    return os.environ | QUIET | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
