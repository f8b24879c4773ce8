"""The search controller on a simulated objective: restarts, duplicates, pruning, storage, answer.

Run as a program (`test_search.py FOLDER TRIALS`) it is the controller that a test kills.
"""

import io
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from rich.console import Console
from scipy import stats

from scaling.cli.search_table import render
from scaling.search.propose import distributions, make_sampler, propose
from scaling.search.result import SearchResult, compare, counts, importances, interval
from scaling.search.runs import search_folder
from scaling.search.storage import open_study, repair_journal, sole_controller
from scaling.search.task import Score, Settings, validate
from scaling.spec import RunSpec
from scaling.study import Choice, IntRange, Search

sys.path.insert(0, str(Path(__file__).parent))  # for the module beside this file

from simulated_search import (
    BEST,
    STUDY,
    Simulated,
    make_task,
    opened,
    params,
    score,
    settings,
)


def test_a_search_begins_with_the_default_and_the_corners(tmp_path: Path) -> None:
    task, simulated = make_task(), Simulated(tmp_path / "runs")
    controller = opened(tmp_path, task, simulated, trials=12)
    controller.run_trials()
    study = controller.study
    assert params(study)[:5] == task.search.fixed_points("cpu")
    assert len(study.get_trials()) == 12
    assert study.study_name == STUDY
    assert set(params(study)[5]) == {"soft_prompt_length", "prediction_window_s"}
    # Done already: going on with the same number asks nothing and submits nothing.
    before = simulated.submitted()
    controller.run_trials()
    assert (len(study.get_trials()), simulated.submitted()) == (12, before)
    assert len(before) == len(set(before)) == counts(study).runs


def test_duplicates_cost_nothing(tmp_path: Path) -> None:
    space = {"soft_prompt_length": Choice((4, 8)), "prediction_window_s": Choice((1.0, 4.0))}
    task, simulated = make_task(space=space, first=()), Simulated(tmp_path / "runs")
    controller = opened(tmp_path, task, simulated, trials=12)
    controller.run_trials()
    study = controller.study
    ids = [trial.user_attrs["run_id"] for trial in study.get_trials()]
    assert sorted(simulated.submitted()) == sorted(set(ids))
    assert len(set(ids)) <= 4
    values = {trial.user_attrs["run_id"]: trial.value for trial in study.get_trials()}
    assert all(trial.value == values[trial.user_attrs["run_id"]] for trial in study.get_trials())
    assert counts(study).duplicates == 12 - len(set(ids))


def test_a_killed_controller_goes_on_where_it_was(tmp_path: Path) -> None:
    straight = opened(tmp_path / "straight", make_task(), trials=14)
    straight.run_trials()
    folder = tmp_path / "killed"
    command = [sys.executable, __file__, str(folder), "14"]
    pick, kills = random.Random(7), 0
    for _ in range(40):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(pick.randint(1, 4)):
            process.stdout.readline()  # a storage operation was begun or ended
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        if process.returncode == 0 or kills == 5:
            break
    assert kills >= 4
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    study = opened(folder, make_task()).study
    assert params(study) == params(straight.study)
    assert len(study.get_trials()) == 14
    submitted = Simulated(folder / "runs").submitted()
    assert set(submitted) == {trial.user_attrs["run_id"] for trial in study.get_trials()}


def test_a_trial_without_parameters_gets_them(tmp_path: Path) -> None:
    task, simulated = make_task(), Simulated(tmp_path / "runs")
    controller = opened(tmp_path, task, simulated, trials=8)
    study = controller.study
    study.ask()  # killed before the parameters were drawn
    controller.run_trials()
    assert len(study.get_trials()) == 8
    assert all(trial.value is not None for trial in study.get_trials())


