"""A simulated search: an objective with a known optimum and an executor whose runs are files."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import optuna

from scaling.runs.state import RunStatus
from scaling.search.controller import Controller
from scaling.search.runs import RUNS, RunList
from scaling.search.storage import open_study
from scaling.search.task import Score, Scorer, Settings, Task
from scaling.spec import RunSpec
from scaling.study import load_study

STUDY = "sweeps.prompt_and_window"
BEST = {"soft_prompt_length": 24, "prediction_window_s": 4.0}


def simulated_error(spec: RunSpec) -> float:
    """Return a bowl in (log length, log window) with its floor at BEST, and noise by seed."""
    length = math.log(spec.model.soft_prompt_length / BEST["soft_prompt_length"])
    window = math.log(spec.data.prediction_window_s / BEST["prediction_window_s"])
    noise = random.Random(spec.run_id).gauss(0, 1e-4)
    return 0.05 + 0.01 * length**2 + 0.02 * window**2 + (noise if spec.seeds.init else 0)


class Simulated:
    """An executor whose runs are files: submitted, then done at the next look."""

    def __init__(self, folder: Path, *, reasons: dict[int, str] | None = None) -> None:
        self.folder, self.reasons = folder, reasons or {}
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "submitted.txt"

    def submit(self, specs: Sequence[RunSpec]) -> None:
        with open(self.log, "a") as stream:
            stream.writelines(f"{spec.run_id}\n" for spec in specs)
        for spec in specs:
            (self.folder / spec.run_id).touch()

    def states(self, specs: Sequence[RunSpec]) -> dict[str, RunStatus]:
        found: dict[str, RunStatus] = {}
        for spec in specs:
            there = (self.folder / spec.run_id).exists()
            reason = self.reasons.get(spec.model.soft_prompt_length)
            state = ("failed" if reason else "done") if there else "planned"
            found[spec.run_id] = RunStatus(run_id=spec.run_id, state=state, reason=reason)
        return found

    def cancel(self, specs: Sequence[RunSpec]) -> None:
        pass

    def submitted(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []


def score(spec: RunSpec, step: int) -> Score | None:
    return Score(value=simulated_error(spec), sem=0.001) if step == spec.num_steps else None


def make_task(**changes: object) -> Task:
    search = load_study(STUDY).search
    assert search is not None
    return Task(study=STUDY, scale="cpu", search=replace(search, **changes))


def settings(trials: int, **changes: object) -> Settings:
    return replace(Settings(trials=trials, poll_s=0.0), **changes)


def opened(
    folder: Path,
    task: Task,
    simulated: Simulated | None = None,
    *,
    trials: int = 1,
    score: Scorer = score,
    url: str | None = None,
    **changes: object,
) -> Controller:
    """Return the controller of a simulated search that is kept in a folder."""
    study, storage = open_study(
        task.study, folder, begun_with=task.begun_with("horizon_l1"), url=url, warn=print
    )
    simulated = simulated or Simulated(folder / "runs")
    return Controller(
        study=study,
        storage=storage,
        task=task,
        settings=settings(trials, **changes),
        runs=RunList(path=folder / RUNS, task=task),
        score=score,
        submit=simulated.submit,
        states=simulated.states,
        cancel=simulated.cancel,
    )


def params(study: optuna.Study) -> list[dict]:
    return [trial.params for trial in study.get_trials() if trial.state.is_finished()]
