"""One folder, one answer: what a damaged file makes of a run, asked of every verb that looks.

The table of docs/runs.md as a test. Three runs of a study are done; one of them is damaged.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from jobs.handover import choose_runs, prepare
from scaling.cli import main
from scaling.runs.checkpoints import file_sha256
from scaling.runs.folder import Run
from scaling.runs.process import this_host
from scaling.spec import load_spec
from scaling.study import load_study

STUDY = "three_runs"
DECLARATION = """
from dataclasses import replace

from scaling.spec import SeedConfig
from scaling.study import Study
from sweeps._mixtures import simulated_run


def runs():
    spec = simulated_run("tiny-h16", domains=1, episodes=3)
    for seed in range(3):
        yield replace(spec, seeds=SeedConfig(init=seed), axes={"seed": seed})


STUDY = Study(name="three_runs", description="", varies=("seed",), holds_fixed="the rest",
              runs={"cpu": runs})
"""
DEAD_PID = 2**22 + 1  # above the kernel's largest
TORN, BINARY = b'{"step": 5', b"\x80\x81\xff\x00 binary"
Damage = Callable[[Run], None]


def _put(name: str, content: bytes) -> Damage:
    return lambda run: (run.folder / name).write_bytes(content) and None


def _undone(*then: Damage) -> Damage:
    """Return a damage of a run that is not done and whose process has gone."""

    def make(run: Run) -> None:
        run.done_file.unlink()
        shutil.rmtree(run.attempts)
        for step in then:
            step(run)

    return make


def _heartbeat(run: Run) -> None:
    beat = {"time": 1.0, "pid": DEAD_PID, "host": this_host(), "step": 3, "num_steps": 10}
    run.heartbeat_file.write_text(json.dumps(beat))


def _torn_attempt(run: Run) -> None:
    run.attempts.mkdir()
    (run.attempts / "0001.json").write_bytes(b'{"job_id": nu')


def _cut_spec(run: Run) -> None:
    text = run.spec_file.read_text()
    run.spec_file.write_text(text[: text.index("\noptim:") + 1])


# What lies in the folder -> state, what the reason says.
TABLE: dict[str, tuple[Damage, str, str]] = {
    "DONE empty": (_put("DONE", b""), "unknown", "DONE is empty; `scaling submit` takes"),
    "DONE torn": (_put("DONE", TORN), "unknown", "DONE is not valid JSON"),
    "DONE binary": (_put("DONE", BINARY), "unknown", "DONE is not valid JSON"),
    "DONE no object": (_put("DONE", b"[1]"), "unknown", "DONE holds list, not a JSON object"),
    "DONE without step": (_put("DONE", b'{"metrics": {}}'), "unknown", "DONE has no 'step'"),
    "FAILED empty": (_undone(_put("FAILED", b"")), "failed", "FAILED is empty; `scaling submit`"),
    "attempt torn": (_undone(_torn_attempt), "unknown", "0001.json is not valid JSON"),
    "heartbeat only": (_undone(_heartbeat), "preempted", "killed"),
    "heartbeat torn": (_undone(_put("heartbeat.json", TORN)), "planned", ""),
    "run.yaml empty": (_put("run.yaml", b""), "unknown", "run.yaml is damaged (empty); delete it"),
    "run.yaml cut": (_cut_spec, "unknown", "run.yaml is damaged (cut short); delete it"),
    "run.yaml binary": (_put("run.yaml", BINARY), "unknown", "run.yaml is damaged"),
    "run.yaml no YAML": (_put("run.yaml", b"a: [1\n"), "unknown", "run.yaml is damaged"),
    "metrics binary": (_put("metrics.jsonl", BINARY), "done", ""),
    "env.json torn": (_put("env.json", TORN), "done", ""),
}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Run]]:
    """Write the study beside three finished runs; the last one has the lowest error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    (tmp_path / f"{STUDY}.py").write_text(DECLARATION)
    specs = load_study(STUDY).expand()
    prepare(specs, tmp_path / "runs")
    made = [Run.of(tmp_path / "runs", spec.run_id) for spec in specs]
    for index, run in enumerate(made):
        _finish(run, error=0.3 - 0.1 * index)
    yield made
    sys.modules.pop(STUDY, None)


def _finish(run: Run, *, error: float) -> None:
    spec = load_spec(run.spec_file)
    metrics = {"val/l1": error, "val/l1_sem": 0.01, "val/l1_all": error}
    done = {"step": spec.num_steps, "num_samples_seen": 1, "time": 2.0, "metrics": metrics}
    run.done_file.write_text(json.dumps(done))
    run.attempts.mkdir()
    attempt = {"start": 1.0, "end": 2.0, "reason": "done", "host": "h", "gpu_hours": 0.0}
    (run.attempts / "0001.json").write_text(json.dumps(attempt))
    line = {"step": 1, "num_samples_seen": 16, "time": 1.0, "attempt": 1, "loss/train": 1.0}
    run.metrics_file.write_text(json.dumps(line) + "\n")
    folder = run.step_folder(spec.num_steps)
    folder.mkdir(parents=True)
    save_file({"x": np.zeros(3, np.float32)}, folder / "model.safetensors")
    for name in ("config.json", "trainer.json"):
        (folder / name).write_text("{}")
    digests = {path.name: file_sha256(path) for path in folder.iterdir()}
    (folder / "manifest.json").write_text(json.dumps({"step": spec.num_steps, "sha256": digests}))
    run.latest_file.write_text(folder.name)


