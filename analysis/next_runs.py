"""Which runs to buy next along an axis: what could be bought, what it costs, what it tells."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pandas as pd

from analysis.design import design_next
from analysis.document import Document
from analysis.estimator import FitOptions
from analysis.laws import PowerLaw
from analysis.table import axis_label, axis_slice

COSTS = {"gpu_hours": "GPU-hours", "compute_flops": "FLOPs"}
NEW_LEVELS = (2.0, 4.0)  # times the last level
COPIES = 2  # runs of each kind on offer
SHOWN = 4  # lines of advice


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase(Document):
    """Runs of one level that are bought one after the other.

    `spent` and `sd_percent_after` hold when they are bought, with all before them; `sd_percent_*`
    is the standard deviation of the error predicted at the target.
    """

    level: float
    kind: str
    num_runs: int
    cost: float
    sd_percent_before: float
    spent: float
    sd_percent_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NextRuns(Document):
    """What to buy, in buying order; `unit` is GPU-hours, FLOPs or runs."""

    unit: str
    budget: float
    target: float
    rows: tuple[Purchase, ...]


def next_runs(clean: pd.DataFrame, axis: str, how: FitOptions, *, rises: bool = False) -> NextRuns:
    """Choose runs along one fitted axis within as much again as the axis has cost so far.

    Offers are more seeds of every level and new levels beyond the last; the target is the law's
    prediction at twice the last level. A run's cost is the median of its level, a new level's
    lies on the power law of cost through the levels.

    Args:
        clean: run table.
        axis: with a law.
        how: options.
        rises: whether the error rises with the axis.

    Raises:
        ValueError: nothing to buy, or nothing to choose by.
    """
    if rises:
        label = axis_label(axis, how.n_column)
        raise ValueError(f"the error rises with {label}: there is nothing to buy")
    found = axis_slice(clean, axis, n_column=how.n_column, hold=how.hold)
    price, unit = level_costs(found.rows, found.column)
    offers = _offers(price, axis)
    # levels keep the axis's name: the law reads it under that name
    rows = found.rows.assign(**{axis: found.rows[found.column]})
    budget = float(price.reindex(found.rows[found.column]).sum())
    target = 2.0 * float(price.index.max())
    order = design_next(rows, budget, offers, law=PowerLaw(axis), target={axis: target},
                        cost="cost", y=how.y, groups=how.groups, n_column=how.n_column)  # fmt: skip
    if order.empty or not np.isfinite(order["sd_after"]).all():
        raise ValueError("no estimate of the noise, or nothing that the budget buys")
    bought = _grouped(order, axis)[:SHOWN]
    return NextRuns(unit=unit, budget=budget, target=target, rows=tuple(bought))


def level_costs(rows: pd.DataFrame, column: str) -> tuple[pd.Series, str]:
    """Return the cost of one run at each level, and its unit: what the table has measured."""
    for name, unit in COSTS.items():
        if name in rows.columns and (rows[name].fillna(0) > 0).all():
            return rows.groupby(column)[name].median(), unit
    return rows.groupby(column).size() * 0.0 + 1.0, "runs"


def _offers(price: pd.Series, axis: str) -> pd.DataFrame:
    """List what could be bought: copies of each level, and levels beyond the last."""
    levels = price.index.to_numpy(dtype=float)
    costs = price.to_numpy(dtype=float)
    slope, at_one = np.polyfit(np.log(levels), np.log(costs), 1)
    beyond = levels.max() * np.array(NEW_LEVELS)
    new_costs = np.exp(at_one + max(slope, 0.0) * np.log(beyond))
    table = pd.DataFrame(
        {
            axis: np.concatenate([levels, beyond]),
            "cost": np.concatenate([costs, np.maximum(new_costs, costs[levels.argmax()])]),
            "kind": ["another seed"] * len(levels) + ["new level"] * len(beyond),
        }
    )
    return table.loc[table.index.repeat(COPIES)].reset_index(drop=True)


def _grouped(order: pd.DataFrame, axis: str) -> list[Purchase]:
    """Join neighbouring purchases of the same level into one line."""
    lines = []
    for level, group in groupby(order.to_dict("records"), key=lambda row: row[axis]):
        runs = list(group)
        lines.append(
            Purchase(
                level=level,
                kind=runs[0]["kind"],
                num_runs=len(runs),
                cost=sum(row["cost"] for row in runs),
                sd_percent_before=100 * runs[0]["sd_before"],
                spent=runs[-1]["spent"],
                sd_percent_after=100 * runs[-1]["sd_after"],
            )
        )
    return lines
