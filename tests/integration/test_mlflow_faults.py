"""The publisher killed at random, in company, starved of MLflow, and with nothing to do."""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from scaling.runs.checkpoints import Checkpoint
from scaling.tracking.publish import publish
from scaling.tracking.registry import register
from scaling.tracking.store import connect

sys.path.insert(0, str(Path(__file__).parent))  # for the module beside this file

from mlflow_helpers import (
    NUM_STEPS,
    QUIET,
    START,
    STUDY,
    curves,
    make_spec,
    num_values,
    publisher,
    write_done,
)

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    "seed", [3, *(pytest.param(seed, marks=pytest.mark.long) for seed in (4, 5, 6))]
)
def test_a_publisher_killed_at_random_leaves_no_point_out_or_twice(
    seed: int, tmp_path: Path
) -> None:
    specs = [make_spec(seed) for seed in range(6)]
    for spec in specs:
        write_done(tmp_path / "runs", spec)
    uris = [f"sqlite:///{tmp_path / name / 'mlflow.db'}" for name in ("straight", "killed")]
    publish(specs, tmp_path / "runs", tracking_uri=uris[0])
    connect(uris[1])
    pick, kills = random.Random(seed), 0
    for _ in range(8):
        process = publisher(tmp_path / "runs", uris[1])
        assert process.stdout is not None
        process.stdout.readline()
        database, before = tmp_path / "killed" / "mlflow.db", time.monotonic()
        size = num_values(database)
        while num_values(database) == size and time.monotonic() - before < 30:
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
    assert publish(specs, tmp_path / "runs", tracking_uri=uris[1]).values == 0


def test_steps_replayed_after_a_publisher_died_unrecorded_stand_once(tmp_path: Path) -> None:
    """It sent points and was killed before the ledger; then training died and replayed them."""
    spec, uri = make_spec(0), f"sqlite:///{tmp_path / 'mlflow.db'}"
    folder = write_done(tmp_path / "runs", spec)
    done = (folder / "DONE").read_text()
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "DONE").unlink()
    (folder / "metrics.jsonl").write_text("".join(f"{text}\n" for text in lines[:60]))
    publish([spec], tmp_path / "runs", tracking_uri=uri)
    shutil.rmtree(tmp_path / "runs" / "_publish")
    with open(folder / "metrics.jsonl", "a") as stream:
        for text in lines[40:]:
            again = json.loads(text)
            again |= {"time": again["time"] + 500, "attempt": 2, "metric/0": 1e3 + again["step"]}
            stream.write(json.dumps(again) + "\n")
    (folder / "DONE").write_text(done)
    publish([spec], tmp_path / "runs", tracking_uri=uri)
    held = curves(uri)[spec.run_id]
    for name in ("metric/0", "metric/7"):
        assert [step for step, _ in held[name]] == list(range(10, NUM_STEPS + 1, 10)), name
    assert dict(held["metric/0"])[600] == 600  # as it was sent
    assert dict(held["metric/0"])[610] == 1610


def test_nothing_to_do_needs_no_mlflow_and_notices_every_change(tmp_path: Path) -> None:
    specs = [make_spec(seed) for seed in range(3)]
    folders = [write_done(tmp_path / "runs", spec) for spec in specs]
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    first = publish(specs, tmp_path / "runs", tracking_uri=uri)
    out, errors = publisher(tmp_path / "runs", uri).communicate()
    assert out.split() == ["ready", "0", "False"], errors
    again = publish(specs, tmp_path / "runs", tracking_uri=uri)
    assert again.pages == first.pages
    assert (again.runs, again.values, again.unfinished) == (3, 0, 0)
    # A retry: the run is unfinished again, with one line more.
    (folders[0] / "DONE").unlink()
    with open(folders[0] / "metrics.jsonl", "a") as stream:
        line = {"step": NUM_STEPS, "num_samples_seen": 1, "time": START, "attempt": 2}
        stream.write(json.dumps({**line, "new/metric": 1.0}) + "\n")
    changed = publish(specs, tmp_path / "runs", tracking_uri=uri)
    assert (changed.values, changed.unfinished) == (1, 1)
    # A run deleted in MLflow comes back; a new database is filled.
    client = connect(uri)
    experiment = client.get_experiment_by_name(STUDY)
    (gone,) = client.search_runs([experiment.experiment_id], f"tags.run_key = '{specs[1].run_id}'")
    client.delete_run(gone.info.run_id)
    assert publish(specs, tmp_path / "runs", tracking_uri=uri).new_runs == 1
    fresh = f"sqlite:///{tmp_path / 'fresh.db'}"
    assert publish(specs, tmp_path / "runs", tracking_uri=fresh).new_runs == 3


def test_a_restored_backup_is_filled_again(tmp_path: Path) -> None:
    specs, runs = [make_spec(seed) for seed in range(2)], tmp_path / "runs"
    database, uri = tmp_path / "mlflow.db", f"sqlite:///{tmp_path / 'mlflow.db'}"
    folder, _ = (write_done(runs, spec) for spec in specs)
    whole, done = (folder / "metrics.jsonl").read_text(), (folder / "DONE").read_text()
    (folder / "metrics.jsonl").write_text("".join(whole.splitlines(keepends=True)[:60]))
    (folder / "DONE").unlink()
    publish(specs, runs, tracking_uri=uri)
    shutil.copy(database, tmp_path / "backup.db")
    before = curves(uri)
    (folder / "metrics.jsonl").write_text(whole)
    (folder / "DONE").write_text(done)
    publish(specs, runs, tracking_uri=uri)
    after = curves(uri)
    assert after != before
    shutil.copy(tmp_path / "backup.db", database)
    assert curves(uri) == before
    assert publish(specs, runs, tracking_uri=uri).new_runs == 0
    assert curves(uri) == after


def test_what_others_write_is_asked_after_once_and_our_own_never(tmp_path: Path) -> None:
    runs, uri = tmp_path / "runs", f"sqlite:///{tmp_path / 'mlflow.db'}"
    specs = [make_spec(0), replace(make_spec(1), study="sweeps.another")]
    for spec in specs:
        write_done(runs, spec)
        publish([spec], runs, tracking_uri=uri)

    def sync() -> list[str]:
        out, errors = publisher(runs, uri).communicate()
        assert not errors
        return out.split()[1:]

    assert sync() == ["0", "False"]  # the second study's writes left the first one's state known
    connect(uri).create_experiment("of another program")
    assert sync() == ["0", "True"]
    assert sync() == ["0", "False"]
    register(
        specs[0], runs, aliases=["best"], tracking_uri=uri, chosen_by={"metric": "val/l1"},
        checkpoint=Checkpoint(run_id=specs[0].run_id, step=NUM_STEPS, path=tmp_path / "step",
                              sha256="0" * 64, config_path=tmp_path / "config.json"),
    )  # fmt: skip
    assert sync() == ["0", "False"]


def test_a_database_of_a_newer_mlflow_is_one_clear_line(tmp_path: Path) -> None:
    spec, uri = make_spec(0), f"sqlite:///{tmp_path / 'mlflow.db'}"
    write_done(tmp_path / "runs", spec)
    connect(uri)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    code = "from scaling.tracking.store import connect; import sys; connect(sys.argv[1])"
    command = [sys.executable, "-c", code, uri]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | QUIET)
    assert "made by a newer MLflow than" in done.stderr.strip().splitlines()[-1]
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        (version,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
    assert version == "ffffffffffff"  # nothing was migrated
