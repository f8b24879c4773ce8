"""The answer of a search: the best points run again with new seeds, beside the default.

The best of many noisy scores is too good to be true, so the score that chose a point does not
count: every point of the answer, the default too, is judged by new seeds only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scaling.document import Document
from scaling.search.controller import CONSTRAINT, PRUNED, RUN_ID, Controller
from scaling.search.propose import point_of
from scaling.search.task import Task
from scaling.study import Point

if TYPE_CHECKING:
    import optuna

LEVEL = 0.95
MIN_FINISHED = 20  # below it, the importances are of two points or three: they turn with each trial
FIRST_SEED = 1  # seed 0 chose


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate(Document):
    """One point with its score in the search and under new seeds, against the default.

    `delta` = mean score minus the default's; `low`, `high` its interval; negative is better.
    """

    params: Point
    run_id: str
    search_value: float | None
    repeats: list[float]
    mean: float | None
    delta: float | None
    low: float | None
    high: float | None
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The default, the best points in the order of their scores, the best by new seeds."""

    default: Candidate
    candidates: list[Candidate]
    best: Candidate
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts(Document):
    """How trials ended, and how many different runs they were."""

    trials: int
    complete: int
    pruned: int
    out_of_memory: int
    failed: int
    running: int
    runs: int
    duplicates: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult(Document):
    """What a search found: result.json, and what `scaling search --json` prints.

    `stopped`: why no more trials were asked for; `importance` by parameter, summing to 1;
    `figures`: paths by name; `journal`: where the trials are.
    """

    study: str
    scale: str
    score: str
    counts: Counts
    stopped: str | None
    default: Candidate
    candidates: list[Candidate]
    best: Candidate
    answer: str
    importance: dict[str, float]
    figures: dict[str, list[str]]
    journal: str


class Interval(NamedTuple):
    """A difference of two means and its interval."""

    delta: float
    low: float
    high: float


def compare(controller: Controller, *, top: int = 3, repeats: int = 3) -> Comparison:
    """Repeat the best `top` points and the default with new seeds and compare them.

    A seed whose runs do not fit into the budget is left out, and so are those after it.
    """
    study, task = controller.study, controller.task
    chosen = top_points(study, task, top)
    points = [task.default, *(point for point, _ in chosen)]
    seeds = _affordable(controller, points, repeats)
    again = [(point, seed) for seed in seeds for point in points]
    controller.runs.add(again)
    if again:
        controller.say(
            f"repeating the default and the best {len(chosen)} with {len(seeds)} new seeds: "
            f"{len(again)} runs"
        )
    done = controller.run_all([task.spec(*item) for item in again])
    rows = [_scores(controller, point, seeds, done) for point in points]
    base = _candidate(task, task.default, _value_of(study, task, task.default), rows[0])
    others = [
        _candidate(task, point, value, row, base=rows[0], comparisons=len(chosen))
        for (point, value), row in zip(chosen, rows[1:], strict=True)
    ]
    best = min(others, key=lambda c: math.inf if c.mean is None else c.mean, default=base)
    return Comparison(default=base, candidates=others, best=best, answer=_answer(best))


def top_points(study: "optuna.Study", task: Task, count: int) -> list[tuple[Point, float]]:
    """Return the `count` best different points with their scores, the default left out."""
    from optuna.trial import TrialState

    default = task.spec(task.default).run_id
    # By run, not by point: an override may make two points of the space one run.
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    found: dict[str, tuple[Point, float]] = {}
    for trial in sorted(trials, key=lambda trial: (trial.value, trial.number)):  # ties: the first
        point = point_of(trial, task.search)
        if point is None or trial.value is None:
            continue
        run_id = task.spec(point).run_id
        if run_id != default:
            found.setdefault(run_id, (point, trial.value))
    return list(found.values())[:count]


def interval(
    ours: Sequence[float], default: Sequence[float], *, comparisons: int = 1
) -> Interval | None:
    """Return the difference of two means by Welch's t, at 95 % over all `comparisons`.

    None where either side has fewer than two values.
    """
    from scipy import stats

    if min(len(ours), len(default)) < 2:
        return None
    delta = float(np.mean(ours) - np.mean(default))
    if not np.ptp(ours) and not np.ptp(default):  # no spread: scipy divides by it
        return Interval(delta, delta, delta)
    level = 1 - (1 - LEVEL) / max(1, comparisons)  # Bonferroni
    found = stats.ttest_ind(ours, default, equal_var=False).confidence_interval(level)
    return Interval(delta, float(found.low), float(found.high))


