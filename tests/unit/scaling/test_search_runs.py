"""The list of a search's runs: kept before they start, read without Optuna, true after changes."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from scaling.search import Executor, Options, Score, Task, run_trials
from scaling.search_result import compare
from scaling.search_runs import RUNS, RunList, search_folder, search_specs
from scaling.search_storage import open_study
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
    task, done, options = make_task(), [], Options(trials=9, poll_s=0.0)
    study = open_study(STUDY, search_folder(tmp_path, STUDY), begun_with={})

    def submit(specs) -> None:
        assert {s.run_id for s in specs} <= {s.run_id for s in search_specs(STUDY, tmp_path)}
        done.extend(spec.run_id for spec in specs)

    def states(specs):
        return {s.run_id: ("done" if s.run_id in done else "planned", None) for s in specs}

    executor = Executor(
        submit=submit, states=states, cancel=print, remember=run_list(tmp_path, task).add
    )

    def score(spec, step):
        return Score(value=1 / spec.model.soft_prompt_length, sem=0.1)

    run_trials(study, task, options, executor=executor, score=score)
    trials = len(done)
    compare(study, task, options, executor=executor, score=score, top=2, repeats=2)
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


def test_reading_imports_neither_optuna_nor_torch(tmp_path: Path) -> None:
    task = make_task()
    run_list(tmp_path, task).add([(task.search.fixed_points("cpu")[0], 0)])
    code = (
        "import sys; from scaling.search_runs import search_specs\n"
        f"assert len(search_specs({STUDY!r}, {str(tmp_path)!r})) == 1\n"
        "assert not {'optuna', 'torch', 'numpy'} & sys.modules.keys()"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
