"""The isoFLOP view of a study: runs at equal compute, their parabolas, the optimal sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.design import isoflop
from analysis.options import FitOptions
from analysis.table import axis_column, axis_label, axis_slice

TOLERANCE = 0.02
MIN_SIZES = 4


def fit_budgets(clean: pd.DataFrame, how: FitOptions, axis: str = "N") -> dict[str, Any] | None:
    """Fit parabolas at equal compute where the table has them; None where no budget has four sizes.

    Returns:
        `isoflop`'s plain data, and `budgets` to draw: `compute`, `x`, `y`, `parabola`, `minimum`.
    """
    try:
        column = axis_column(axis, list(clean.columns), how.n_column)
    except ValueError:
        return None
    if "compute_flops" not in clean.columns or clean["compute_flops"].isna().any():
        return None
    rows = axis_slice(
        clean, "C", n_column=how.n_column, hold=how.hold
    ).rows  # equal data at every budget
    groups = budget_numbers(np.log(rows["compute_flops"].to_numpy(dtype=float)))
    tables = [part for _, part in rows.groupby(groups) if part[column].nunique() >= MIN_SIZES]
    if len(tables) < 1:
        return None
    found = isoflop(rows, axis, y=how.y, num_draws=how.num_draws, seed=how.seed,
                    tolerance=TOLERANCE, n_column=how.n_column)  # fmt: skip
    if not found.minima and found.num_edge == 0:
        return None
    budgets = [_drawn(part, column, how.y) for part in tables]
    return found.to_dict() | {"label": axis_label(axis, how.n_column), "budgets": budgets}


def budget_numbers(log_c: np.ndarray) -> np.ndarray:
    """Number the budgets [n]: neighbours in log compute [n] within the tolerance are one."""
    order = np.argsort(log_c, kind="stable")
    numbers = np.empty(len(log_c), dtype=int)
    numbers[order] = np.cumsum(np.diff(log_c[order], prepend=log_c[order][:1]) > TOLERANCE)
    return numbers


def _drawn(part: pd.DataFrame, column: str, y: str) -> dict[str, Any]:
    """Return one budget's points, its parabola of log y in log x, and the minimum inside."""
    x, v = part[column].to_numpy(dtype=float), part[y].to_numpy(dtype=float)
    parabola = np.polyfit(np.log(x), np.log(v), 2)
    minimum = None
    if parabola[0] > 0:
        place = -parabola[1] / (2 * parabola[0])
        if np.log(x).min() < place < np.log(x).max():
            minimum = (float(np.exp(place)), float(np.exp(np.polyval(parabola, place))))
    return {
        "compute": float(np.exp(np.log(part["compute_flops"]).mean())),
        "x": x.tolist(),
        "y": v.tolist(),
        "parabola": parabola.tolist(),
        "minimum": minimum,
    }