def counts(study: "optuna.Study") -> Counts:
    """Return how the trials asked for have ended."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name != "WAITING"]
    states = [trial.state.name for trial in trials]
    ids = [trial.user_attrs[RUN_ID] for trial in trials if trial.user_attrs.get(RUN_ID)]
    return Counts(
        trials=len(trials),
        complete=states.count("COMPLETE"),
        pruned=sum(bool(trial.user_attrs.get(PRUNED)) for trial in trials),
        out_of_memory=sum(trial.constraints.get(CONSTRAINT, 0) > 0 for trial in trials),
        failed=states.count("FAIL"),
        running=states.count("RUNNING"),
        runs=len(set(ids)),
        duplicates=len(ids) - len(set(ids)),
    )


def importances(study: "optuna.Study") -> dict[str, float]:
    """Return Optuna's importances by parameter, the greatest first, as its dashboard shows them.

    {} below 20 finished trials, or where no two complete ones differ.
    """
    from optuna.importance import get_param_importances

    trials = study.get_trials(deepcopy=False)
    finished = sum(trial.state.is_finished() for trial in trials)
    values = {trial.value for trial in trials if trial.state.name == "COMPLETE"}
    if finished < MIN_FINISHED or len(values) < 2:
        return {}
    return {name: float(share) for name, share in get_param_importances(study).items()}


def _affordable(controller: Controller, points: Sequence[Point], repeats: int) -> list[int]:
    """Return the seeds that every point is run with; under a budget perhaps fewer than asked."""
    budget, task = controller.budget, controller.task
    seeds: list[int] = []
    for seed in range(FIRST_SEED, FIRST_SEED + repeats):
        more = [task.spec(point, each) for each in [*seeds, seed] for point in points]
        refusal = budget.refusal(more) if budget else None
        if refusal:
            controller.say(f"{len(seeds)} of {repeats} repeats: {refusal}")
            break  # for all points or none: unequal numbers of seeds would favour some
        seeds.append(seed)
    return seeds


def _scores(
    controller: Controller, point: Point, seeds: Sequence[int], done: set[str]
) -> list[float]:
    """Return the finite scores of a point's repeats that are done."""
    specs = [controller.task.spec(point, seed) for seed in seeds]
    scores = [controller.score(spec, spec.num_steps) for spec in specs if spec.run_id in done]
    return [found.value for found in scores if found and math.isfinite(found.value)]


def _candidate(
    task: Task,
    point: Point,
    value: float | None,
    row: list[float],
    *,
    base: Sequence[float] = (),
    comparisons: int = 0,
) -> Candidate:
    """Return a point's row of the answer; without comparisons it is the default's."""
    found = interval(row, base, comparisons=comparisons)
    return Candidate(
        params=dict(point),
        run_id=task.spec(point).run_id,
        search_value=value,
        repeats=row,
        mean=float(np.mean(row)) if row else None,
        delta=found.delta if found else None,
        low=found.low if found else None,
        high=found.high if found else None,
        verdict=_verdict(found) if comparisons else "default",
    )


def _verdict(found: Interval | None) -> str:
    if found is None:
        return "not repeated"
    if found.low <= 0 <= found.high:
        return "not separable"
    return "better" if found.high < 0 else "worse"


def _value_of(study: "optuna.Study", task: Task, point: Point) -> float | None:
    run_id = task.spec(point).run_id
    for trial in study.get_trials(deepcopy=False):
        if trial.user_attrs.get(RUN_ID) == run_id and trial.state.name == "COMPLETE":
            return trial.value
    return None


def _answer(best: Candidate) -> str:
    if best.verdict == "default":
        return "no other point finished; the default stays"
    if best.verdict == "not repeated":
        return (
            "the best point and the default have fewer than two repeats with new seeds to compare; "
            "the default stays"
        )
    if best.verdict == "not separable":
        return "the best point is not separable from the default; the default stays"
    point = " ".join(f"{name}={value}" for name, value in best.params.items())
    return f"the best point is {best.verdict} than the default: {point}"