def _ask(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any, str]:
    capsys.readouterr()
    code = main([*words, "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else None, captured.err


@pytest.mark.parametrize("name", TABLE)
def test_every_look_at_a_folder_gives_one_answer(name: str, runs: list[Run], capsys) -> None:
    damage, state, says = TABLE[name]
    damage(runs[2])
    is_damaged = state == "unknown"

    code, status, _ = _ask(capsys, "status", STUDY)
    row = status["runs"][2]
    assert (code, row["state"]) == (0, state)
    assert says in (row["reason"] or "")
    assert [item["state"] for item in status["runs"][:2]] == ["done", "done"]
    if says and state != "preempted":
        assert str(runs[2].folder) in row["reason"]  # the file, and by it the run

    code, exported, err = _ask(capsys, "export", STUDY)
    table = pd.read_parquet(exported["runs"])
    assert (code, table["state"].tolist()) == (0, ["done", "done", state])
    assert (says in err) == is_damaged or not says

    code, node, _ = _ask(capsys, "lineage", runs[2].run_id)
    assert (code, node["state"]) == (0, state)
    if is_damaged:
        assert says in node["reason"]


# Each takes an MLflow database of its own, hence few.
@pytest.mark.parametrize("name", ["DONE without step", "metrics binary"])
def test_the_best_is_chosen_among_those_that_can_be_read(name: str, runs, capsys) -> None:
    damage, state, says = TABLE[name]
    damage(runs[2])
    code, best, err = _ask(capsys, "best", STUDY)
    assert (code, best["run_id"]) == (0, runs[2 if state == "done" else 1].run_id)
    assert (f"warning: left out: {runs[2].folder}" in err) == name.startswith("DONE")
    assert says in err


@pytest.mark.parametrize("name", ["DONE empty", "run.yaml cut", "attempt torn"])
def test_a_damaged_run_is_published_with_what_is_wrong(name: str, runs, capsys) -> None:
    from mlflow import MlflowClient

    damage, state, says = TABLE[name]
    damage(runs[2])
    code, document, err = _ask(capsys, "sync", STUDY)
    assert (code, document["runs"]) == (0, 3)
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name(STUDY)
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id], f"tags.run_key = '{runs[2].run_id}'")
    assert found.info.status == ("FINISHED" if state == "done" else "RUNNING")
    if state == "unknown":
        assert says in found.data.tags["reason"]
        assert says in err


@pytest.mark.parametrize("name", ["DONE empty"])
def test_a_report_goes_on_with_the_others(name: str, runs: list[Run], capsys) -> None:
    damage, _, says = TABLE[name]
    damage(runs[2])
    code, _, err = _ask(capsys, "report", STUDY)
    assert code == 0, err
    assert says in err
    record = json.loads((Path("reports") / STUDY / "record.json").read_text())
    assert record["extra"]["best"]["run_id"] == runs[1 if name.startswith("DONE") else 2].run_id


@pytest.mark.parametrize("name", [n for n in TABLE if n.startswith("DONE")])
def test_train_and_best_of_it_alone_name_the_file(name: str, runs: list[Run], capsys) -> None:
    damage, _, says = TABLE[name]
    for run in runs:
        damage(run)
    for words in (["train", str(runs[0].spec_file)], ["best", STUDY]):
        capsys.readouterr()
        assert main(words) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert says in err
        assert runs[0].run_id in err
    assert runs[0].done_file.exists()


@pytest.mark.parametrize("name", [n for n in TABLE if n.startswith("run.yaml")])
def test_train_refuses_a_damaged_declaration_and_submit_writes_it_again(
    name: str, runs: list[Run], capsys
) -> None:
    whole = runs[0].spec_file.read_bytes()
    TABLE[name][0](runs[0])
    assert main(["train", str(runs[0].spec_file)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert str(runs[0].spec_file) in err
    prepare(load_study(STUDY).expand(), runs[0].folder.parent)
    assert runs[0].spec_file.read_bytes() == whole
    assert _ask(capsys, "status", STUDY)[1]["counts"] == {"done": 3}


def test_submit_takes_a_run_with_a_damaged_end_up_again(runs: list[Run], capsys) -> None:
    specs, folder = load_study(STUDY).expand(), runs[0].folder.parent
    TABLE["DONE torn"][0](runs[1])
    waits = choose_runs(specs, folder, retry_failed=False)
    assert (len(waits.todo), waits.skipped_failed, waits.skipped_done) == (0, 1, 2)
    assert runs[1].done_file.exists()
    ours = choose_runs(specs, folder, retry_failed=True)
    assert [spec.run_id for spec in ours.todo] == [runs[1].run_id]
    assert not runs[1].done_file.exists()
    assert runs[1].saved_step() == specs[1].num_steps  # where it goes on


def test_retry_clears_a_damaged_end(runs: list[Run], capsys) -> None:
    TABLE["DONE torn"][0](runs[1])
    assert _ask(capsys, "retry", STUDY)[1] == [runs[1].run_id]
    assert not runs[1].done_file.exists()


def test_a_folder_that_may_not_be_read_is_unknown(runs: list[Run], capsys, monkeypatch) -> None:
    def refuse(self: Path) -> bytes:
        if self == runs[1].done_file:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self)

    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", refuse)
    row = _ask(capsys, "status", STUDY)[1]["runs"][1]
    assert row["state"] == "unknown"
    assert row["reason"] == f"cannot read {runs[1].done_file}: Permission denied"
