"""Which law the table supports: information criteria, held-out cells, forecasts, the floor test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from analysis.document import FLAT, Document
from analysis.fit import LawRegressor
from analysis.inputs import check_level, error_column, positive_column
from analysis.laws import Constant, Law, PowerLaw
from analysis.saturation import Saturation, saturation_test
from analysis.solving.objective import Loss
from analysis.table import AXIS_COLUMNS, axis_column, axis_frame, group_values

__all__ = [
    "Backtest",
    "Comparison",
    "Saturation",
    "backtest",
    "compare_laws",
    "default_laws",
    "saturation_test",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LawScore(Document):
    """One law of a comparison; `loo` and `backtest` are NaN where nothing could be held out."""

    law: str
    num_params: int
    cost: float
    sigma: float
    aicc: float
    bic: float
    loo: float
    backtest: float
    weight: float = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Document):
    """Laws side by side, the best by AICc first; `skipped` says why others are missing."""

    rows: tuple[LawScore, ...]
    best: str
    skipped: tuple[str, ...]
    estimator: str

    def to_frame(self) -> pd.DataFrame:
        """Return the table of laws."""
        return pd.DataFrame([row.to_dict() for row in self.rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast(Document):
    """The runs of the level ahead and what was forecast for each, with its prediction interval."""

    truth: list[float]
    mean: list[float]
    lower: list[float]
    upper: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut(Document):
    """One forecast; `forecast` is None, and `coverage` NaN, where no intervals were asked for."""

    forecast: Forecast | None = field(metadata=FLAT)
    trained_up_to: float
    predicted: float
    mare: float
    bias: float
    coverage: float
    num: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Backtest(Document):
    """Forecasts from an expanding window: each cut trains below and predicts the next level.

    `mare` and `bias` are the mean absolute and signed relative errors (prediction / truth - 1);
    `coverage` is the share of truths inside the prediction interval of `level`.
    """

    law: str
    by: str
    cuts: tuple[Cut, ...]
    mare: float
    bias: float
    coverage: float
    level: float
    num_predictions: int
    estimator: str


def default_laws(axis: str) -> tuple[Law, ...]:
    """List the forms that compete along one axis: flat, straight, bent towards a floor."""
    return (Constant(), PowerLaw(axis, offset=False), PowerLaw(axis))


def compare_laws(
    df: pd.DataFrame,
    laws: Sequence[Law],
    *,
    y: str = "val_l1",
    groups: str = "run_id",
    loss: Loss = "ls",
    delta: float = 1e-3,
    seed: int = 0,
    n_column: str = "num_params_total",
) -> Comparison:
    """Fit several laws to one table and rank them.

    AICc, BIC and weights use the normal likelihood of log residuals (parameters + 1 for sigma),
    whatever loss was minimised; `loo` is the mean absolute relative error on cells left out one at
    a time; `backtest` is that of `backtest` along the first axis of the law.

    Raises:
        ValueError: no law, an error column that is missing, mixed or not positive, or fewer than
            two laws (one, if only one is given) that the table identifies.
    """
    if not laws:
        raise ValueError("no law to compare: give one or more, such as default_laws('N')")
    error_column(df, y)
    found: list[LawScore] = []
    skipped: list[str] = []
    for law in laws:
        try:
            found.append(_score_law(df, law, (y, groups, n_column), (loss, delta, seed)))
        except ValueError as problem:
            skipped.append(f"{law.describe()}: {problem}")
    if len(found) < min(len(laws), 2):
        raise ValueError(f"nothing to compare: {'; '.join(skipped)}")
    least = min(row.aicc for row in found)
    # Akaike weights: Burnham and Anderson (2002)
    raw = [float(np.exp(-0.5 * (row.aicc - least))) for row in found]
    rows = [replace(row, weight=w / sum(raw)) for row, w in zip(found, raw, strict=True)]
    rows.sort(key=lambda row: row.aicc)
    estimator = LawRegressor(laws[0], loss=loss, delta=delta).estimator
    return Comparison(
        rows=tuple(rows), best=rows[0].law, skipped=tuple(skipped), estimator=estimator
    )


def _score_law(
    df: pd.DataFrame,
    law: Law,
    columns: tuple[str, str, str],
    options: tuple[Loss, float, int],
) -> LawScore:
    y, groups, n_column = columns
    loss, delta, seed = options
    X, values = axis_frame(df, law, n_column), df[y].to_numpy(dtype=float)
    reg = LawRegressor(law, loss=loss, delta=delta, seed=seed)
    reg.fit(X, values, groups=group_values(df, groups))
    n, k = reg.n_obs_, reg.n_obs_ - reg.df_ + 1
    if n <= k + 1:
        raise ValueError(f"{n} runs are too few for AICc with {k} parameters")
    rss = float((reg.residuals_**2).sum())
    # Twice the negative log-likelihood at its best sigma, up to a constant; AICc of Hurvich and
    # Tsai (1989), BIC of Schwarz (1978). Noiseless data have no logarithm: hence the least number.
    fit = n * np.log(max(rss / n, 1e-300))
    aicc = fit + 2 * k + 2 * k * (k + 1) / (n - k - 1)
    ahead = float("nan")
    if law.axes:
        try:
            how: dict[str, Any] = {"loss": loss, "delta": delta, "n_column": n_column}
            tested = backtest(df, law, law.axes[0], y=y, groups=groups, num_draws=0, **how)
            ahead = tested.mare
        except ValueError:
            ahead = float("nan")
    return LawScore(
        law=law.describe(),
        num_params=len(law.param_names),
        cost=reg.cost_,
        sigma=reg.sigma_,
        aicc=float(aicc),
        bic=float(fit + k * np.log(n)),
        loo=_leave_one_cell_out(X, values, reg),
        backtest=ahead,
    )


def _leave_one_cell_out(X: pd.DataFrame, y: np.ndarray, reg: LawRegressor) -> float:
    """Return the mean absolute relative error on each cell, predicted from all the others."""
    keys = list(X.columns)
    cells = X.groupby(keys, sort=False).ngroup().to_numpy() if keys else np.arange(len(y))
    errors = []
    for cell in np.unique(cells):
        out = cells == cell
        try:
            part = LawRegressor(**reg.get_params()).fit(X[~out], y[~out])
        except ValueError:
            return float("nan")
        errors.append(np.abs(_predict(part, X[out], int(out.sum())) / y[out] - 1).mean())
    return float(np.mean(errors))


def _predict(reg: LawRegressor, X: pd.DataFrame, n: int) -> np.ndarray:
    if not reg.law.axes:
        return np.full(n, reg.params_["E"])
    return np.asarray(reg.predict(X))


def backtest(
    df: pd.DataFrame,
    law: Law,
    by: str = "compute",
    *,
    y: str = "val_l1",
    groups: str = "run_id",
    loss: Loss = "ls",
    delta: float = 1e-3,
    level: float = 0.95,
    num_draws: int = 300,
    seed: int = 0,
    n_column: str = "num_params_total",
) -> Backtest:
    """Forecast each level of `by` from all the levels below it.

    Args:
        df: run table.
        law: the form.
        by: "compute" (column compute_flops or C; never guessed from N and D), an axis, or a column.
        level: of the prediction intervals whose coverage is counted.
        num_draws: refits behind each interval; 0 skips them (coverage is then NaN). With them each
            cut tells `truth`, `mean`, `lower` and `upper` of its runs.

    Raises:
        ValueError: a column is missing or not positive, or too few levels for even one forecast.
    """
    column = _order_column(df, by, n_column)
    check_level(level)
    reg = LawRegressor(law, loss=loss, delta=delta, seed=seed)
    X, values = axis_frame(df, law, n_column), error_column(df, y)
    order = positive_column(df, column)
    table = (X, values, group_values(df, groups))
    cuts = _cuts(reg, table, order, (level, num_draws))
    if not cuts:
        raise ValueError(f"no forecast possible: {len(np.unique(order))} levels of {column}")
    count = sum(cut.num for cut in cuts)
    return Backtest(
        law=law.describe(),
        by=column,
        cuts=tuple(cuts),
        mare=sum(cut.mare * cut.num for cut in cuts) / count,
        bias=sum(cut.bias * cut.num for cut in cuts) / count,
        coverage=sum(cut.coverage * cut.num for cut in cuts) / count,
        level=level,
        num_predictions=count,
        estimator=reg.estimator,
    )


def _order_column(df: pd.DataFrame, by: str, n_column: str) -> str:
    if by != "compute":
        return axis_column(by, list(df.columns), n_column)
    for name in ("C", AXIS_COLUMNS["C"]):
        if name in df.columns:
            return name
    raise ValueError(f"by={by!r} needs a column {AXIS_COLUMNS['C']!r}: FLOPs are never guessed")


def _cuts(
    reg: LawRegressor,
    table: tuple[pd.DataFrame, np.ndarray, np.ndarray],
    order: np.ndarray,
    band: tuple[float, int],
) -> list[Cut]:
    """Fit all levels up to each and forecast the next; levels that identify no law are left out."""
    X, values, run = table
    levels = np.unique(order)
    cuts = []
    for last, ahead in pairwise(levels):
        train, test = order <= last, order == ahead
        try:
            reg.fit(X[train], values[train], groups=run[train])
        except ValueError:
            continue
        if reg.df_ > 0:
            at = (float(last), float(ahead), *band)
            cuts.append(_forecast(reg, X[test], values[test], at))
    return cuts


def _forecast(
    reg: LawRegressor, X: pd.DataFrame, truth: np.ndarray, at: tuple[float, float, float, int]
) -> Cut:
    """Score one cut of a backtest."""
    error = np.asarray(reg.predict(X)) / truth - 1
    covered, forecast = float("nan"), None
    if at[3]:
        band = reg.predict(X, interval="prediction", level=at[2], num_draws=at[3])
        assert isinstance(band, pd.DataFrame)
        inside = (band["lower"].to_numpy() <= truth) & (truth <= band["upper"].to_numpy())
        covered = float(inside.mean())
        forecast = Forecast(truth=truth.tolist(), **{k: band[k].tolist() for k in band.columns})
    return Cut(
        forecast=forecast,
        trained_up_to=at[0],
        predicted=at[1],
        mare=float(np.abs(error).mean()),
        bias=float(error.mean()),
        coverage=covered,
        num=len(truth),
    )
