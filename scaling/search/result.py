"""The answer of a search: the best points run again with new seeds, beside the default.

The best of many noisy scores is too good to be true, so the score that chose a point does not
count: every point of the answer, the default too, is judged by new seeds only.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.search.budget import Budget
from scaling.search.controller import Executor, Options, Score, Task, wait_for
from scaling.search.look import CONSTRAINT
from scaling.search.propose import point_of
from scaling.spec import RunSpec
from scaling.study import Point

if TYPE_CHECKING:
    import optuna

LEVEL = 0.95
MIN_TRIALS = 4  # for an importance
FIRST_SEED = 1  # seed 0 chose


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
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


def top_points(study: "optuna.Study", task: Task, count: int) -> list[tuple[Point, float]]:
    """Return the `count` best different points with their scores, the default left out."""
    from optuna.trial import TrialState

    default = task.spec(task.search.defaults[task.scale]).run_id
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    found: dict[str, tuple[Point, float]] = {}
    for trial in sorted(trials, key=lambda trial: (trial.value, trial.number)):
        point = point_of(trial, task.search)
        if point is None or trial.value is None:
            continue
        run_id = task.spec(point).run_id
        if run_id != default:
            found.setdefault(run_id, (point, trial.value))
    return list(found.values())[:count]


def compare(
    study: "optuna.Study",
    task: Task,
    options: Options,
    *,
    executor: Executor,
    score: Callable[[RunSpec, int], Score | None],
    top: int = 3,
    repeats: int = 3,
    budget: Budget | None = None,
) -> dict[str, Any]:
    """Repeat the best `top` points and the default with new seeds and return the result.

    A seed whose runs do not fit into the budget is left out, and so are those after it.
    """
    chosen = top_points(study, task, top)
    default = task.search.defaults[task.scale]
    points = [default, *(point for point, _ in chosen)]
    seeds = _affordable(task, points, repeats, budget=budget, say=executor.say)
    again = [(point, seed) for seed in seeds for point in points]
    executor.remember(again)
    if again:
        executor.say(
            f"repeating the default and the best {len(chosen)} with {len(seeds)} new seeds: "
            f"{len(again)} runs"
        )
    done = wait_for([task.spec(*item) for item in again], options, executor=executor)
    rows = []
    for point in points:
        specs = [task.spec(point, seed) for seed in seeds]
        scores = [score(spec, spec.num_steps) for spec in specs if spec.run_id in done]
        rows.append([found.value for found in scores if found and math.isfinite(found.value)])
    first = _value_of(study, task, default)
    base = _candidate(task, default, first, rows[0], rows[0], comparisons=0)
    others = [
        _candidate(task, point, value, row, rows[0], comparisons=len(chosen))
        for (point, value), row in zip(chosen, rows[1:], strict=True)
    ]
    best = min(others, key=lambda c: math.inf if c.mean is None else c.mean, default=base)
    return {
        "default": asdict(base),
        "candidates": [asdict(candidate) for candidate in others],
        "best": asdict(best),
        "answer": _answer(best),
    }


def interval(ours: Sequence[float], default: Sequence[float], *, comparisons: int = 1):
    """Return (delta, low, high) of two means by Welch's t, at 95 % over all `comparisons`.

    None where either side has fewer than two values.
    """
    from scipy import stats

    if min(len(ours), len(default)) < 2:
        return None
    a, b = np.asarray(ours), np.asarray(default)
    parts = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    delta, error = float(a.mean() - b.mean()), math.sqrt(sum(parts))
    if error == 0:
        return delta, delta, delta
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (len(a) - 1) + parts[1] ** 2 / (len(b) - 1))
    tail = (1 - LEVEL) / 2 / max(1, comparisons)
    margin = float(stats.t.ppf(1 - tail, freedom)) * error
    return delta, delta - margin, delta + margin


def counts(study: "optuna.Study") -> dict[str, int]:
    """Return how trials ended, and how many different runs they were."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name != "WAITING"]
    ids = [trial.user_attrs.get("run_id") for trial in trials]
    named = [name for name in ids if name]
    return {
        "trials": len(trials),
        "complete": sum(trial.state.name == "COMPLETE" for trial in trials),
        "pruned": sum(bool(trial.user_attrs.get("pruned")) for trial in trials),
        "out_of_memory": sum(trial.constraints.get(CONSTRAINT, 0) > 0 for trial in trials),
        "failed": sum(trial.state.name == "FAIL" for trial in trials),
        "running": sum(trial.state.name == "RUNNING" for trial in trials),
        "runs": len(set(named)),
        "duplicates": len(named) - len(set(named)),
    }


def importances(study: "optuna.Study") -> dict[str, float]:
    """Return the share of the score's variance by parameter (fANOVA); {} with too few trials."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len({trial.value for trial in complete}) < MIN_TRIALS:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {name: float(share) for name, share in found.items()}


def _affordable(
    task: Task,
    points: Sequence[Point],
    repeats: int,
    *,
    budget: Budget | None,
    say: Callable[[str], None],
) -> list[int]:
    """Return the seeds that every point is run with; under a budget perhaps fewer than asked."""
    seeds: list[int] = []
    for seed in range(FIRST_SEED, FIRST_SEED + repeats):
        more = [task.spec(point, each) for each in [*seeds, seed] for point in points]
        refusal = budget.refusal(more) if budget else None
        if refusal:
            say(f"{len(seeds)} of {repeats} repeats: {refusal}")
            break
        seeds.append(seed)
    return seeds


def _candidate(
    task: Task,
    point: Point,
    value: float | None,
    row: list[float],
    base: list[float],
    *,
    comparisons: int,
) -> Candidate:
    found = interval(row, base, comparisons=comparisons) if comparisons else None
    delta, low, high = found or (None, None, None)
    return Candidate(
        params=dict(point),
        run_id=task.spec(point).run_id,
        search_value=value,
        repeats=row,
        mean=float(np.mean(row)) if row else None,
        delta=delta,
        low=low,
        high=high,
        verdict="default" if not comparisons else _verdict(low, high),
    )


def _verdict(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "not repeated"
    if low <= 0 <= high:
        return "not separable"
    return "better" if high < 0 else "worse"


def _value_of(study: "optuna.Study", task: Task, point: Point) -> float | None:
    run_id = task.spec(point).run_id
    for trial in study.get_trials(deepcopy=False):
        if trial.user_attrs.get("run_id") == run_id and trial.state.name == "COMPLETE":
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
    return f"the best point is {best.verdict} than the default: {_point(asdict(best))}"


def _point(row: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in row["params"].items())
