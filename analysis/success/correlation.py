"""Does one error foretell another result? Rank correlation between two columns of runs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from math import factorial
from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy.stats import spearmanrho

from analysis.document import Document
from analysis.inputs import check_level
from analysis.notes import Note
from analysis.uncertainty import ends

MIN_RUNS = 4  # three runs have six orders: no p-value below 1/6
EXACT_PERMUTATIONS = 5040  # of seven runs
Alternative = Literal["less", "greater", "two-sided"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation(Document):
    """Rank correlations of two columns over runs.

    `spearman` and `kendall` (tau-b) come with bootstrap intervals that resample runs; `p_value`
    is a permutation test of Spearman's coefficient. `corrected` divides Spearman's by the square
    root of the rate's reliability: what it would be with endless episodes (NaN without trials, or
    where noise explains all spread).
    """

    x: str
    y: str
    spearman: float
    spearman_interval: tuple[float, float]
    kendall: float
    kendall_interval: tuple[float, float]
    p_value: float
    alternative: Alternative
    corrected: float
    level: float
    num_runs: int
    notes: tuple[Note, ...]


def correlation_study(
    df: pd.DataFrame,
    *,
    x: str = "val_l1",
    y: str = "success_rate",
    successes: str | None = None,
    trials: str | None = None,
    groups: str = "run_id",
    alternative: Alternative = "two-sided",
    level: float = 0.95,
    num_draws: int = 2000,
    seed: int = 0,
) -> Correlation:
    """Correlate the ranks of two columns, one value a run (the claim of the paper's Table 1).

    Args:
        df: run table; rows of one run are averaged first.
        x: an error, such as validation l1.
        y: a result, such as a closed-loop success rate; ignored where `successes` is given.
        successes: column of successful episodes.
        trials: column of episodes; with `successes`, or beside the rate `y`.
        groups: the run's column; absent, each row is a run.
        alternative: of the permutation test; "less" if a smaller error should succeed more.
        level: of the intervals.
        num_draws: resamples, and permutations where all are too many.
        seed: of both.

    Raises:
        ValueError: a column is missing, fewer than four usable runs, a constant column, or counts
            that are no counts.
    """
    check_level(level)
    if alternative not in get_args(Alternative):
        raise ValueError(f"alternative={alternative!r}: choose from {get_args(Alternative)}")
    table, label = _one_row_a_run(df, (x, y, successes, trials), groups)
    (a, b, count), dropped = _complete(table, (x, label))
    rng = np.random.default_rng(seed)
    rho = float(spearmanrho(a, b).statistic)
    rows = rng.integers(0, len(a), size=(num_draws, len(a)))
    return Correlation(
        x=x,
        y=label,
        spearman=rho,
        spearman_interval=_interval(spearmanrho(a[rows], b[rows], axis=1).statistic, level),
        kendall=float(kendall(a[None], b[None])[0]),
        kendall_interval=_interval(kendall(a[rows], b[rows]), level),
        p_value=_permutation_p(a, b, alternative, (num_draws, rng)),
        alternative=alternative,
        corrected=_corrected(rho, b, count),
        level=level,
        num_runs=len(a),
        notes=tuple(_notes(b, dropped, count)),
    )


def kendall(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Kendall's tau-b of each pair of rows [B, n] -> [B]; NaN for constant rows.

    SciPy's goes row by row: for the bootstrap of 20 runs that is twenty times as long.
    """
    left, right = np.triu_indices(a.shape[1], 1)
    sign_a, sign_b = np.sign(a[:, left] - a[:, right]), np.sign(b[:, left] - b[:, right])
    size = np.sqrt((sign_a**2).sum(axis=1) * (sign_b**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(size > 0, (sign_a * sign_b).sum(axis=1) / size, np.nan)


def _one_row_a_run(
    df: pd.DataFrame, columns: tuple[str, str, str | None, str | None], groups: str
) -> tuple[pd.DataFrame, str]:
    """Return columns x, y (and trials) with one row a run, and what y is called."""
    x, y, successes, trials = columns
    needed = [x, *([successes, trials] if successes else [y, *([trials] if trials else [])])]
    if successes and not trials:
        raise ValueError(f"successes={successes!r} needs trials=: of how many episodes")
    missing = [c for c in needed if c not in df.columns]
    if missing:
        raise ValueError(f"no columns {missing}: the table has {list(df.columns)}")
    key = df[groups] if groups in df.columns else pd.Series(np.arange(len(df)), index=df.index)
    numbers = df[needed].apply(pd.to_numeric, errors="coerce")
    numbers = numbers.replace([np.inf, -np.inf], np.nan)
    by_run = numbers.groupby(key.to_numpy(), sort=True)
    table = pd.DataFrame({"x": by_run[x].mean()})
    if trials:
        table["trials"] = by_run[trials].sum(min_count=1)
    if successes:
        table["y"] = by_run[successes].sum(min_count=1) / table["trials"]
        bad = int(((table["y"] < 0) | (table["y"] > 1) | (table["trials"] <= 0)).sum())
        if bad:
            raise ValueError(f"{bad} runs have {successes} below 0 or above {trials}: check both")
        return table, f"{successes} / {trials}"
    table["y"] = by_run[y].mean()
    if trials and ((table["y"] < 0) | (table["y"] > 1)).any():
        raise ValueError(f"{y!r} beside {trials!r} must be a rate between 0 and 1")
    return table, y


def _complete(
    table: pd.DataFrame, names: tuple[str, str]
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray | None], int]:
    """Return x, y and trials of the runs with both [n] and how many lack one; raise if no ranks."""
    usable = table[["x", "y"]].notna().all(axis=1)
    kept = table[usable]
    if len(kept) < MIN_RUNS:
        raise ValueError(
            f"{len(kept)} runs with both {names[0]!r} and {names[1]!r}: a rank correlation needs "
            f"{MIN_RUNS}"
        )
    for column, name in zip(("x", "y"), names, strict=True):
        if kept[column].nunique() < 2:
            raise ValueError(f"{name!r} is constant over {len(kept)} runs: it has no ranks")
    count = kept["trials"].to_numpy(dtype=float) if "trials" in kept.columns else None
    found = kept["x"].to_numpy(dtype=float), kept["y"].to_numpy(dtype=float), count
    return found, int((~usable).sum())


def _interval(drawn: np.ndarray, level: float) -> tuple[float, float]:
    low, high = ends(drawn, level)
    return float(low), float(high)


def _permutation_p(
    a: np.ndarray, b: np.ndarray, alternative: Alternative, how: tuple[int, np.random.Generator]
) -> float:
    """Test Spearman's coefficient against all orders, or random ones where they are too many."""
    num_draws, rng = how
    observed = spearmanrho(a, b).statistic
    if factorial(len(b)) <= EXACT_PERMUTATIONS:
        orders, extra = np.array(list(permutations(range(len(b))))), 0
    else:
        orders, extra = np.argsort(rng.random((num_draws, len(b))), axis=1), 1
    drawn = spearmanrho(np.broadcast_to(a, orders.shape), b[orders], axis=1).statistic
    if alternative == "two-sided":
        drawn, observed = np.abs(drawn), abs(observed)
    # equal coefficients differ by rounding, and must count as reached
    more = drawn <= observed + 1e-12 if alternative == "less" else drawn >= observed - 1e-12
    # of random orders the observed one counts as drawn: p is never 0 (Phipson and Smyth 2010)
    return float((more.sum() + extra) / (len(orders) + extra))


def _corrected(rho: float, rate: np.ndarray, trials: np.ndarray | None) -> float:
    """Divide by the square root of the rate's reliability (Spearman 1904)."""
    if trials is None:
        return float("nan")
    noise, spread = _chance(rate, trials), float(rate.var(ddof=1))
    if spread <= noise:
        return float("nan")
    return float(np.clip(rho / np.sqrt(1 - noise / spread), -1, 1))


def _chance(rate: np.ndarray, trials: np.ndarray) -> float:
    """Return the variance that rates [n] have by the chance of their episodes alone."""
    return float((rate * (1 - rate) / np.maximum(trials - 1, 1)).mean())


def _notes(rate: np.ndarray, dropped: int, trials: np.ndarray | None) -> list[Note]:
    notes = []
    if dropped:
        message = f"{dropped} runs without one of both values left out"
        notes.append(Note(code="no_value", message=message, value=dropped))
    if len(rate) < 10:
        message = f"{len(rate)} runs: the interval is wide and rough; ten or more are better"
        notes.append(Note(code="few_runs", message=message, value=len(rate)))
    if trials is not None and float(rate.var(ddof=1)) <= (noise := _chance(rate, trials)):
        message = "the rates differ no more than chance does: more episodes a run are needed"
        notes.append(Note(code="rates_are_noise", message=message, value=noise))
    return notes
