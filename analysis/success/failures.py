"""Closed-loop failure of a study: pooled rates with exact intervals, and a law along each axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr

from analysis.axis_study import describe_fit
from analysis.fit import LawRegressor
from analysis.laws import PowerLaw
from analysis.notes import MIN_LEVELS
from analysis.options import FitOptions, jsonable
from analysis.pages.words import number, parameter_texts, percent, span
from analysis.ranking import varying_settings
from analysis.success.rates import SUCCESSES, TRIALS, exact_interval, fit_failures, success_rates
from analysis.table import Slice, axis_label, axis_slice, group_values

CURVE_POINTS = 60


def failure_study(
    clean: pd.DataFrame, axes: Sequence[str], how: FitOptions
) -> dict[str, Any] | None:
    """Return failure rates by setting and a failure law along each axis; None without rollouts.

    Args:
        clean: clean run table; runs without counts are left out.
        axes: the study's axes.
        how: options; the loss is the binomial likelihood whatever they say.

    Returns:
        Plain data for JSON: `cells` (`failure`, `lower`, `upper`: pooled rate with Clopper and
        Pearson's interval), `overdispersion` and `p_value` of "runs of a cell differ by chance
        alone", and `axes`: per axis `law`, `points`, `curve`, or `status: refused` and a `reason`.
    """
    if not {SUCCESSES, TRIALS} <= set(clean.columns):
        return None
    rows = clean[clean[SUCCESSES].notna() & (clean[TRIALS] > 0)]
    if rows.empty:
        return None
    by = varying_settings(rows, how.n_column, how.hold)
    rates = success_rates(rows.assign(**{"": 0}), by=by or [""], level=how.level)
    return jsonable(
        {
            "num_runs": len(rows),
            "level": how.level,
            "cells": [_as_failure(cell) for cell in rates.cells],
            "overdispersion": rates.overdispersion,
            "p_value": rates.p_value,
            "axes": {axis: _fit_axis(rows, axis, how) for axis in axes},
        }
    )


def _as_failure(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a pooled success rate into one of failure."""
    settings = {k: v for k, v in cell.items() if k and k not in _RATE}
    return settings | {
        "failure": 1.0 - cell["rate"],
        "lower": 1.0 - cell["upper"],
        "upper": 1.0 - cell["lower"],
        "failures": cell["trials"] - cell["successes"],
        "rollouts": cell["trials"],
        "num_runs": cell["num_runs"],
    }


_RATE = ("rate", "lower", "upper", "successes", "trials", "num_runs")


def _fit_axis(rows: pd.DataFrame, axis: str, how: FitOptions) -> dict[str, Any]:
    """Fit the failure law along one axis, or say why not."""
    about: dict[str, Any] = {"axis": axis, "label": axis_label(axis, how.n_column)}
    try:
        found = axis_slice(rows, axis, n_column=how.n_column, hold=how.hold)
        if found.num_levels < MIN_LEVELS:
            raise ValueError(f"{found.num_levels} levels with rollouts; a law needs {MIN_LEVELS}")
        _require_fall(found, how)
        reg = fit_failures(found.rows, PowerLaw(axis), groups=how.groups, seed=how.seed,
                           n_column=how.n_column)  # fmt: skip
    except ValueError as problem:
        return about | {"status": "refused", "reason": str(problem)}
    runs = group_values(found.rows, how.groups)
    return about | {
        "status": "fitted",
        "num_runs": len(found.rows),
        "held": found.held,
        "law": describe_fit(reg, how, runs),
        "points": _points(found.rows, found.column, how),
        "curve": _curve(reg, axis, how),
    }


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
        raise ValueError(f"the failure rate {words} (trend test p = {number(p, 2)})")


def failure_trend(x: np.ndarray, failures: np.ndarray, trials: np.ndarray) -> tuple[float, float]:
    """Test whether failure counts [n] change with log x; return z (negative: they fall) and p.

    Cochran and Armitage's test, its variance multiplied by the spread of runs of one level beyond
    chance where there is any.
    """
    rate = failures.sum() / trials.sum()
    place = np.log(x) - np.log(x) @ trials / trials.sum()
    chance = rate * (1 - rate) * float(trials @ place**2)
    table = pd.DataFrame({"x": x, SUCCESSES: trials - failures, TRIALS: trials})
    spread = success_rates(table, by=["x"]).overdispersion
    excess = spread if spread > 1 else 1.0  # NaN without repeats
    z = float((failures - trials * rate) @ place / np.sqrt(chance * excess))
    return z, float(2 * ndtr(-abs(z)))


def _points(rows: pd.DataFrame, column: str, how: FitOptions) -> list[dict[str, Any]]:
    """Return one point a run: axis value, failure rate and its interval, in shares."""
    k, n = (rows[c].to_numpy(dtype=float) for c in (SUCCESSES, TRIALS))
    low, high = exact_interval(n - k, n, how.level)
    x, names = rows[column].to_numpy(dtype=float), group_values(rows, how.groups)
    return [
        {"run_id": str(name), "x": a, "y": f / m, "lower": lo, "upper": hi, "rollouts": int(m)}
        for name, a, f, m, lo, hi in zip(names, x, n - k, n, low, high, strict=True)
    ]


def _curve(reg: LawRegressor, axis: str, how: FitOptions) -> dict[str, Any]:
    """Return the fitted failure rate with its confidence band, to twice the last level."""
    logx = reg.data_.logx[axis]
    x = np.exp(np.linspace(logx.min(), logx.max() + np.log(2), CURVE_POINTS))
    band = reg.predict(pd.DataFrame({axis: x}), "confidence", how.level, num_draws=how.num_draws)
    assert isinstance(band, pd.DataFrame)
    # beyond the data a refit may rise above certainty; a rate does not
    ends = {k: band[k].clip(upper=1.0).tolist() for k in ("mean", "lower", "upper")}
    return {"x": x.tolist(), "x_last": float(np.exp(logx.max())), **ends}


def failure_texts(found: Mapping[str, Any]) -> list[str]:
    """Say how often runs fail, whether runs of a setting agree, and how failure falls."""
    total = sum(cell["rollouts"] for cell in found["cells"])
    failures = sum(cell["failures"] for cell in found["cells"])
    lines = [f"{failures} of {total} rollouts of {found['num_runs']} runs failed."]
    if found["p_value"] is not None:
        agree = "differ beyond" if found["p_value"] < 1 - found["level"] else "agree within"
        lines.append(
            f"Runs of one setting {agree} the chance of their episodes (chi-square over degrees "
            f"of freedom {number(found['overdispersion'])}, p = {number(found['p_value'], 2)})."
        )
    for result in found["axes"].values():
        if result["status"] == "refused":
            lines.append(f"No failure law along {result['label']}: {result['reason']}.")
            continue
        law, curve = result["law"], result["curve"]
        told = "; ".join(parameter_texts(law, found["level"]))
        ahead = f"{percent(curve['mean'][-1])} {span([curve['lower'][-1], curve['upper'][-1]], 2)}"
        lines.append(
            f"Along {result['label']}: failure = {law['formula']} ({law['estimator']}, "
            f"{result['num_runs']} runs). {told}. At twice the last level: {ahead}."
        )
    return lines
