"""Fit a whole study: every axis judged, its law with intervals, the joint law where identified."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from analysis.fit import LawRegressor
from analysis.laws import Additive, Law, PowerLaw
from analysis.notes import MIN_LEVELS, SPARE_CELLS, Note, count_cells
from analysis.objective import Link, Loss
from analysis.saturation import judge_saturation, saturation_test
from analysis.select import backtest, compare_laws, default_laws
from analysis.table import (
    Slice,
    axis_frame,
    axis_label,
    axis_slice,
    clean_runs,
    find_axes,
    group_values,
)
from analysis.uncertainty import noise_floor

SCHEMA = 1
BASELINES = {
    "mean_chunk": "baseline_mean_chunk_l1",
    "hold": "baseline_hold_l1",
}
CURVE_POINTS = 80
Trend = Literal["falls", "rises", "does not fall"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """How every law of a study is fitted: named with every number that comes out."""

    y: str = "val_l1"
    groups: str = "run_id"
    n_column: str = "num_params_total"
    loss: Loss = "huber"
    delta: float = 1e-3
    link: Link = "log"
    level: float = 0.95
    num_draws: int = 1000
    seed: int = 0

    def regressor(self, law: Law) -> LawRegressor:
        """Return an unfitted regressor with these options."""
        return LawRegressor(law, loss=self.loss, delta=self.delta, link=self.link, seed=self.seed)


def fit_study(
    runs: pd.DataFrame,
    *,
    study: str = "table",
    axes: Sequence[str] | Literal["auto"] = "auto",
    options: FitOptions | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Fit the laws of a study; what the data cannot carry is refused with its reason.

    Args:
        runs: one row a run (runs.parquet, or any table with an error and axis columns).
        study: its name.
        axes: "N", "D", "episodes", "domains" or columns; "auto" takes those that vary.
        options: see `FitOptions`; single fields may be given as keywords instead.

    Returns:
        Plain data for JSON: per axis `trend`, `law`, `saturation`, `comparison`, `backtest`,
        `points` and `curve`, or `status: refused` and a `reason`; the `joint` law; the
        `noise_floor`; the record to refit (estimator, delta, seed, data hash). An open end of an
        interval, and a number that does not exist, is None.

    Raises:
        ValueError: no such column, a run given twice, or not one usable row.
    """
    how = options or FitOptions(**changes)
    clean, notes = clean_runs(runs, how.y, how.groups)
    if clean.empty:
        told = "; ".join(n.message for n in notes) or "the table is empty"
        raise ValueError(f"no usable run in {study}: {told}")
    names = find_axes(clean, how.n_column) if axes == "auto" else list(axes)
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "study": study,
        "y": how.y,
        "n_column": how.n_column,
        "estimator": how.regressor(PowerLaw()).estimator,
        "loss": how.loss,
        "delta": how.delta,
        "link": how.link,
        "level": how.level,
        "seed": how.seed,
        "num_runs": len(clean),
        "num_seeds": _num_seeds(clean),
        "data_sha256": data_hash(clean, how.y),
        "noise_floor": _noise(clean, how),
        "baselines": baselines(clean),
        "notes": [n.to_dict() for n in notes],
        "axes": {axis: fit_axis(clean, axis, how) for axis in names},
    }
    document["joint"] = fit_joint(clean, names, how)
    return jsonable(document)


def jsonable(value: Any) -> Any:
    """Turn data into what strict JSON can hold: NaN and infinities (open ends) become null."""
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def data_hash(table: pd.DataFrame, y: str) -> str:
    """Return sha256 over the rows that were fitted, whatever their order."""
    columns = sorted(c for c in table.columns if table[c].dtype.kind in "iuf" or c == y)
    rows = sorted(table[columns].to_csv(index=False, header=False).splitlines())
    return hashlib.sha256("\n".join([",".join(columns), *rows]).encode()).hexdigest()


def baselines(table: pd.DataFrame) -> dict[str, float]:
    """Return the trivial predictors' errors: the median over runs, each on the same frames."""
    found = {}
    for name, column in BASELINES.items():
        if column in table.columns and table[column].notna().any():
            found[name] = float(table[column].median())
    return found


