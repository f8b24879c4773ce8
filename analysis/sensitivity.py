"""How much a fit owes to its loss, to one level of an axis, and to single runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis.document import ABSENT, FLAT, Document, Scalar
from analysis.fit import LawRegressor
from analysis.law import log_axes
from analysis.notes import Note, count_cells
from analysis.uncertainty import refit

DELTAS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SAME_LEVEL = 0.02  # difference of logarithms below which two values are one level
MAX_LEVELS = 12  # of an axis: more are no levels but a spread, cut into as many bands
MAX_RUNS = 1000  # more are ranked by their residuals first


@dataclass(frozen=True, slots=True, kw_only=True)
class Refit(Document):
    """Another fit of the law: its `shift` is the relative change of the prediction."""

    prediction: float
    shift: float
    params: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherLoss(Document):
    """The same rows under another loss or knee."""

    estimator: str
    cost: float
    refit: Refit = field(metadata=FLAT)


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelLeftOut(Document):
    """One level of an axis left out, or a twelfth of the rows: those between two values."""

    axis: str
    from_: float
    to: float
    num_left_out: int
    refit: Refit = field(metadata=FLAT)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLeftOut(Document):
    """One run left out; `standard_errors` is the shift in those of the prediction (NaN: none).

    `rows` count in the table that was fitted; `run` is its name where the fit was told.
    """

    rows: list[int]
    axes: dict[str, float]
    y: float
    residual: float
    standard_errors: float
    refit: Refit = field(metadata=FLAT)
    run: Scalar = field(default=None, metadata=ABSENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity(Document):
    """Fits beside the one that was made, and how far each moves the prediction at `target`.

    `levels` are left out one at a time where the rest still identifies the law; `runs` are the most
    influential ones, the greatest shift first.
    """

    law: str
    estimator: str
    target: dict[str, float]
    prediction: float
    estimators: tuple[OtherLoss, ...]
    levels: tuple[LevelLeftOut, ...]
    runs: tuple[RunLeftOut, ...]
    notes: tuple[Note, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return all rows as one table with a column a parameter."""
        rows = []
        for kind in ("estimators", "levels", "runs"):
            for row in getattr(self, kind):
                told = row.to_dict()
                rows.append({"kind": kind} | told | told.pop("params"))
        return pd.DataFrame(rows)


def sensitivity(
    reg: LawRegressor,
    *,
    deltas: Sequence[float] = DELTAS,
    target: Mapping[str, float] | None = None,
    most: int = 10,
    num_draws: int = 300,
) -> Sensitivity:
    """Refit a law under other losses, without each level, and without each run.

    Args:
        reg: a fitted regressor.
        deltas: Huber knees to try, beside LAD and least squares (none under a binomial loss).
        target: axis values of the prediction that is watched; twice the largest of each axis by
            default.
        most: how many runs to list.
        num_draws: refits behind the standard error of the prediction.

    Raises:
        ValueError: the regressor is not fitted, or the target lacks an axis.
    """
    if not hasattr(reg, "params_"):
        raise ValueError("sensitivity needs a fitted LawRegressor: call fit first")
    watch = _Watch(reg, target)
    levels, notes = _without_levels(reg, watch)
    return Sensitivity(
        law=reg.law.describe(),
        estimator=reg.estimator,
        target=watch.target,
        prediction=watch.prediction,
        estimators=tuple(_other_estimators(reg, watch, deltas)),
        levels=tuple(levels),
        runs=tuple(_without_runs(reg, watch, most, num_draws)),
        notes=tuple(notes),
    )


class _Watch:
    """One prediction, and how refits move it."""

    def __init__(self, reg: LawRegressor, target: Mapping[str, float] | None) -> None:
        self.reg = reg
        furthest = {a: 2.0 * float(np.exp(reg.data_.logx[a].max())) for a in reg.law.axes}
        self.target = {k: float(v) for k, v in (furthest if target is None else target).items()}
        at = {a: np.array([v]) for a, v in self.target.items()} or {"": np.ones(1)}
        self.logx = log_axes(reg.law, at)
        self.objective = reg._objective_at(self.logx)
        self.prediction = float(self.at(reg._theta[None])[0])

    def at(self, theta: np.ndarray) -> np.ndarray:
        """Return predictions [B] at the fit's centred parameters [B, p]."""
        there = self.objective.to_centred(self.reg._objective.from_centred(theta))
        return np.exp(self.objective.log_prediction(there)[:, 0])

    def refit(self, theta: np.ndarray) -> Refit:
        """Describe one refit [p]."""
        prediction = float(self.at(theta[None])[0])
        values = (float(v) for v in self.reg.to_natural(theta))
        return Refit(
            prediction=prediction,
            shift=prediction / self.prediction - 1.0,
            params=dict(zip(self.reg.law.param_names, values, strict=True)),
        )


