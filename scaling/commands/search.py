"""The verb on a space: search prompt length, window or anything else that a study declares."""

import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.commands.common import publish, runs_folder, show

if TYPE_CHECKING:
    from jobs.cluster import Cluster
    from scaling.search import Executor, Options, Task
    from scaling.spec import RunSpec

PUBLISH_EVERY_S = 60.0


def search(arguments: Namespace) -> int:
    """Search until --trials are settled, repeat the best with new seeds, print the answer."""
    from scaling.search import check_task
    from scaling.search_runs import search_folder
    from scaling.search_storage import sole_controller

    task, options = _task(arguments), _options(arguments)
    check_task(task, options)
    runs_dir = runs_folder(arguments)
    folder = search_folder(runs_dir, task.study)
    executor = _executor(arguments, runs_dir, task, options)
    with sole_controller(folder):
        document = _search(arguments, task, options, folder=folder, executor=executor)
    show(arguments, document, _render)
    return 0 if document["counts"]["complete"] else 1


def _search(
    arguments: Namespace, task: "Task", options: "Options", *, folder: Path, executor: "Executor"
) -> dict[str, Any]:
    from dataclasses import replace

    from scaling.config import write_atomic
    from scaling.search import run_trials
    from scaling.search_plots import draw_search, importances
    from scaling.search_result import compare, counts
    from scaling.search_score import make_scorer
    from scaling.search_storage import open_study

    runs_dir = runs_folder(arguments)
    name = arguments.score or task.search.score
    score = make_scorer(name, task.search, runs_dir, folder / "scores")
    begun_with = task.begun_with(name)
    study = open_study(task.study, folder, begun_with=begun_with, storage=arguments.storage)
    options = replace(options, rungs=task.search.rungs)
    run_trials(study, task, options, executor=executor, score=score)
    answer = compare(
        study,
        task,
        options,
        executor=executor,
        score=score,
        top=arguments.top,
        repeats=arguments.repeats,
    )
    executor.on_round([])
    document = {
        "study": task.study,
        "scale": task.scale,
        "score": name,
        "counts": counts(study),
        **answer,
        "importance": importances(study),
        "figures": draw_search(
            study, runs_dir.parent / "reports" / task.study / "figures", score=name
        ),
        "journal": (arguments.storage and _shown(arguments.storage)) or str(folder / "journal.log"),
    }
    write_atomic(folder / "result.json", json.dumps(document, indent=1) + "\n")
    return document


def _task(arguments: Namespace) -> "Task":
    from scaling.search import Task
    from scaling.study import known_studies, load_study, split_arguments

    scale, overrides = split_arguments(arguments.overrides)
    study = load_study(arguments.study)
    if study.search is None:
        searched = [name for name in known_studies() if load_study(name).search]
        raise ValueError(f"study {study.name} declares no search; these do: {', '.join(searched)}")
    chosen = scale or study.default_scale
    return Task(study=study.name, scale=chosen, search=study.search, overrides=tuple(overrides))


def _options(arguments: Namespace) -> "Options":
    from scaling.search import Options

    return Options(
        trials=arguments.trials,
        parallel=arguments.parallel,
        seed=arguments.seed,
        sampler=arguments.sampler,
        prune=not arguments.no_prune,
    )


def _executor(arguments: Namespace, runs_dir: Path, task: "Task", options: "Options") -> "Executor":
    """Return the local executor or a cluster as the controller sees it."""
    from jobs.cluster import load_cluster
    from jobs.control import cancel
    from jobs.status import study_status
    from scaling.search import Executor
    from scaling.search_runs import RUNS, RunList, search_folder

    cluster = load_cluster(arguments.on)

    def states(specs: "Sequence[RunSpec]") -> dict[str, tuple[str, str | None]]:
        rows = study_status(specs, runs_dir)["runs"]
        return {row["run_id"]: (row["state"], row["reason"]) for row in rows}

    return Executor(
        submit=_submit(cluster, runs_dir, options.parallel),
        states=states,
        cancel=lambda specs: _quietly(cancel, specs, runs_dir),
        # Two local executors would both begin at GPU 0.
        idle_first=cluster.backend != "slurm" and _has_gpus(arguments),
        on_round=_Live(runs_dir, quiet=arguments.json),
        remember=RunList(path=search_folder(runs_dir, task.study) / RUNS, task=task).add,
    )


def _submit(
    cluster: "Cluster", runs_dir: Path, parallel: int
) -> "Callable[[Sequence[RunSpec]], None]":
    if cluster.backend == "slurm":
        from jobs.slurm import submit as hand_over

        return lambda specs: _quietly(hand_over, specs, runs_dir, cluster)
    from jobs.detach import submit_detached

    return lambda specs: _quietly(submit_detached, specs, runs_dir, parallel=parallel)


class _Live:
    """Brings MLflow up to date at most once a minute while the search goes on."""

    def __init__(self, runs_dir: Path, *, quiet: bool) -> None:
        self._runs_dir, self._quiet = runs_dir, quiet
        self._specs: dict[str, RunSpec] = {}
        self._last = time.monotonic()

    def __call__(self, specs: "Sequence[RunSpec]") -> None:
        """Remember the runs and publish when it is time; no runs: publish now."""
        self._specs.update({spec.run_id: spec for spec in specs})
        if specs and time.monotonic() - self._last < PUBLISH_EVERY_S:
            return
        publish(list(self._specs.values()), self._runs_dir, quiet=True)
        self._last = time.monotonic()
        if not self._quiet:
            print(f"{len(self._specs)} runs so far", file=sys.stderr, flush=True)


def _quietly(call: Callable[..., Any], *words: Any, **options: Any) -> None:
    call(*words, **options)


def _has_gpus(arguments: Namespace) -> bool:
    task = _task(arguments)
    default = task.search.defaults.get(task.scale)
    return bool(default and task.spec(default).resources.gpus_per_node)


def _shown(url: str) -> str:
    from scaling.search_storage import shown_storage

    return shown_storage(url)


def _render(document: dict[str, Any]) -> str:
    from scaling.search_result import render

    figures = [paths[0] for paths in document["figures"].values()]
    places = [f"figures: {', '.join(figures)}"] if figures else []
    return "\n".join([render(document), *places, f"storage: {document['journal']}"])
