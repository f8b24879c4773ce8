"""Keeps the list of a search's runs beside its storage, readable without Optuna.

Trials are runs like any other, but their points are known to the storage alone; `status`,
`export` and the report find them here.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scaling.config import write_atomic
from scaling.runs.files import read_json
from scaling.runs.folder import Run
from scaling.search.controller import Task
from scaling.spec import RunSpec
from scaling.study import load_study

RUNS = "runs.json"


def search_folder(runs_dir: str | Path, study: str) -> Path:
    """Return the folder of a study's search: journal, list of runs, scores, result."""
    return Path(runs_dir) / "_search" / study


def search_specs(study: str, runs_dir: str | Path, *, task: Task | None = None) -> list[RunSpec]:
    """Return the run of every trial and of every repeat, in the order asked; [] without a search.

    A run that the study's code would now make otherwise is read from its run.yaml, and left out
    where it has none. A controller gives its own `task`, which has made most of them already.
    Neither Optuna nor torch is imported.
    """
    kept = read_json(search_folder(runs_dir, study) / RUNS)
    if not kept:
        return []
    scale, overrides = kept["scale"], tuple(kept["overrides"])
    if task is None or (task.study, task.scale, task.overrides) != (study, scale, overrides):
        task = _task(study, scale, overrides)
    made = (_spec(task, key, item, Path(runs_dir)) for key, item in kept["runs"].items())
    return [replace(spec, study=study, scale=scale) for spec in made if spec]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunList:
    """The list being kept: add points before their runs are started."""

    path: Path
    task: Task

    def add(self, points: Iterable[tuple[Mapping[str, Any], int]]) -> None:
        """Add the runs of (point, seed); those that stand there already stay where they are."""
        kept = read_json(self.path) or {}
        runs = dict(kept.get("runs", {}))
        for point, seed in points:
            item = {"params": dict(point), "seed": seed}
            runs.setdefault(self.task.spec(point, seed).run_id, item)
        if runs != kept.get("runs"):
            head = {"scale": self.task.scale, "overrides": list(self.task.overrides)}
            write_atomic(self.path, json.dumps({**head, "runs": runs}, indent=1) + "\n")


def _task(study: str, scale: str, overrides: tuple[str, ...]) -> Task | None:
    search = load_study(study).search
    if search is None or scale not in search.run:
        return None
    return Task(study=study, scale=scale, search=search, overrides=overrides)


def _spec(task: Task | None, run_id: str, item: Mapping[str, Any], folder: Path) -> RunSpec | None:
    try:
        made = task.spec(item["params"], item["seed"]) if task else None
    except (ValueError, KeyError, TypeError):  # the space or the study's code is another now
        made = None
    if made is not None and made.run_id == run_id:
        return made
    run = Run.of(folder, run_id)
    return run.spec() if run.is_prepared() else None
