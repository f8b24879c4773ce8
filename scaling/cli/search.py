"""The verb on a space: search prompt length, window or anything else that a study declares."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.cli.arguments import Asked
from scaling.cli.search_executor import make_controller, say

if TYPE_CHECKING:
    import optuna

    from jobs.cluster import Cluster
    from scaling.search.budget import Budget, Price
    from scaling.search.result import Counts, SearchResult
    from scaling.search.task import Sampler, Settings, Task
    from scaling.spec import RunSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What the command line asks for."""

    task: "Task"
    settings: "Settings"
    runs_dir: Path
    cluster: "Cluster"
    score: str
    storage: str | None
    top: int
    repeats: int
    max_gpu_hours: float | None

    @property
    def folder(self) -> Path:
        """Where the search keeps its journal, its list of runs and its result."""
        from scaling.search.runs import search_folder

        return search_folder(self.runs_dir, self.task.study)


def search(
    asked: Asked,
    *,
    on: str,
    trials: int,
    parallel: int,
    seed: int,
    sampler: "Sampler",
    no_prune: bool,
    **rest: Any,
) -> int:
    """Search until --trials have ended, repeat the best with new seeds, print the answer."""
    from jobs.executor import executor_of
    from scaling.cli.search_table import render
    from scaling.search.storage import sole_controller
    from scaling.search.task import Settings

    settings = Settings(
        trials=trials, parallel=parallel, seed=seed, sampler=sampler, prune=not no_prune
    )
    request = _request(asked, settings, on=on, **rest)
    price = _pricer(request.runs_dir, request.cluster)
    budget = _budget(request.task, price, request.runs_dir, cap=request.max_gpu_hours)
    num_repeats = (request.top + 1) * request.repeats
    cost = _cost(request.task, price, request.settings.trials, num_repeats)
    with sole_controller(request.folder):
        # What a controller that was killed while it submitted has left in a queue counts, too.
        executor_of(request.cluster).held(request.runs_dir, fresh=True)
        if cost:
            say(cost)
        try:
            result = _search(request, budget)
        except KeyboardInterrupt:
            say("runs under way go on; the same command takes the search up again")
            raise
    asked.show(result.to_dict(), lambda _: render(result))
    return 0 if result.counts.complete else 1


def _search(request: _Request, budget: "Budget | None") -> "SearchResult":
    from scaling.config import write_atomic
    from scaling.scores import make_scorer
    from scaling.search.result import SearchResult, compare, counts, importances
    from scaling.search.runs import RESULT
    from scaling.search.storage import open_study, shown_storage

    task, folder = request.task, request.folder
    score = make_scorer(request.score, task.search, request.runs_dir, folder / "scores")
    begun_with = task.begun_with(request.score)
    study, storage = open_study(
        task.study, folder, begun_with=begun_with, url=request.storage, warn=say
    )
    journal = shown_storage(folder, request.storage)
    controller = make_controller(
        study,
        storage,
        task=task,
        settings=request.settings,
        score=score,
        budget=budget,
        runs_dir=request.runs_dir,
        cluster=request.cluster,
    )
    controller.say(_opening(counts(study), request, journal))
    stopped = controller.run_trials()
    found = compare(controller, top=request.top, repeats=request.repeats)
    controller.on_round([])
    importance = importances(study)
    result = SearchResult(
        study=task.study,
        scale=task.scale,
        score=request.score,
        counts=counts(study),
        stopped=stopped,
        default=found.default,
        candidates=found.candidates,
        best=found.best,
        answer=found.answer,
        importance=importance,
        figures=_draw(study, task, folder, score=request.score, importance=importance),
        journal=journal,
    )
    write_atomic(folder / RESULT, json.dumps(result.to_dict(), indent=1) + "\n")
    return result


def _draw(
    study: "optuna.Study",
    task: "Task",
    folder: Path,
    *,
    score: str,
    importance: Mapping[str, float],
) -> dict[str, list[str]]:
    """Write search_{history,contour,importance}.{png,svg}; return their paths by figure."""
    from matplotlib import pyplot

    from analysis.figures.style import column_label, save, style
    from scaling.search.figures import draw

    with style():
        figures = draw(study, task, score=score, importance=importance, label=column_label)
        paths = {
            name: list(save(f, folder, f"search_{name}").values()) for name, f in figures.items()
        }
        for figure in figures.values():
            pyplot.close(figure)
    return paths


def _opening(counts: "Counts", request: _Request, journal: str) -> str:
    task, settings = request.task, request.settings
    what = f"{task.study} ({task.scale})"
    how = f"{settings.trials} trials, {settings.parallel} at once, sampler {settings.sampler}"
    if not counts.trials:
        return f"{what}: {how}, kept in {journal}"
    ended = counts.trials - counts.running
    return (
        f"{what}: going on in {journal}: {ended} trials settled, {counts.running} under way; {how}"
    )


def _request(
    asked: Asked,
    settings: "Settings",
    *,
    on: str,
    score: str | None,
    storage: str | None,
    top: int,
    repeats: int,
    max_gpu_hours: float | None,
) -> _Request:
    """Return what is asked for; raise ValueError for a search that cannot be run."""
    from jobs.cluster import load_cluster
    from scaling.search.task import validate

    task = _task(asked.study, asked.overrides)
    validate(task, settings)
    return _Request(
        task=task,
        settings=settings,
        runs_dir=asked.folder,
        cluster=load_cluster(on),
        score=score or task.search.score,
        storage=storage,
        top=top,
        repeats=repeats,
        max_gpu_hours=max_gpu_hours,
    )


def _task(name: str, given: Sequence[str]) -> "Task":
    from scaling.search.task import Task
    from scaling.study import known_studies, load_study, split_arguments

    scale, overrides = split_arguments(given)
    study = load_study(name)
    if study.search is None:
        searched = [name for name in known_studies() if load_study(name).search]
        raise ValueError(f"study {study.name} declares no search; these do: {', '.join(searched)}")
    chosen = scale or study.default_scale
    return Task(study=study.name, scale=chosen, search=study.search, overrides=tuple(overrides))


def _pricer(runs_dir: Path, cluster: "Cluster") -> "Price":
    """Return what gives the GPU-hours of runs, as `scaling plan` has them; 0 on CPU."""
    from jobs.plan import plan

    def price(specs: "Sequence[RunSpec]") -> Mapping[str, float]:
        rows = plan(specs, runs_dir, peak_tflops=cluster.peak_tflops).runs
        return {row.run_id: row.gpu_hours or 0.0 for row in rows}

    return price


def _budget(task: "Task", price: "Price", runs_dir: Path, *, cap: float | None) -> "Budget | None":
    """Return the GPU-hours that may be planned, None without a cap.

    Raises ValueError when not even the first trial fits.
    """
    if cap is None:
        return None
    from scaling.search.budget import Budget
    from scaling.search.runs import search_specs

    def planned() -> "list[RunSpec]":
        return search_specs(task.study, runs_dir, task=task)

    budget = Budget(cap=cap, price=price, planned=planned)
    refusal = None if planned() else budget.refusal([task.spec(task.default)])
    if refusal:
        raise ValueError(f"not even the first trial fits: {refusal}; nothing was submitted")
    return budget


def _cost(task: "Task", price: "Price", trials: int, repeats: int) -> str:
    """Return what the whole search would take on GPUs, "" on CPU."""
    each = sum(price([task.spec(task.default)]).values())
    if not each:
        return ""
    return (
        f"about {(trials + repeats) * each:,.0f} GPU-hours in all: {trials} trials and {repeats} "
        f"repeats of about {each:,.1f}"
    )
