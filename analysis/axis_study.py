"""One axis of a study: its trend, law, saturation, rivals and forecasts, or why there are none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit  # scipy.stats takes longer to import than a study

from analysis.document import ABSENT, FLAT, Document, Scalar
from analysis.estimator import FitOptions
from analysis.fit import LawRegressor
from analysis.law_fit import Interval, LawCurve, LawFit, describe_fit
from analysis.laws import PowerLaw
from analysis.next_runs import NextRuns, next_runs
from analysis.notes import MIN_LEVELS, Note, Refused, Skipped
from analysis.saturation import Saturation, judge_saturation, saturation_test
from analysis.select import Backtest, Comparison, backtest, compare_laws, default_laws
from analysis.table import Slice, axis_frame, axis_label, axis_slice, group_values

CURVE_POINTS = 80  # drawn straight in between: less than a line's width from the curve
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point(Document):
    """One run along an axis; what the table does not say is None."""

    x: float
    y: float
    run_id: Scalar = field(default=None, metadata=ABSENT)
    seed: Scalar = field(default=None, metadata=ABSENT)
    size: Scalar = field(default=None, metadata=ABSENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisData(Document):
    """The runs along an axis, and at what all else is `held` (`_of_many`: where others exist).

    `num_seeds` is None where the table does not say.
    """

    column: str
    label: str
    num_levels: int
    num_runs: int
    num_seeds: int | None
    held: dict[str, Scalar]
    held_of_many: dict[str, Scalar]
    points: tuple[Point, ...]
    notes: tuple[Note, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend(Document):
    """Whether y falls with x: `elasticity` is minus the slope of log y on log x.

    `interval` is Student's, `p_value` the two-sided one of no slope; NaN with two runs.
    """

    verdict: Literal["falls", "rises", "does not fall"]
    elasticity: float
    interval: Interval
    p_value: float
    df: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve(LawCurve):
    """A fitted curve with the band of new runs as well."""

    run_lower: list[float]
    run_upper: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisLaw(Document):
    """Everything that follows from the law fitted along one axis."""

    status: Literal["fitted"] = field(default="fitted", init=False)
    law: LawFit
    curve: Curve
    saturation: Saturation
    comparison: Comparison | Skipped
    backtest: Backtest | Skipped
    next_runs: NextRuns | Skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisFit(Document):
    """One axis judged: its runs where the table has the axis, their trend from three levels on."""

    axis: str
    data: AxisData | None = field(metadata=FLAT)
    trend: Trend | None = field(default=None, metadata=ABSENT)
    outcome: AxisLaw | Refused = field(metadata=FLAT)

    @property
    def label(self) -> str:
        """What the axis is called in figures and sentences."""
        return self.data.label if self.data else self.axis

    @property
    def fitted(self) -> AxisLaw | None:
        """The law and what follows from it; None where it was refused."""
        return self.outcome if isinstance(self.outcome, AxisLaw) else None


def fit_axis(clean: pd.DataFrame, axis: str, how: FitOptions) -> AxisFit:
    """Judge one axis: trend, law, saturation, rivals, forecasts; or say why not."""
    try:
        found = axis_slice(clean, axis, n_column=how.n_column, hold=how.hold)
    except ValueError as problem:
        return AxisFit(axis=axis, data=None, outcome=Refused(reason=str(problem)))
    rows, data = found.rows, _describe(clean, found, how)
    if found.num_levels < MIN_LEVELS:
        reason = f"{found.num_levels} levels; a law needs {MIN_LEVELS} or more with all else equal"
        return AxisFit(axis=axis, data=data, outcome=Refused(reason=reason))
    slope = trend(rows[found.column], rows[how.y], level=how.level)
    reg = how.regressor(PowerLaw(axis))
    try:
        X = axis_frame(rows, reg.law, how.n_column)
        reg.fit(X, rows[how.y], groups=group_values(rows, how.groups))
    except ValueError as problem:
        return AxisFit(axis=axis, data=data, trend=slope, outcome=Refused(reason=str(problem)))
    ahead = attempt(next_runs, clean, axis, how, rises=slope.verdict == "rises")
    return AxisFit(axis=axis, data=data, trend=slope, outcome=_judge(reg, rows, how, ahead))


def _describe(clean: pd.DataFrame, found: Slice, how: FitOptions) -> AxisData:
    return AxisData(
        column=found.column,
        label=axis_label(found.axis, how.n_column),
        num_levels=found.num_levels,
        num_runs=len(found.rows),
        num_seeds=num_seeds(found.rows),
        held=found.held,
        held_of_many={k: v for k, v in found.held.items() if clean[k].nunique() > 1},
        points=tuple(_points(found, how)),
        notes=found.notes,
    )


def _judge(
    reg: LawRegressor, rows: pd.DataFrame, how: FitOptions, ahead: NextRuns | Skipped
) -> AxisLaw:
    """Return everything that follows from one fitted axis."""
    law, axis = reg.law, reg.law.axes[0]
    columns: dict[str, Any] = {"y": how.y, "groups": how.groups, "n_column": how.n_column}
    loss: dict[str, Any] = {"loss": how.loss, "delta": how.delta}
    if reg.df_ > 0:
        saturation = judge_saturation(reg, level=how.level, num_draws=how.num_draws)
    else:
        saturation = saturation_test(rows, axis, level=how.level, **columns)
    return AxisLaw(
        law=describe_fit(reg, how, group_values(rows, how.groups)),
        curve=_curve(reg, axis, how),
        saturation=saturation,
        comparison=attempt(compare_laws, rows, default_laws(axis), **columns, **loss),
        backtest=attempt(backtest, rows, law, axis, **columns, **loss, level=how.level,
                         seed=how.seed),
        next_runs=ahead,
    )  # fmt: skip


def trend(x: Any, y: Any, *, level: float = 0.95) -> Trend:
    """Judge whether y [n] falls with x [n]: the slope of log y on log x, Student's interval."""
    u, v = np.log(np.asarray(x, dtype=float)), np.log(np.asarray(y, dtype=float))
    u = u - u.mean()
    slope = float(u @ v / (u @ u))
    df = len(u) - 2
    nan = float("nan")
    if df < 1:
        return Trend(verdict="does not fall", elasticity=-slope, interval=(nan, nan), p_value=nan,
                     df=df)  # fmt: skip
    rest = v - v.mean() - slope * u
    # a perfect line has no error and yet a sign
    error = max(float(np.sqrt(rest @ rest / df / (u @ u))), 1e-300)
    half = float(stdtrit(df, 0.5 + level / 2)) * error
    low, high = -slope - half, -slope + half
    return Trend(
        verdict="falls" if low > 0 else "rises" if high < 0 else "does not fall",
        elasticity=-slope,
        interval=(low, high),
        p_value=float(2 * stdtr(df, -abs(slope) / error)),
        df=df,
    )