@pytest.mark.parametrize("torn", [b'{"op_code":5,"worker_id":"x","tri', b'{"op_code"', b"\x80abc"])
@pytest.mark.parametrize("then_written", [False, True])
def test_a_torn_journal_is_repaired(
    tmp_path: Path, torn: bytes, then_written: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    task, simulated = make_task(), Simulated(tmp_path / "runs")
    controller = opened(tmp_path, task, simulated, trials=6)
    controller.run_trials()
    study = controller.study
    before, journal = params(study), tmp_path / "journal.log"
    attribute = b'{"op_code":2,"worker_id":"y","study_id":0,"user_attr":{"note":"kept"}}\n'
    with open(journal, "ab") as stream:
        stream.write(torn + (attribute if then_written else b""))
    again = opened(tmp_path, task, simulated, trials=7)
    assert "had 1 torn line(s), repaired; the old file is" in capsys.readouterr().out
    assert params(again.study) == before
    assert again.study.user_attrs.get("note") == ("kept" if then_written else None)
    assert (tmp_path / "journal.broken").read_bytes().endswith(attribute if then_written else torn)
    assert repair_journal(journal) == 0
    again.run_trials()
    assert len(opened(tmp_path, task).study.get_trials()) == 7


def test_out_of_memory_is_a_constraint_and_other_failures_are_failures(tmp_path: Path) -> None:
    task = make_task()
    reasons = {64: "out of memory", 4: "loss is not finite"}
    simulated = Simulated(tmp_path / "runs", reasons=reasons)
    controller = opened(tmp_path, task, simulated, trials=8)
    controller.run_trials()
    study = controller.study
    found = {
        trial.params["soft_prompt_length"]: (trial.state.name, trial.constraints)
        for trial in study.get_trials()
    }
    assert found[64] == ("PRUNED", {"memory": 1.0})
    assert found[4] == ("FAIL", {})
    assert (counts(study).out_of_memory, counts(study).failed) == (2, 2)


def test_a_score_that_is_no_number_fails_its_trial_alone(tmp_path: Path) -> None:
    task, simulated = make_task(), Simulated(tmp_path / "runs")

    def broken(spec: RunSpec, step: int) -> Score | None:
        found = score(spec, step)
        worse = spec.model.soft_prompt_length == 8 or spec.seeds.init == 2  # the first one; a seed
        return replace(found, value=math.nan) if found and worse else found

    controller = opened(tmp_path, task, simulated, trials=6, score=broken)
    controller.run_trials()
    states = [trial.state.name for trial in controller.study.get_trials()]
    assert states[0] == "FAIL"
    assert set(states[1:5]) == {"COMPLETE"}
    found = compare(controller, top=1, repeats=3)
    assert len(found.best.repeats) == 2
    json.dumps(asdict(found), allow_nan=False)


def test_the_answer_says_when_nothing_is_separable(tmp_path: Path) -> None:
    task, simulated = make_task(), Simulated(tmp_path / "runs")
    controller = opened(tmp_path, task, simulated, trials=14)
    controller.run_trials()
    study = controller.study
    found = compare(controller)
    assert found.default.params == {"soft_prompt_length": 8, "prediction_window_s": 4.0}
    assert found.best.verdict == "better"  # noise is 1e-4, the default is 0.012 off
    assert found.best.high is not None
    assert found.best.high < 0
    assert len(found.best.repeats) == 3

    def noisy(spec: RunSpec, step: int) -> Score:
        return Score(value=random.Random(spec.run_id).gauss(0.05, 0.01), sem=0.01)

    flat = compare(replace(controller, score=noisy))
    assert flat.best.verdict == "not separable"
    assert flat.answer.endswith("not separable from the default; the default stays")
    result = SearchResult(
        study=STUDY, scale="cpu", score="val_l1", counts=counts(study), stopped=None,
        default=flat.default, candidates=flat.candidates, best=flat.best, answer=flat.answer,
        importance={"soft_prompt_length": 0.8, "prediction_window_s": 0.2}, figures={},
        journal="J",
    )  # fmt: skip
    console = Console(record=True, width=140, file=io.StringIO())
    console.print(render(result))
    printed = console.export_text()
    assert "not separable" in printed
    assert "soft_prompt_length 80 %, prediction_window_s 20 %" in printed
    assert list(result.to_dict()) == [
        "study", "scale", "score", "counts", "stopped", "default", "candidates", "best", "answer",
        "importance", "figures", "journal",
    ]  # fmt: skip
    none = compare(controller, repeats=0)
    assert none.best.verdict == "default" or none.best.mean is None


@pytest.mark.parametrize(("trials", "told"), [(19, False), (20, True), (26, True)])
def test_importances_are_optunas_from_twenty_trials_on(
    tmp_path: Path, trials: int, told: bool
) -> None:
    task = make_task()
    controller = opened(tmp_path, task, trials=trials)
    controller.run_trials()
    found = importances(controller.study)
    assert bool(found) == told
    if told:
        assert found == optuna.importance.get_param_importances(controller.study)
        assert set(found) == set(task.search.space)


def test_the_interval_is_welchs() -> None:
    a, b = [0.1, 0.12, 0.11], [0.2, 0.24, 0.19]
    delta, low, high = interval(a, b)
    reference = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (delta, low, high) == pytest.approx((-0.1, reference.low, reference.high), abs=1e-12)
    wide = interval(a, b, comparisons=3)
    assert wide[1] < low
    assert wide[2] > high
    assert interval([0.1], b) is None


def test_journals_of_others_and_changed_words_are_refused(tmp_path: Path) -> None:
    task = make_task()
    opened(tmp_path, task)
    other = replace(task, study="sweeps.another")
    with pytest.raises(ValueError, match=r"journal of study sweeps.prompt_and_window, not of"):
        opened(tmp_path, other)
    with pytest.raises(ValueError, match=r"begun with .*overrides=\[\] \(now \['num_steps=7'\]\)"):
        opened(tmp_path, replace(task, overrides=("num_steps=7",)))
    refused = pytest.raises(ValueError, match="another `scaling search`")
    with sole_controller(tmp_path), refused, sole_controller(tmp_path):
        pass
    assert search_folder(tmp_path, STUDY) == tmp_path / "_search" / STUDY


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nowhere", "not of a known form"),
        ("sqlite:////nonexistent/folder/x.db", "cannot be opened"),
        ("postgresql+psycopg2://u:secret@127.0.0.1:9/x", "driver|cannot be opened"),
    ],
)
def test_bad_storage_is_one_line(tmp_path: Path, url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        open_study(STUDY, tmp_path, begun_with=make_task().begun_with("val_l1"), url=url)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_database_holds_the_search_too(tmp_path: Path) -> None:
    task, simulated = make_task(), Simulated(tmp_path / "runs")
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    for trials in (3, 6):
        controller = opened(tmp_path, task, simulated, trials=trials, url=url)
        controller.run_trials()
    assert len(controller.study.get_trials()) == 6
    assert not (tmp_path / "journal.log").exists()


@pytest.mark.parametrize(
    ("changes", "overrides", "words"),
    [
        ({"trials": 0}, (), "give at least 1"),
        ({"sampler": "dice"}, (), "allowed: tpe, gp, random"),
        ({}, ("model.soft_prompt_length=8",), "an override fixes"),
    ],
)
def test_mistakes(changes: dict, overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        validate(replace(make_task(), overrides=overrides), settings(**{"trials": 5, **changes}))
    with pytest.raises(ValueError, match="not searched at scale 'moon'"):
        validate(replace(make_task(), scale="moon"), settings(5))


def regret(sampler: str, seed: int, *, trials: int = 40) -> float:
    """Return how far the best of `trials` proposals is from the known optimum."""
    task = make_task()
    space = {"soft_prompt_length": IntRange(low=1, high=128),
             "prediction_window_s": Choice((1.0, 2.0, 4.0, 8.0))}  # fmt: skip
    search = Search(space=space, defaults={}, first=(), run={}, score="val_l1")
    study = optuna.create_study(direction="minimize")
    chosen = settings(trials, seed=seed, sampler=sampler)
    floor, best = 0.05, math.inf
    for _ in range(trials):
        trial = propose(study, search, chosen)
        length = math.log(trial.params["soft_prompt_length"] / BEST["soft_prompt_length"])
        window = math.log(trial.params["prediction_window_s"] / BEST["prediction_window_s"])
        value = floor + 0.01 * length**2 + 0.02 * window**2
        study.tell(trial, value)
        best = min(best, value)
    assert task.search.space.keys() == space.keys()
    return best - floor


def test_the_default_sampler_beats_random_search() -> None:
    default = Settings(trials=1).sampler
    ours = np.array([regret(default, seed) for seed in range(20)])
    chance = np.array([regret("random", seed + 1000) for seed in range(20)])
    found = stats.wilcoxon(ours, chance, alternative="less", zero_method="zsplit")
    assert np.median(ours) < np.median(chance)
    assert found.pvalue < 0.05


def test_samplers_and_distributions() -> None:
    made = distributions(make_task().search)
    assert made["soft_prompt_length"].log
    assert made["prediction_window_s"].choices == (1.0, 2.0, 4.0, 8.0)
    assert type(make_sampler("tpe", seed=0)).__name__ == "TPESampler"


def main(folder: Path, trials: int) -> None:
    """Search to the end, saying each operation, slowly enough to be killed within one."""
    task, simulated = make_task(), Simulated(folder / "runs")

    def submit(specs: Sequence[RunSpec]) -> None:
        print("submit", flush=True)
        time.sleep(0.02)
        simulated.submit(specs)

    def slowly(spec: RunSpec, step: int) -> Score | None:
        print("score", flush=True)
        time.sleep(0.02)
        return score(spec, step)

    with sole_controller(folder):
        controller = opened(folder, task, simulated, trials=trials, score=slowly)
        replace(controller, submit=submit).run_trials()
    print(json.dumps(len(controller.study.get_trials())))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