def fit_axis(clean: pd.DataFrame, axis: str, how: FitOptions) -> dict[str, Any]:
    """Judge one axis: trend, law, saturation, rivals, forecasts; or say why not."""
    try:
        found = axis_slice(clean, axis, n_column=how.n_column)
    except ValueError as problem:
        return {"axis": axis, "status": "refused", "reason": str(problem)}
    rows = found.rows
    about: dict[str, Any] = {
        "axis": axis,
        "column": found.column,
        "label": axis_label(axis, how.n_column),
        "num_levels": found.num_levels,
        "num_runs": len(rows),
        "num_seeds": _num_seeds(rows),
        "held": found.held,
        "points": _points(found, how),
        "notes": [n.to_dict() for n in found.notes],
    }
    if found.num_levels < MIN_LEVELS:
        reason = f"{found.num_levels} levels; a law needs {MIN_LEVELS} or more with all else equal"
        return about | {"status": "refused", "reason": reason}
    about["trend"] = trend(rows[found.column], rows[how.y], level=how.level)
    reg = how.regressor(PowerLaw(axis))
    try:
        X = axis_frame(rows, reg.law, how.n_column)
        reg.fit(X, rows[how.y], groups=group_values(rows, how.groups))
    except ValueError as problem:
        return about | {"status": "refused", "reason": str(problem)}
    kept: dict[str, Any] = {"y": how.y, "groups": how.groups, "n_column": how.n_column}
    if reg.df_ > 0:
        saturation = judge_saturation(reg, level=how.level, num_draws=how.num_draws).to_dict()
    else:
        saturation = saturation_test(rows, axis, level=how.level, **kept).to_dict()
    return about | {
        "status": "fitted",
        "law": describe_fit(reg, how),
        "curve": _curve(reg, axis, how),
        "saturation": saturation,
        "comparison": _attempt(compare_laws, rows, default_laws(axis), **kept, loss=how.loss,
                               delta=how.delta),
        "backtest": _attempt(backtest, rows, PowerLaw(axis), axis, **kept, loss=how.loss,
                             delta=how.delta, level=how.level, seed=how.seed),
    }  # fmt: skip


def trend(x: Any, y: Any, *, level: float = 0.95) -> dict[str, Any]:
    """Judge whether y falls with x, by the slope of log y on log x and Student's interval.

    Returns:
        `verdict` ("falls", "rises", "does not fall"), `elasticity` (minus the slope), its
        `interval`, the two-sided `p_value` of no slope, `df`.
    """
    u, v = np.log(np.asarray(x, dtype=float)), np.log(np.asarray(y, dtype=float))
    u = u - u.mean()
    slope = float(u @ v / (u @ u))
    df = len(u) - 2
    rest = v - v.mean() - slope * u
    nan = float("nan")
    if df < 1:
        return {"verdict": "does not fall", "elasticity": -slope, "interval": (nan, nan),
                "p_value": nan, "df": df}  # fmt: skip
    error = max(float(np.sqrt(rest @ rest / df / (u @ u))), 1e-300)
    half = float(stdtrit(df, 0.5 + level / 2)) * error
    low, high = -slope - half, -slope + half
    verdict: Trend = "falls" if low > 0 else "rises" if high < 0 else "does not fall"
    return {
        "verdict": verdict,
        "elasticity": -slope,
        "interval": (low, high),
        "p_value": float(2 * stdtr(df, -abs(slope) / error)),
        "df": df,
    }


def describe_fit(reg: LawRegressor, how: FitOptions) -> dict[str, Any]:
    """Return a fit as plain data: parameters with both intervals, estimator, sigma, notes."""
    params: dict[str, Any] = {}
    draws = reg.bootstrap(how.num_draws, how.seed) if reg.df_ > 0 else None
    for name, value in reg.params_.items():
        params[name] = {"value": value, "bootstrap": None, "profile": None}
        if draws is None:
            continue
        ends = draws[name].quantile([0.5 - how.level / 2, 0.5 + how.level / 2])
        params[name]["bootstrap"] = [float(e) for e in ends]
        if name == "E" or name not in reg.law.positive:  # an amplitude at x = 1 means little
            params[name]["profile"] = list(reg.profile(name, how.level).interval)
    return {
        "form": reg.law.describe(),
        "formula": reg.law.describe(reg.params_),
        "params": params,
        "cost": reg.cost_,
        "sigma": reg.sigma_,
        "df": reg.df_,
        "converged": reg.converged_,
        "n_starts": reg.n_starts_,
        "n_starts_at_optimum": reg.n_starts_at_optimum_,
        "condition_number": reg.condition_number_,
        "notes": [n.to_dict() for n in reg.notes_],
    }