def num_seeds(rows: pd.DataFrame) -> int | None:
    """Count the seeds of a table; None where it does not say."""
    return int(rows["seed"].nunique()) if "seed" in rows.columns else None


def attempt(analysis: Callable[..., T], *arguments: Any, **options: Any) -> T | Skipped:
    """Call an analysis; where the data cannot carry it, return the reason."""
    try:
        return analysis(*arguments, **options)
    except ValueError as problem:
        return Skipped(refused=str(problem))


def _points(found: Slice, how: FitOptions) -> list[Point]:
    keep = {"x": found.column, "y": how.y, "run_id": how.groups, "seed": "seed", "size": "size"}
    have = {k: c for k, c in keep.items() if c in found.rows.columns}
    table = found.rows[list(have.values())].set_axis(list(have), axis=1)
    return [
        Point(**{str(k): v.item() if hasattr(v, "item") else v for k, v in row.items()})
        for row in table.sort_values(["x", "y"]).to_dict("records")
    ]


def _curve(reg: LawRegressor, axis: str, how: FitOptions) -> Curve:
    """Return the fitted curve and both bands from the first level to twice the last."""
    logx = reg.data_.logx[axis]
    x = np.exp(np.linspace(logx.min(), logx.max() + np.log(2), CURVE_POINTS))
    band = reg.predict(pd.DataFrame({axis: x}), "confidence", how.level, num_draws=how.num_draws)
    assert isinstance(band, pd.DataFrame)
    # Asked point by point, every point gets the same noise, and the band is smooth.
    new = []
    for value in x:
        at = pd.DataFrame({axis: [value]})
        run = reg.predict(at, "prediction", how.level, num_draws=how.num_draws)
        assert isinstance(run, pd.DataFrame)
        new.append(run)
    runs = pd.concat(new)
    return Curve(
        x=x.tolist(),
        x_last=float(np.exp(logx.max())),
        mean=band["mean"].tolist(),
        lower=band["lower"].tolist(),
        upper=band["upper"].tolist(),
        run_lower=runs["lower"].tolist(),
        run_upper=runs["upper"].tolist(),
    )
