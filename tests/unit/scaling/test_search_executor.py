"""Where a search's runs go: an outage of Slurm in the middle is waited out."""

from pathlib import Path

import pytest

from jobs.cluster import Cluster
from jobs.slurm.commands import SlurmUnreachableError
from scaling.cli import search_executor
from scaling.search.controller import Controller
from scaling.search.storage import open_study
from scaling.search.task import Score, Settings, Task
from scaling.spec import RunSpec
from scaling.study import load_study

STUDY = "sweeps.prompt_and_window"
CLUSTER = Cluster(name="dev", gpus_per_node=8, time_limit="10")


def make_controller(runs_dir: Path) -> tuple[Controller, RunSpec]:
    search = load_study(STUDY).search
    assert search is not None
    task = Task(study=STUDY, scale="cpu", search=search)
    study, storage = open_study(STUDY, runs_dir, begun_with=task.begun_with("val_l1"))
    controller = search_executor.make_controller(
        study,
        storage,
        task=task,
        settings=Settings(trials=1),
        score=lambda spec, step: Score(value=1.0, sem=0.0),
        budget=None,
        runs_dir=runs_dir,
        cluster=CLUSTER,
    )
    return controller, task.spec(task.default)


def test_an_outage_in_the_middle_is_waited_out(tmp_path: Path, monkeypatch, capsys) -> None:
    controller, spec = make_controller(tmp_path)
    handed_over, down = [], False

    def submit(specs, runs_dir, cluster, **order) -> None:
        if down:
            raise SlurmUnreachableError("cluster dev: squeue: no controller; nothing was submitted")
        handed_over.extend(spec.run_id for spec in specs)

    monkeypatch.setattr("jobs.slurm.submit.submit", submit)
    controller.submit([spec])
    down = True
    for _ in range(3):  # looks come every 2 s; Slurm is asked once, and the user told once
        controller.submit([spec])
    assert len(handed_over) == 1
    assert capsys.readouterr().err.count("no controller; nothing was submitted; trying again") == 1
    down = False
    monkeypatch.setattr("time.monotonic", lambda: 1e12)
    controller.submit([spec])
    assert handed_over == [spec.run_id] * 2


@pytest.mark.parametrize("worked_before", [False, True])
def test_a_refusal_is_an_error(tmp_path: Path, monkeypatch, worked_before) -> None:
    controller, spec = make_controller(tmp_path)

    def submit(specs, runs_dir, cluster, **order) -> None:
        if not accepting:
            raise ValueError("cluster dev: sbatch: invalid partition specified: moon")

    monkeypatch.setattr("jobs.slurm.submit.submit", submit)
    if accepting := worked_before:
        controller.submit([spec])
    accepting = False
    with pytest.raises(ValueError, match="invalid partition"):
        controller.submit([spec])


def test_runs_under_way_are_told_with_their_state(tmp_path: Path, monkeypatch, capsys) -> None:
    controller, spec = make_controller(tmp_path)
    monkeypatch.setattr("scaling.cli.search_executor.publish", lambda *a, **k: {})
    controller.on_round([spec])
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("time.monotonic", lambda: 1e12)
    controller.on_round([spec])
    assert f"under way: {spec.run_id} planned" in capsys.readouterr().err
