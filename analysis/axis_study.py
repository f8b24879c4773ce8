"""One axis of a study: its trend, law, saturation, rivals and forecasts, or why there are none."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from analysis.fit import LawRegressor
from analysis.laws import PowerLaw
from analysis.notes import MIN_LEVELS
from analysis.options import FitOptions
from analysis.saturation import judge_saturation, saturation_test
from analysis.select import backtest, compare_laws, default_laws
from analysis.sensitivity import sensitivity
from analysis.table import Slice, axis_frame, axis_label, axis_slice, group_values
from analysis.uncertainty import ends

CURVE_POINTS = 80
Trend = Literal["falls", "rises", "does not fall"]


def fit_axis(clean: pd.DataFrame, axis: str, how: FitOptions) -> dict[str, Any]:
    """Judge one axis: trend, law, saturation, rivals, forecasts; or say why not."""
    try:
        found = axis_slice(clean, axis, n_column=how.n_column, hold=how.hold)
    except ValueError as problem:
        return {"axis": axis, "status": "refused", "reason": str(problem)}
    rows = found.rows
    about: dict[str, Any] = {
        "axis": axis,
        "column": found.column,
        "label": axis_label(axis, how.n_column),
        "num_levels": found.num_levels,
        "num_runs": len(rows),
        "num_seeds": num_seeds(rows),
        "held": found.held,
        "held_of_many": {k: v for k, v in found.held.items() if clean[k].nunique() > 1},
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
    return about | {"status": "fitted"} | _judge(reg, rows, axis, how)


def _judge(reg: LawRegressor, rows: pd.DataFrame, axis: str, how: FitOptions) -> dict[str, Any]:
    """Return everything that follows from one fitted axis."""
    columns: dict[str, Any] = {"y": how.y, "groups": how.groups, "n_column": how.n_column}
    loss: dict[str, Any] = {"loss": how.loss, "delta": how.delta}
    if reg.df_ > 0:
        saturation = judge_saturation(reg, level=how.level, num_draws=how.num_draws).to_dict()
    else:
        saturation = saturation_test(rows, axis, level=how.level, **columns).to_dict()
    ahead = _attempt(backtest, rows, PowerLaw(axis), axis, **columns, **loss, level=how.level,
                     seed=how.seed)  # fmt: skip
    return {
        "law": describe_fit(reg, how, group_values(rows, how.groups)),
        "curve": _curve(reg, axis, how),
        "saturation": saturation,
        "comparison": _attempt(compare_laws, rows, default_laws(axis), **columns, **loss),
        "backtest": ahead,
    }


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


def describe_fit(
    reg: LawRegressor, how: FitOptions, runs: np.ndarray | None = None
) -> dict[str, Any]:
    """Return a fit as plain data: parameters with both intervals, estimator, sigma, notes.

    `profiles` holds the cost along each parameter that a profile says something about;
    `sensitivity`, if asked for, what `analysis.sensitivity` does, runs [n] by their names.
    """
    profiles: dict[str, Any] = {}
    return {
        "form": reg.law.describe(),
        "formula": reg.law.describe(reg.params_),
        "estimator": reg.estimator,
        "params": _params(reg, how, profiles),
        "cost": reg.cost_,
        "sigma": reg.sigma_,
        "df": reg.df_,
        "converged": reg.converged_,
        "n_starts": reg.n_starts_,
        "n_starts_at_optimum": reg.n_starts_at_optimum_,
        "condition_number": reg.condition_number_,
        "notes": [n.to_dict() for n in reg.notes_],
        "profiles": profiles,
    } | ({"sensitivity": named_sensitivity(reg, how, runs)} if how.sensitivity else {})


def named_sensitivity(
    reg: LawRegressor, how: FitOptions, runs: np.ndarray | None
) -> dict[str, Any]:
    """Return `sensitivity` as plain data, influential rows under the names of their runs."""
    found = sensitivity(reg, num_draws=how.num_draws).to_dict()
    for row in found["runs"]:
        name = None if runs is None else runs[row["rows"][0]]
        row["run"] = getattr(name, "item", lambda name=name: name)()
    return found


def _params(reg: LawRegressor, how: FitOptions, profiles: dict[str, Any]) -> dict[str, Any]:
    """Return value and intervals of each parameter; put the profiles drawn into `profiles`."""
    params: dict[str, Any] = {}
    draws = reg.bootstrap(how.num_draws, how.seed) if reg.df_ > 0 else None
    for name, value in reg.params_.items():
        params[name] = {"value": value, "bootstrap": None, "profile": None}
        if draws is None or name in (reg.fixed or {}):
            continue
        params[name]["bootstrap"] = ends(draws[name].to_numpy(), how.level).tolist()
        if name == "E" or name not in reg.law.positive:  # an amplitude at x = 1 means little
            profiles[name] = reg.profile(name, how.level).to_dict()
            params[name]["profile"] = list(profiles[name]["interval"])
    return params


def num_seeds(rows: pd.DataFrame) -> int | None:
    """Count the seeds of a table; None where it does not say."""
    return int(rows["seed"].nunique()) if "seed" in rows.columns else None


def _attempt(function: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
    """Call an analysis; where the data cannot carry it, return the reason."""
    try:
        return function(*arguments, **options).to_dict()
    except ValueError as problem:
        return {"refused": str(problem)}


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
    assert isinstance(curve, pd.DataFrame)
    # asked point by point, every point gets the same noise, and the band is smooth
    ends: dict[str, list[float]] = {"lower": [], "upper": []}
    for value in x:
        at = pd.DataFrame({axis: [value]})
        run = reg.predict(at, interval="prediction", level=how.level, num_draws=how.num_draws)
        assert isinstance(run, pd.DataFrame)
        for end, values in ends.items():
            values.append(float(run[end].iloc[0]))
    return {
        "x": x.tolist(),
        "x_last": float(np.exp(logx.max())),
        "mean": curve["mean"].tolist(),
        "lower": curve["lower"].tolist(),
        "upper": curve["upper"].tolist(),
        "run_lower": ends["lower"],
        "run_upper": ends["upper"],
    }
