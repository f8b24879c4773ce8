"""The list of a search's runs: kept before they start, read without Optuna, true after changes."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import scaling.config
from scaling.cli.arguments import study_runs
from scaling.cli.search import _budget
from scaling.runs.state import RunStatus
from scaling.search.controller import Controller
from scaling.search.result import compare
from scaling.search.runs import RUNS, RunList, search_folder, search_specs
from scaling.search.storage import open_study
from scaling.search.task import Score, Settings, Task
from scaling.study import load_study

STUDY = "sweeps.prompt_and_window"


def make_task(*overrides: str) -> Task:
    search = load_study(STUDY).search
    assert search is not None
    return Task(study=STUDY, scale="cpu", search=search, overrides=overrides)


def run_list(runs_dir: Path, task: Task) -> RunList:
    return RunList(path=search_folder(runs_dir, task.study) / RUNS, task=task)


@pytest.mark.parametrize("overrides", [(), ("num_steps=7",)])
def test_the_list_gives_back_the_specs(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    task = make_task(*overrides)
    points = task.search.fixed_points("cpu")
    assert search_specs(STUDY, tmp_path) == []
    runs = run_list(tmp_path, task)
    runs.add([(points[0], 0), (points[1], 0)])
    runs.add([(points[1], 0), (points[0], 1)])
    asked = [task.spec(points[0]), task.spec(points[1]), task.spec(points[0], 1)]
    assert search_specs(STUDY, tmp_path) == asked


def test_every_run_stands_in_the_list_before_it_starts(tmp_path: Path) -> None:
    task, done = make_task(), []
    study, storage = open_study(
        STUDY, search_folder(tmp_path, STUDY), begun_with=task.begun_with("val_l1")
    )

    def submit(specs) -> None:
        assert {s.run_id for s in specs} <= {s.run_id for s in search_specs(STUDY, tmp_path)}
        done.extend(spec.run_id for spec in specs)

    def states(specs):
        ids = [spec.run_id for spec in specs]
        return {i: RunStatus(run_id=i, state="done" if i in done else "planned") for i in ids}

    def score(spec, step):
        return Score(value=1 / spec.model.soft_prompt_length, sem=0.1)

    controller = Controller(
        study=study,
        storage=storage,
        task=task,
        settings=Settings(trials=9, poll_s=0.0),
        runs=run_list(tmp_path, task),
        score=score,
        submit=submit,
        states=states,
        cancel=print,
    )
    controller.run_trials()
    trials = len(done)
    compare(controller, top=2, repeats=2)
    assert len(done) == trials + 6
    assert [spec.run_id for spec in search_specs(STUDY, tmp_path)] == done


def test_a_run_of_older_code_is_read_from_its_folder(tmp_path: Path) -> None:
    task = make_task()
    point = task.search.fixed_points("cpu")[0]
    run_list(tmp_path, task).add([(point, 0)])
    path = search_folder(tmp_path, STUDY) / RUNS
    kept = json.loads(path.read_text())
    older = replace(task.spec(point), num_steps=11, study="sweeps.another")
    kept["runs"] = {older.run_id: {"params": point, "seed": 0}}
    path.write_text(json.dumps(kept))
    assert search_specs(STUDY, tmp_path) == []
    older.save(tmp_path / older.run_id / "run.yaml")
    assert search_specs(STUDY, tmp_path) == [replace(older, study=STUDY)]


@pytest.fixture
def parses(monkeypatch) -> list:
    """Configs that went through OmegaConf, each of which takes some 30 ms."""
    found, merge = [], scaling.config._merge

    def counted(base, update, *, source):
        found.append(update)
        return merge(base, update, source=source)

    monkeypatch.setattr("scaling.config._merge", counted)
    return found


def many(runs_dir: Path, *overrides: str) -> Task:
    task = make_task(*overrides)
    lengths = [{"soft_prompt_length": n, "prediction_window_s": 2.0} for n in range(1, 41)]
    run_list(runs_dir, task).add([(point, 0) for point in lengths])
    return task


def test_overrides_are_read_once_for_all_trials(tmp_path: Path, parses: list) -> None:
    task = many(tmp_path, "num_steps=9")
    assert len(parses) == 1
    parses.clear()
    assert len(search_specs(STUDY, tmp_path)) == 40
    assert len(parses) == 1
    parses.clear()
    assert len(study_runs(STUDY, ["num_steps=9"], tmp_path)) == 45
    assert len(parses) == 3  # the study's runs, the trials, and whether those belong to it
    assert len({spec.run_id for spec in search_specs(STUDY, tmp_path)}) == 40
    assert {spec.num_steps for spec in search_specs(STUDY, tmp_path, task=task)} == {9}


def test_a_budget_reads_its_list_with_what_the_controller_has_made(
    tmp_path: Path, parses: list
) -> None:
    task = many(tmp_path, "num_steps=9")
    budget = _budget(task, lambda specs: {}, tmp_path, cap=10.0)
    assert budget is not None
    parses.clear()
    first, again = budget.planned(), budget.planned()
    assert parses == []
    assert first == again == search_specs(STUDY, tmp_path)


def test_a_list_of_another_task_is_read_with_its_own(tmp_path: Path) -> None:
    many(tmp_path, "num_steps=9")
    for other in (make_task(), replace(make_task("num_steps=9"), scale="a100")):
        assert {s.num_steps for s in search_specs(STUDY, tmp_path, task=other)} == {9}


def test_reading_imports_neither_optuna_nor_torch(tmp_path: Path) -> None:
    task = make_task()
    run_list(tmp_path, task).add([(task.search.fixed_points("cpu")[0], 0)])
    code = (
        "import sys; from scaling.search.runs import search_specs\n"
        f"assert len(search_specs({STUDY!r}, {str(tmp_path)!r})) == 1\n"
        "assert not {'optuna', 'torch', 'numpy'} & sys.modules.keys()"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
