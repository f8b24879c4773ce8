"""The isoFLOP view of a study: runs at equal compute, their parabolas, the optimal sizes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.design import IsoFlop, isoflop
from analysis.document import FLAT, Document
from analysis.estimator import FitOptions
from analysis.table import axis_column, axis_label, axis_slice

TOLERANCE = 0.02  # relative: runs are stopped at whole steps, so that budgets differ by that
MIN_SIZES = 4  # a parabola has three coefficients


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget(Document):
    """Runs at one budget: sizes `x`, errors `y`; the parabola of log y in log x, highest first.

    `minimum` is that of the parabola (size, error), None where it lies outside the sizes.
    """

    compute: float
    x: list[float]
    y: list[float]
    parabola: list[float]
    minimum: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoFlopView(Document):
    """`isoflop` of a study, and its budgets to draw; `label` of the sizes."""

    optima: IsoFlop = field(metadata=FLAT)
    label: str
    budgets: tuple[Budget, ...]


def fit_budgets(clean: pd.DataFrame, how: FitOptions, axis: str = "N") -> IsoFlopView | None:
    """Fit parabolas at equal compute; None where no budget of the table has four sizes."""
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
    budgets = tuple(_budget(part, column, how.y) for part in tables)
    return IsoFlopView(optima=found, label=axis_label(axis, how.n_column), budgets=budgets)


def budget_numbers(log_c: np.ndarray) -> np.ndarray:
    """Number the budgets [n]: neighbours in log compute [n] within the tolerance are one."""
    order = np.argsort(log_c, kind="stable")
    numbers = np.empty(len(log_c), dtype=int)
    numbers[order] = np.cumsum(np.diff(log_c[order], prepend=log_c[order][:1]) > TOLERANCE)
    return numbers


def _budget(part: pd.DataFrame, column: str, y: str) -> Budget:
    """Return one budget's points, its parabola of log y in log x, and the minimum inside."""
    x, v = part[column].to_numpy(dtype=float), part[y].to_numpy(dtype=float)
    parabola = np.polyfit(np.log(x), np.log(v), 2)
    minimum = None
    if parabola[0] > 0:
        place = -parabola[1] / (2 * parabola[0])
        if np.log(x).min() < place < np.log(x).max():
            minimum = (float(np.exp(place)), float(np.exp(np.polyval(parabola, place))))
    return Budget(
        compute=float(np.exp(np.log(part["compute_flops"]).mean())),
        x=x.tolist(),
        y=v.tolist(),
        parabola=parabola.tolist(),
        minimum=minimum,
    )