def fit_joint(clean: pd.DataFrame, axes: Sequence[str], how: FitOptions) -> dict[str, Any]:
    """Fit the additive law over every axis with enough levels, where the cells identify it."""
    used = [a for a in axes if _levels(clean, a, how) >= MIN_LEVELS]
    if len(used) < 2:
        return {"status": "refused", "reason": f"{len(used)} axes with {MIN_LEVELS} levels: "
                "a joint law needs two or more"}  # fmt: skip
    law = Additive(tuple(used))
    X = axis_frame(clean, law, how.n_column)
    cells = count_cells({a: X[a].to_numpy() for a in used})
    need = len(law.param_names) + SPARE_CELLS
    if cells < need:
        reason = f"not identified: {cells} cells, {len(law.param_names)} parameters"
        return {"status": "refused", "reason": f"{reason} ({need} cells are needed)"}
    reg = how.regressor(law)
    try:
        reg.fit(X, clean[how.y], groups=group_values(clean, how.groups))
    except ValueError as problem:
        return {"status": "refused", "reason": str(problem)}
    return {"status": "fitted", "axes": used, "num_cells": cells, "law": describe_fit(reg, how)}


def _levels(clean: pd.DataFrame, axis: str, how: FitOptions) -> int:
    try:
        return axis_slice(clean, axis, n_column=how.n_column).num_levels
    except ValueError:
        return 0


def _attempt(function: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
    """Call an analysis; where the data cannot carry it, return the reason."""
    try:
        return function(*arguments, **options).to_dict()
    except ValueError as problem:
        return {"refused": str(problem)}


def _noise(clean: pd.DataFrame, how: FitOptions) -> dict[str, Any] | None:
    try:
        return noise_floor(clean, y=how.y, groups=how.groups).to_dict()
    except ValueError:
        return None


def _num_seeds(rows: pd.DataFrame) -> int | None:
    return int(rows["seed"].nunique()) if "seed" in rows.columns else None


def _points(found: Slice, how: FitOptions) -> list[dict[str, Any]]:
    keep = {"x": found.column, "y": how.y, "run_id": how.groups, "seed": "seed", "size": "size"}
    have = {k: c for k, c in keep.items() if c in found.rows.columns}
    table = found.rows[list(have.values())].set_axis(list(have), axis=1)
    return [
        {str(k): v.item() if hasattr(v, "item") else v for k, v in row.items()}
        for row in table.sort_values(["x", "y"]).to_dict("records")
    ]


def _curve(reg: LawRegressor, axis: str, how: FitOptions) -> dict[str, Any]:
    """Return the fitted curve and both bands from the first level to twice the last."""
    logx = reg.data_.logx[axis]
    x = np.exp(np.linspace(logx.min(), logx.max() + np.log(2), CURVE_POINTS))
    grid = pd.DataFrame({axis: x})
    curve = reg.predict(grid, interval="confidence", level=how.level, num_draws=how.num_draws)
    run = reg.predict(grid, interval="prediction", level=how.level, num_draws=how.num_draws)
    assert isinstance(curve, pd.DataFrame)
    assert isinstance(run, pd.DataFrame)
    return {
        "x": x.tolist(),
        "x_last": float(np.exp(logx.max())),
        "mean": curve["mean"].tolist(),
        "lower": curve["lower"].tolist(),
        "upper": curve["upper"].tolist(),
        "run_lower": run["lower"].tolist(),
        "run_upper": run["upper"].tolist(),
    }


def note_texts(part: dict[str, Any]) -> list[str]:
    """Collect the remarks of one axis or joint fit as sentences."""
    notes = [*part.get("notes", []), *part.get("law", {}).get("notes", [])]
    return [str(Note(**n)) for n in notes]
