"""Keeps the list of a search's runs beside its storage, readable without Optuna.

Trials are runs like any other, but their points are known to the storage alone; `status`,
`export` and the report find them here.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from scaling.config import write_atomic
from scaling.runs.files import read_json
from scaling.runs.folder import Run
from scaling.search.task import Task
from scaling.spec import RunSpec
from scaling.study import Point, load_study

RUNS, RESULT = "runs.json", "result.json"


def search_folder(runs_dir: str | Path, study: str) -> Path:
    """Return the folder of a study's search: journal, list of runs, scores, result."""
    return Path(runs_dir) / "_search" / study


def search_specs(study: str, runs_dir: str | Path, *, task: Task | None = None) -> list[RunSpec]:
    """Return the run of every trial and of every repeat, in the order asked; [] without a search.

    A run that the study's code would now make otherwise is read from its run.yaml, and left out
    where it has none. A controller gives its own `task`, which has made most of them already.
    Neither Optuna nor torch is imported.
    """
    listed = _read(search_folder(runs_dir, study) / RUNS)
    if listed is None:
        return []
    scale, overrides = listed.scale, tuple(listed.overrides)
    if task is None or (task.study, task.scale, task.overrides) != (study, scale, overrides):
        task = _task(study, scale, overrides)
    made = (_spec(task, key, asked, Path(runs_dir)) for key, asked in listed.runs.items())
    return [replace(spec, study=study, scale=scale) for spec in made if spec]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """One line of the list: a point and the seed that it is run with."""

    params: Point
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listed:
    """The content of runs.json: what the runs were made with, and each by its id."""

    scale: str
    overrides: list[str]
    runs: dict[str, _Asked] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunList:
    """The list being kept: add points before their runs are started."""

    path: Path
    task: Task

    def add(self, points: Iterable[tuple[Point, int]]) -> None:
        """Add the runs of (point, seed); those that stand there already stay where they are."""
        head = _Listed(scale=self.task.scale, overrides=list(self.task.overrides))
        before = (_read(self.path) or head).runs
        runs = dict(before)
        for point, seed in points:
            run_id = self.task.spec(point, seed).run_id
            runs.setdefault(run_id, _Asked(params=dict(point), seed=seed))
        if len(runs) > len(before):
            write_atomic(self.path, json.dumps(asdict(replace(head, runs=runs)), indent=1) + "\n")


def _read(path: Path) -> _Listed | None:
    kept = read_json(path)
    if not kept:
        return None
    runs = {key: _Asked(**item) for key, item in kept.get("runs", {}).items()}
    return _Listed(scale=kept["scale"], overrides=kept["overrides"], runs=runs)


def _task(study: str, scale: str, overrides: tuple[str, ...]) -> Task | None:
    search = load_study(study).search
    if search is None or scale not in search.run:
        return None
    return Task(study=study, scale=scale, search=search, overrides=overrides)


def _spec(task: Task | None, run_id: str, asked: _Asked, runs_dir: Path) -> RunSpec | None:
    try:
        made = task.spec(asked.params, asked.seed) if task else None
    except (ValueError, KeyError, TypeError):  # the space or the study's code is another now
        made = None
    if made is not None and made.run_id == run_id:
        return made
    run = Run.of(runs_dir, run_id)
    return run.spec() if run.is_prepared() else None
