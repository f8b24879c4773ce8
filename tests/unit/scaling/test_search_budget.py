"""--max-gpu-hours of a search: nothing is planned above it, and it says what it left out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from scaling.cli.arguments import Asked
from scaling.cli.search import _cost, search
from scaling.runs.state import RunStatus
from scaling.search.budget import Budget, corners
from scaling.search.controller import Controller
from scaling.search.result import compare
from scaling.search.runs import RUNS, RunList, search_folder, search_specs
from scaling.search.storage import open_study
from scaling.search.task import Score, Settings, Task
from scaling.spec import RunSpec
from scaling.study import load_study

STUDY = "sweeps.prompt_and_window"
SEARCH = load_study(STUDY).search
assert SEARCH is not None
TASK = Task(study=STUDY, scale="cpu", search=SEARCH)


def ten_each(specs: Sequence[RunSpec]) -> Mapping[str, float]:
    return {spec.run_id: 10.0 for spec in specs}


def by_length(specs: Sequence[RunSpec]) -> Mapping[str, float]:
    return {spec.run_id: 1.0 + spec.model.soft_prompt_length / 16 for spec in specs}


def score(spec: RunSpec, step: int) -> Score:
    return Score(value=1 / spec.model.soft_prompt_length + spec.seeds.init / 1000, sem=0.1)


class Searched:
    """A search of simulated runs in a folder, under a budget."""

    def __init__(self, runs_dir: Path, cap: float, price=ten_each) -> None:
        self.runs_dir, self.said = runs_dir, []
        self.done = {spec.run_id for spec in self.planned()}
        folder = search_folder(runs_dir, STUDY)
        study, storage = open_study(STUDY, folder, begun_with=TASK.begun_with("val_l1"))
        self.controller = Controller(
            study=study,
            storage=storage,
            task=TASK,
            settings=Settings(trials=6, poll_s=0.0),
            runs=RunList(path=folder / RUNS, task=TASK),
            score=score,
            submit=lambda specs: self.done.update(spec.run_id for spec in specs),
            states=self.states,
            cancel=print,
            budget=Budget(cap=cap, price=price, planned=self.planned),
            say=self.said.append,
        )

    def states(self, specs: Sequence[RunSpec]) -> dict[str, RunStatus]:
        ids = [spec.run_id for spec in specs]
        return {
            key: RunStatus(run_id=key, state="done" if key in self.done else "planned")
            for key in ids
        }

    def planned(self) -> list[RunSpec]:
        return search_specs(STUDY, self.runs_dir)

    def trials(self, number: int, **changes) -> str | None:
        settings = Settings(trials=number, poll_s=0.0, **changes)
        return replace(self.controller, settings=settings).run_trials()

    def num_trials(self) -> int:
        return sum(trial.state.is_finished() for trial in self.controller.study.get_trials())


def test_asking_stops_at_the_cap_and_goes_on_under_a_higher_one(tmp_path: Path) -> None:
    first = Searched(tmp_path, cap=35)
    stopped = first.trials(12, parallel=2)
    assert stopped == ("30.0 GPU-hours are planned and 10.0 more would pass --max-gpu-hours 35.0")
    assert first.said[-2:].count(f"no more trials: {stopped}") == 1
    assert (first.num_trials(), len(first.done)) == (3, 3)
    second = Searched(tmp_path, cap=1000)
    assert second.trials(12) is None
    assert second.num_trials() == 12
    lowered = Searched(tmp_path, cap=1)  # what is planned already stays; nothing is added
    assert lowered.trials(12) is None
    assert lowered.trials(13) is not None
    assert lowered.num_trials() == 12


@pytest.mark.parametrize("cap", [30, 47, 60])
def test_no_choice_of_the_sampler_passes_the_cap(tmp_path: Path, cap: float) -> None:
    searched = Searched(tmp_path, cap=cap, price=by_length)
    assert searched.trials(40, parallel=3) is not None
    hours = sum(by_length(searched.planned()).values())
    assert cap - 9 < hours <= cap  # the dearest point takes 9
    assert searched.num_trials() < 40


@pytest.mark.parametrize(("left", "seeds"), [(0, 0), (45, 1), (80, 2), (1000, 3)])
def test_repeats_keep_to_what_is_left(tmp_path: Path, left: float, seeds: int) -> None:
    searched = Searched(tmp_path, cap=1000)
    searched.trials(6)
    used = 10.0 * len(searched.planned())
    assert searched.controller.budget is not None
    budget = replace(searched.controller.budget, cap=used + left)
    for _ in range(2):  # asked again: nothing more, nothing less
        found = compare(replace(searched.controller, budget=budget))
        assert len(found.default.repeats) == seeds
        assert len(searched.done) == used / 10 + 4 * seeds
    assert any(f"{seeds} of 3 repeats" in text for text in searched.said) == (seeds < 3)


def test_the_corners_bound_the_space() -> None:
    points = corners(TASK.search)
    assert len(points) == 8
    assert {point["soft_prompt_length"] for point in points} == {1, 128}
    assert {point["prediction_window_s"] for point in points} == {1.0, 2.0, 4.0, 8.0}


def test_a_cap_below_the_first_trial_is_the_users_mistake(tmp_path: Path) -> None:
    asked = Asked(study=STUDY, overrides=["scale=a100"], runs=str(tmp_path), json=True)
    with pytest.raises(ValueError, match=r"not even the first trial fits: 0.0 .* nothing was sub"):
        search(
            asked, on="a100", trials=20, parallel=4, seed=0, sampler="tpe", no_prune=False,
            max_gpu_hours=1.0, score=None, storage=None, top=3, repeats=3,
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_what_the_search_would_take_is_told_on_gpus_alone() -> None:
    told = _cost(TASK, ten_each, 20, 8)
    assert told.startswith("about 280 GPU-hours in all: 20 trials and 8 repeats of about 10.0")
    assert _cost(TASK, lambda specs: {spec.run_id: 0.0 for spec in specs}, 20, 8) == ""
