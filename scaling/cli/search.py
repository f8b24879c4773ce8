"""The verb on a space: search prompt length, window or anything else that a study declares."""

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.cli.arguments import runs_folder, show
from scaling.cli.search_executor import make_executor, say

if TYPE_CHECKING:
    from jobs.cluster import Cluster
    from scaling.search.budget import Budget, Price
    from scaling.search.controller import Executor, Options, Task
    from scaling.spec import RunSpec


def search(arguments: Namespace) -> int:
    """Search until --trials are settled, repeat the best with new seeds, print the answer."""
    from jobs.cluster import load_cluster
    from jobs.executor import executor_of
    from scaling.search.controller import check_task
    from scaling.search.runs import search_folder
    from scaling.search.show import render
    from scaling.search.storage import sole_controller

    task, options = _task(arguments), _options(arguments)
    check_task(task, options)
    runs_dir, cluster = runs_folder(arguments), load_cluster(arguments.on)
    folder = search_folder(runs_dir, task.study)
    price = _pricer(runs_dir, cluster)
    budget, cost = _budget(arguments, task, price), _cost(arguments, task, price)
    executor = make_executor(task, options, runs_dir, cluster)
    with sole_controller(folder):
        # What a controller that was killed while it submitted has left in a queue counts, too.
        executor_of(cluster).held(runs_dir, fresh=True)
        if cost:
            say(cost)
        try:
            document = _search(
                arguments, task, options, folder=folder, executor=executor, budget=budget
            )
        except KeyboardInterrupt:
            say("runs under way go on; the same command takes the search up again")
            raise
    show(arguments, document, render)
    return 0 if document["counts"]["complete"] else 1


def _search(
    arguments: Namespace,
    task: "Task",
    options: "Options",
    *,
    folder: Path,
    executor: "Executor",
    budget: "Budget | None",
) -> dict[str, Any]:
    from scaling.cli.search_figures import draw_search
    from scaling.config import write_atomic
    from scaling.scores import make_scorer
    from scaling.search.controller import run_trials
    from scaling.search.result import compare, counts, importances
    from scaling.search.storage import open_study, shown_storage

    name = arguments.score or task.search.score
    score = make_scorer(name, task.search, runs_folder(arguments), folder / "scores")
    begun_with = task.begun_with(name)
    study = open_study(task.study, folder, begun_with=begun_with, storage=arguments.storage)
    storage = shown_storage(arguments.storage) if arguments.storage else folder / "journal.log"
    executor.say(_opening(counts(study), options, f"{task.study} ({task.scale})", str(storage)))
    stopped = run_trials(study, task, options, executor=executor, score=score, budget=budget)
    answer = compare(
        study,
        task,
        options,
        executor=executor,
        score=score,
        top=arguments.top,
        repeats=arguments.repeats,
        budget=budget,
    )
    executor.on_round([])
    shares = importances(study)
    document = {
        "study": task.study,
        "scale": task.scale,
        "score": name,
        "counts": counts(study),
        "stopped": stopped,
        **answer,
        "importance": shares,
        "figures": draw_search(
            study, folder, task=task, score=name, answer=answer, importance=shares
        ),
        "journal": str(storage),
    }
    write_atomic(folder / "result.json", json.dumps(document, indent=1) + "\n")
    return document


def _opening(counts: dict[str, int], options: "Options", what: str, storage: str) -> str:
    settled = counts["trials"] - counts["running"]
    how = f"{options.trials} trials, {options.parallel} at once, sampler {options.sampler}"
    if not counts["trials"]:
        return f"{what}: {how}, kept in {storage}"
    return (
        f"{what}: going on in {storage}: {settled} trials settled, {counts['running']} under way; "
        f"{how}"
    )


def _task(arguments: Namespace) -> "Task":
    from scaling.search.controller import Task
    from scaling.study import known_studies, load_study, split_arguments

    scale, overrides = split_arguments(arguments.overrides)
    study = load_study(arguments.study)
    if study.search is None:
        searched = [name for name in known_studies() if load_study(name).search]
        raise ValueError(f"study {study.name} declares no search; these do: {', '.join(searched)}")
    chosen = scale or study.default_scale
    return Task(study=study.name, scale=chosen, search=study.search, overrides=tuple(overrides))


def _options(arguments: Namespace) -> "Options":
    from scaling.search.controller import Options

    return Options(
        trials=arguments.trials,
        parallel=arguments.parallel,
        seed=arguments.seed,
        sampler=arguments.sampler,
        prune=not arguments.no_prune,
    )


def _pricer(runs_dir: Path, cluster: "Cluster") -> "Price":
    """Return what gives the GPU-hours of runs, as `scaling plan` has them; 0 on CPU."""
    from jobs.plan import plan

    def price(specs: "Sequence[RunSpec]") -> Mapping[str, float]:
        rows = plan(specs, runs_dir, peak_tflops=cluster.peak_tflops).runs
        return {row.run_id: row.gpu_hours or 0.0 for row in rows}

    return price


def _budget(arguments: Namespace, task: "Task", price: "Price") -> "Budget | None":
    """Return the GPU-hours that may be planned, None without --max-gpu-hours.

    Raises ValueError when not even the first trial fits.
    """
    cap = getattr(arguments, "max_gpu_hours", None)
    if cap is None:
        return None
    from scaling.search.budget import Budget
    from scaling.search.runs import search_specs

    runs_dir = runs_folder(arguments)

    def planned() -> "list[RunSpec]":
        return search_specs(task.study, runs_dir, task=task)

    budget = Budget(cap=cap, price=price, planned=planned)
    refusal = None if planned() else budget.refusal([_default(task)])
    if refusal:
        raise ValueError(f"not even the first trial fits: {refusal}; nothing was submitted")
    return budget


def _cost(arguments: Namespace, task: "Task", price: "Price") -> str:
    """Return what the whole search would take on GPUs, "" on CPU."""
    each = sum(price([_default(task)]).values())
    repeats = (arguments.top + 1) * arguments.repeats
    if not each:
        return ""
    return (
        f"about {(arguments.trials + repeats) * each:,.0f} GPU-hours in all: {arguments.trials} "
        f"trials and {repeats} repeats of about {each:,.1f}"
    )


def _default(task: "Task") -> "RunSpec":
    return task.spec(task.search.defaults[task.scale])
