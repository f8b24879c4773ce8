"""Rungs of a search: runs keep the checkpoints there, and the command stops the worst of them."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from scaling.cli.arguments import Asked
from scaling.cli.search import search
from scaling.cli.search_executor import make_controller
from scaling.runs.folder import step_name
from scaling.search.task import Score, Task, rung_steps
from scaling.spec import RunSpec
from scaling.training.checkpoint import _prune

sys.path.insert(0, str(Path(__file__).parent))  # for the module beside this file

from simulated_search import STUDY, Simulated, make_task, simulated_error


class FirstHalfWay(Simulated):
    """Its runs are seen under way once before they are done; it keeps those that were stopped."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.seen, self.stopped = set(), []

    def states(self, specs):
        found = super().states(specs)
        for run_id, status in found.items():
            if status.state == "done" and run_id not in self.seen:
                self.seen.add(run_id)
                found[run_id] = replace(status, state="running")
        return found

    def cancel(self, specs) -> None:
        self.stopped.extend(spec.run_id for spec in specs)


def score(spec: RunSpec, step: int) -> Score:
    return Score(value=simulated_error(spec) + 0.01 * (step < spec.num_steps), sem=0.001)


@pytest.mark.parametrize("no_prune", [False, True])
def test_the_command_stops_the_worst_runs_at_a_rung(tmp_path, monkeypatch, no_prune) -> None:
    runs = FirstHalfWay(tmp_path / "simulated")
    documents, studies = [], []

    def simulated(study, *given, **fields):
        studies.append(study)
        made = make_controller(study, *given, **fields)
        return replace(
            made, submit=runs.submit, states=runs.states, cancel=runs.cancel, on_round=len
        )

    monkeypatch.setattr("scaling.cli.search.make_controller", simulated)
    monkeypatch.setattr("scaling.scores.make_scorer", lambda *_: score)
    monkeypatch.setattr(Asked, "show", lambda _, found, __: documents.append(found))
    monkeypatch.setattr("scaling.cli.search._draw", lambda *_, **__: {})
    monkeypatch.setattr("time.sleep", lambda _: None)
    asked = Asked(study=STUDY, runs=str(tmp_path / "runs"), json=True)
    code = search(
        asked, on="local", trials=14, parallel=1, seed=0, sampler="tpe", no_prune=no_prune,
        max_gpu_hours=None, score=None, storage=None, top=1, repeats=0,
    )  # fmt: skip
    assert code == 0
    counts = documents[0]["counts"]
    assert (counts["trials"], counts["failed"]) == (14, 0)
    assert counts["pruned"] == len(runs.stopped)
    assert (counts["pruned"] > 0) == (not no_prune)
    complete = [t for t in studies[0].get_trials() if t.state.name == "COMPLETE"]
    assert {seen for t in complete for seen in t.intermediate_values} == {250 * 16}


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [((), [50_000]), (("num_steps=30000",), [15_000]), (("engine.keep_steps=[20]",), [20, 50_000])],
)
def test_a_rungs_checkpoint_is_there_until_the_end(
    tmp_path: Path, overrides: tuple[str, ...], steps: list[int]
) -> None:
    task = replace(make_task(), scale="a100", overrides=overrides)
    spec = task.spec(task.search.defaults["a100"])
    assert spec.engine.keep_steps == steps
    assert spec.engine.keep_every == 0  # nothing else would keep it
    regular = range(spec.engine.save_every, spec.num_steps + 1, spec.engine.save_every)
    for step in sorted({*regular, *steps}):
        (tmp_path / step_name(step)).mkdir()
        _prune(tmp_path, spec.engine)
    last = (spec.num_steps - spec.engine.save_every, spec.num_steps)
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {step_name(step) for step in (*steps, *last)}


def test_rungs_change_no_id() -> None:
    task = make_task()
    without: Task = replace(task, search=replace(task.search, rungs=()))
    for point in task.search.fixed_points("cpu"):
        assert without.spec(point).engine.keep_steps == []
        assert task.spec(point).engine.keep_steps == [250]
        assert task.spec(point).run_id == without.spec(point).run_id


@pytest.mark.parametrize("overrides", [[], ["num_steps=80"]])
def test_a_fixed_point_that_is_submitted_keeps_its_rung_too(overrides: list[str]) -> None:
    for spec in Asked(study=STUDY, overrides=overrides).declared():
        assert spec.engine.keep_steps == [spec.num_steps // 2]


def test_rungs_lie_within_the_run() -> None:
    spec = replace(make_task().spec(make_task().search.defaults["cpu"]), num_steps=3)
    assert rung_steps(spec, (0.1, 0.5, 0.6, 1.0)) == [2]
