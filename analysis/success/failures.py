"""Closed-loop failure of a study: pooled rates with exact intervals, and a law along each axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from scipy.special import ndtr

from analysis.document import FLAT, Document, Scalar
from analysis.estimator import FitOptions
from analysis.fit import LawRegressor
from analysis.law_fit import LawCurve, LawFit, describe_fit
from analysis.laws import PowerLaw
from analysis.notes import MIN_LEVELS, Refused
from analysis.ranking import varying_settings
from analysis.success.rates import (
    SUCCESSES,
    TRIALS,
    RateCell,
    exact_interval,
    fit_failures,
    success_rates,
)
from analysis.table import Slice, axis_label, axis_slice, group_values

CURVE_POINTS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureCell(Document):
    """The failure rate of equal settings, pooled, with Clopper and Pearson's interval."""

    settings: dict[str, Scalar] = field(metadata=FLAT)
    failure: float
    lower: float
    upper: float
    failures: int
    rollouts: int
    num_runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FailurePoint(Document):
    """One run: value of the axis, failure rate and its exact interval, in shares."""

    run_id: str
    x: float
    y: float
    lower: float
    upper: float
    rollouts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureLaw(Document):
    """The law of failure along one axis, with what all else is held at."""

    status: Literal["fitted"] = field(default="fitted", init=False)
    num_runs: int
    held: dict[str, Scalar]
    law: LawFit
    points: list[FailurePoint]
    curve: LawCurve


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureAxis(Document):
    """One axis: its law, or why there is none."""

    axis: str
    label: str
    outcome: FailureLaw | Refused = field(metadata=FLAT)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureStudy(Document):
    """Failure by setting and along each axis.

    `overdispersion` and `p_value` are of "runs of a cell differ by chance alone" (`SuccessRates`).
    """

    num_runs: int
    level: float
    cells: list[FailureCell]
    overdispersion: float
    p_value: float
    axes: dict[str, FailureAxis]


def failure_study(clean: pd.DataFrame, axes: Sequence[str], how: FitOptions) -> FailureStudy | None:
    """Return failure rates by setting and a failure law along each axis; None without rollouts.

    Args:
        clean: clean run table; runs without counts are left out.
        axes: the study's axes.
        how: options; the loss is the binomial likelihood whatever they say.
    """
    if not {SUCCESSES, TRIALS} <= set(clean.columns):
        return None
    rows = clean[clean[SUCCESSES].notna() & (clean[TRIALS] > 0)]
    if rows.empty:
        return None
    by = varying_settings(rows, how.n_column, how.hold)
    rates = success_rates(rows.assign(**{"": 0}), by=by or [""], level=how.level)
    return FailureStudy(
        num_runs=len(rows),
        level=how.level,
        cells=[_failure(cell) for cell in rates.cells],
        overdispersion=rates.overdispersion,
        p_value=rates.p_value,
        axes={axis: _fit_axis(rows, axis, how) for axis in axes},
    )


def _failure(cell: RateCell) -> FailureCell:
    """Turn a pooled success rate into one of failure."""
    return FailureCell(
        settings={k: v for k, v in cell.settings.items() if k},
        failure=1.0 - cell.rate,
        lower=1.0 - cell.upper,
        upper=1.0 - cell.lower,
        failures=cell.trials - cell.successes,
        rollouts=cell.trials,
        num_runs=cell.num_runs,
    )


def _fit_axis(rows: pd.DataFrame, axis: str, how: FitOptions) -> FailureAxis:
    """Fit the failure law along one axis, or say why not."""
    label = axis_label(axis, how.n_column)
    try:
        return FailureAxis(axis=axis, label=label, outcome=_fit_law(rows, axis, how))
    except ValueError as problem:
        return FailureAxis(axis=axis, label=label, outcome=Refused(reason=str(problem)))


def _fit_law(rows: pd.DataFrame, axis: str, how: FitOptions) -> FailureLaw:
    found = axis_slice(rows, axis, n_column=how.n_column, hold=how.hold)
    if found.num_levels < MIN_LEVELS:
        raise ValueError(f"{found.num_levels} levels with rollouts; a law needs {MIN_LEVELS}")
    _require_fall(found, how)
    reg = fit_failures(found.rows, PowerLaw(axis), groups=how.groups, seed=how.seed,
                       n_column=how.n_column)  # fmt: skip
    return FailureLaw(
        num_runs=len(found.rows),
        held=found.held,
        law=describe_fit(reg, how, group_values(found.rows, how.groups)),
        points=_points(found.rows, found.column, how),
        curve=_curve(reg, axis, how),
    )


def _require_fall(found: Slice, how: FitOptions) -> None:
    """Raise where the failure rate does not fall along the axis beyond chance: there is no law."""
    x = found.rows[found.column].to_numpy(dtype=float)
    k, n = (found.rows[c].to_numpy(dtype=float) for c in (SUCCESSES, TRIALS))
    if (k == n).all() or not k.any():
        words = "succeeded" if not k.any() else "failed"
        raise ValueError(f"none of {int(n.sum())} rollouts {words}")
    z, p = failure_trend(x, n - k, n)
    if p >= 1 - how.level or z > 0:
        words = "rises" if z > 0 and p < 1 - how.level else "does not fall measurably"
        raise ValueError(f"the failure rate {words} (trend test p = {p:.2g})")


def failure_trend(x: np.ndarray, failures: np.ndarray, trials: np.ndarray) -> tuple[float, float]:
    """Test whether failure counts [n] change with log x; return z (negative: they fall) and p.

    Cochran and Armitage's test, its variance multiplied by the spread of runs of one level beyond
    chance where there is any.
    """
    # Armitage (1955): the scores are the logarithms of the levels, as the law is one of log x
    rate = failures.sum() / trials.sum()
    place = np.log(x) - np.log(x) @ trials / trials.sum()
    chance = rate * (1 - rate) * float(trials @ place**2)
    table = pd.DataFrame({"x": x, SUCCESSES: trials - failures, TRIALS: trials})
    spread = success_rates(table, by=["x"]).overdispersion
    excess = spread if spread > 1 else 1.0  # NaN without repeats
    z = float((failures - trials * rate) @ place / np.sqrt(chance * excess))
    return z, float(2 * ndtr(-abs(z)))


def _points(rows: pd.DataFrame, column: str, how: FitOptions) -> list[FailurePoint]:
    k, n = (rows[c].to_numpy(dtype=float) for c in (SUCCESSES, TRIALS))
    low, high = exact_interval(n - k, n, how.level)
    x, names = rows[column].to_numpy(dtype=float), group_values(rows, how.groups)
    return [
        FailurePoint(run_id=str(name), x=a, y=f / m, lower=lo, upper=hi, rollouts=int(m))
        for name, a, f, m, lo, hi in zip(names, x, n - k, n, low, high, strict=True)
    ]


def _curve(reg: LawRegressor, axis: str, how: FitOptions) -> LawCurve:
    """Return the fitted failure rate with its confidence band, to twice the last level."""
    logx = reg.data_.logx[axis]
    x = np.exp(np.linspace(logx.min(), logx.max() + np.log(2), CURVE_POINTS))
    band = reg.predict(pd.DataFrame({axis: x}), "confidence", how.level, num_draws=how.num_draws)
    assert isinstance(band, pd.DataFrame)
    # beyond the data a refit may rise above certainty; a rate does not
    ends = {k: band[k].clip(upper=1.0).tolist() for k in ("mean", "lower", "upper")}
    return LawCurve(x=x.tolist(), x_last=float(np.exp(logx.max())), **ends)
