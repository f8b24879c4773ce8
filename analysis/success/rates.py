"""Success rates as counts: intervals, spread beyond chance, and laws of failure by likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.special import betaincinv, chdtrc

from analysis.document import FLAT, Document, Scalar
from analysis.fit import LawRegressor
from analysis.inputs import check_columns, check_level
from analysis.law import Law
from analysis.table import axis_frame, group_values

SUCCESSES, TRIALS = "successes", "rollouts"  # columns of the run table


@dataclass(frozen=True, slots=True, kw_only=True)
class RateCell(Document):
    """Runs of equal settings pooled: their rate and its exact interval."""

    settings: dict[str, Scalar] = field(metadata=FLAT)
    rate: float
    lower: float
    upper: float
    successes: int
    trials: int
    num_runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SuccessRates(Document):
    """Pooled rates a cell, each with an exact interval; and whether runs of a cell agree.

    `overdispersion` is Pearson's chi-square over its degrees of freedom within cells: 1 where
    runs differ by chance alone; `p_value` is that of chance (both NaN without repeats).
    """

    cells: tuple[RateCell, ...]
    overdispersion: float
    p_value: float
    degrees_of_freedom: int
    level: float

    def to_frame(self) -> pd.DataFrame:
        """Return the cells as a table."""
        return pd.DataFrame([cell.to_dict() for cell in self.cells])


def exact_interval(
    successes: np.ndarray, trials: np.ndarray, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Return Clopper and Pearson's interval of each rate [n]: never too short, closed at 0 and 1.

    Raises:
        ValueError: counts that are no counts.
    """
    check_level(level)
    k, n = np.asarray(successes, dtype=float), np.asarray(trials, dtype=float)
    whole = (k == np.rint(k)) & (n == np.rint(n))
    bad = ~(whole & np.isfinite(k) & np.isfinite(n) & (n > 0) & (k >= 0) & (k <= n))
    if bad.any():
        raise ValueError(
            f"{int(bad.sum())} of {bad.size} counts are not whole numbers with 0 <= successes <= "
            "trials and trials > 0"
        )
    # Quantiles of the beta distribution (Clopper and Pearson 1934). SciPy's proportion_ci searches
    # the same ends, one rate at a time.
    tail = 0.5 - level / 2
    low = np.where(k > 0, betaincinv(np.maximum(k, 1), n - k + 1, tail), 0.0)
    high = np.where(k < n, betaincinv(k + 1, np.maximum(n - k, 1), 1 - tail), 1.0)
    return low, high


def success_rates(
    df: pd.DataFrame,
    *,
    by: Sequence[str],
    successes: str = "successes",
    trials: str = "rollouts",
    level: float = 0.95,
) -> SuccessRates:
    """Pool successes within cells of equal settings and test whether their runs agree.

    Args:
        df: one row a run with counts.
        by: columns that define a cell.
        successes: column of successful episodes.
        trials: column of episodes.
        level: of the intervals.

    Raises:
        ValueError: a column is missing, or counts that are no counts.
    """
    if not by:
        raise ValueError("by=[]: name the columns that define a cell")
    check_columns(df, *by, successes, trials)
    exact_interval(df[successes].to_numpy(), df[trials].to_numpy(), level)  # checks the counts
    cells, chi, free = [], 0.0, 0
    for values, rows in df.groupby(list(by), dropna=False, sort=True):
        k, n = rows[successes].to_numpy(dtype=float), rows[trials].to_numpy(dtype=float)
        rate = k.sum() / n.sum()
        cells.append(_pooled(dict(zip(by, values, strict=True)), k, n, level))
        if len(rows) > 1 and 0 < rate < 1:
            chi += float(((k - n * rate) ** 2 / (n * rate * (1 - rate))).sum())
            free += len(rows) - 1
    nan = float("nan")
    return SuccessRates(
        cells=tuple(cells),
        overdispersion=chi / free if free else nan,
        p_value=float(chdtrc(free, chi)) if free else nan,
        degrees_of_freedom=free,
        level=level,
    )


def _pooled(settings: dict[str, Scalar], k: np.ndarray, n: np.ndarray, level: float) -> RateCell:
    """Return the rate of all runs [m] of a cell together."""
    low, high = exact_interval(k.sum(keepdims=True), n.sum(keepdims=True), level)
    return RateCell(
        settings=settings,
        rate=float(k.sum() / n.sum()),
        lower=float(low[0]),
        upper=float(high[0]),
        successes=int(k.sum()),
        trials=int(n.sum()),
        num_runs=len(k),
    )


def fit_failures(
    df: pd.DataFrame,
    law: Law,
    *,
    successes: str = "successes",
    trials: str = "rollouts",
    groups: str = "run_id",
    seed: int = 0,
    n_column: str = "num_params_total",
) -> LawRegressor:
    """Fit a law to the probability of failure by the binomial likelihood, never to a rate.

    `predict` then gives the failure rate; `bootstrap`, bands and profiles follow the likelihood.

    Raises:
        ValueError: a column is missing, or counts that are no counts.
    """
    check_columns(df, successes, trials)
    k, n = df[successes].to_numpy(dtype=float), df[trials].to_numpy(dtype=float)
    exact_interval(k, n)
    reg = LawRegressor(law, loss="binomial", seed=seed)
    X = axis_frame(df, law, n_column)
    return reg.fit(X, 1.0 - k / n, weights=n, groups=group_values(df, groups))