def _other_estimators(reg: LawRegressor, watch: _Watch, deltas: Sequence[float]) -> list[OtherLoss]:
    if reg.loss == "binomial":
        return []
    rows, every = [], np.ones(reg.n_obs_, dtype=bool)
    for loss, delta in (*(("huber", d) for d in deltas), ("lad", reg.delta), ("ls", reg.delta)):
        other, theta = _fit_again(reg, every, loss=loss, delta=delta)
        refit = watch.refit(theta)
        rows.append(OtherLoss(estimator=other.estimator, cost=other.cost_, refit=refit))
    return rows


def _fit_again(
    reg: LawRegressor, rows: np.ndarray, **changes: Any
) -> tuple[LawRegressor, np.ndarray]:
    """Search the optimum on some rows [n] anew; return it also in the first fit's centring [p].

    Without a level the optimum may lie in another basin, which a warm start does not reach.
    """
    data = reg.data_
    X = {a: np.exp(v[rows]) for a, v in data.logx.items()}
    options = reg.get_params() | changes
    other = LawRegressor(**options).fit(X, data.y[rows], weights=data.weights[rows])
    return other, reg._objective.to_centred(other._objective.from_centred(other._theta))


def _without_levels(reg: LawRegressor, watch: _Watch) -> tuple[list[LevelLeftOut], list[Note]]:
    data, found, notes = reg.data_, [], []
    needed = int(np.isnan(reg._held).sum())
    for axis in reg.law.axes:
        bands, skipped = _bands(data.logx[axis]), 0
        for band in np.unique(bands):
            rest = bands != band
            if count_cells({a: v[rest] for a, v in data.logx.items()}) < needed:
                skipped += 1
                continue
            ends = np.exp(data.logx[axis][~rest])
            found.append(
                LevelLeftOut(
                    axis=axis,
                    from_=float(ends.min()),
                    to=float(ends.max()),
                    num_left_out=int((~rest).sum()),
                    refit=watch.refit(_fit_again(reg, rest)[1]),
                )
            )
        if skipped:
            message = f"{skipped} levels of {axis} cannot be left out: too few cells would remain"
            notes.append(Note(code="needed_level", message=message, value=skipped))
    return found, notes


def _bands(log_x: np.ndarray) -> np.ndarray:
    """Number the level of each row [n]; an axis without levels is cut into bands of equal count."""
    values, place = np.unique(log_x, return_inverse=True)
    level = np.cumsum(np.diff(values, prepend=values[:1]) > SAME_LEVEL)[place.reshape(-1)]
    if level.max() < MAX_LEVELS:
        return level
    rank = np.argsort(np.argsort(log_x, kind="stable"), kind="stable")
    band = rank * MAX_LEVELS // len(log_x)
    lowest = np.full(int(level.max()) + 1, MAX_LEVELS)
    np.minimum.at(lowest, level, band)
    return lowest[level]  # a level stays whole


def _without_runs(reg: LawRegressor, watch: _Watch, most: int, num_draws: int) -> list[RunLeftOut]:
    data = reg.data_
    size = np.bincount(data.groups, data.weights * np.abs(reg.residuals_))
    runs = np.argsort(-size, kind="stable")[:MAX_RUNS]
    if len(runs) < 2:
        return []
    kept = data.groups[None] != runs[:, None]
    theta = refit(reg, data.target, data.weights * kept)
    shift = watch.at(theta) / watch.prediction - 1.0
    spread = float("nan")
    if reg.df_ > 0 and num_draws > 1:
        spread = float(np.std(np.log(watch.at(reg.draws(num_draws, reg.seed))), ddof=1))
    found = []
    for i in np.argsort(-np.abs(shift), kind="stable")[:most]:
        rows = np.flatnonzero(data.groups == runs[i])
        found.append(
            RunLeftOut(
                rows=[int(r) for r in np.sort(data.order[rows])],
                axes={a: float(np.exp(v[rows[0]])) for a, v in data.logx.items() if a},
                y=float(data.y[rows].mean()),
                residual=float(reg.residuals_[rows].mean()),
                standard_errors=float(np.log1p(shift[i]) / spread) if spread > 0 else spread,
                refit=watch.refit(theta[i]),
            )
        )
    return found
