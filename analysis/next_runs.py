"""Which runs to buy next along an axis: what could be bought, what it costs, what it tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.design import design_next
from analysis.laws import PowerLaw
from analysis.options import FitOptions
from analysis.table import axis_slice

COSTS = {"gpu_hours": "GPU-hours", "compute_flops": "FLOPs"}
NEW_LEVELS = (2.0, 4.0)  # times the last level
COPIES = 2  # runs of each kind on offer
SHOWN = 4


def next_runs(clean: pd.DataFrame, result: Mapping[str, Any], how: FitOptions) -> dict[str, Any]:
    """Choose runs along one fitted axis within as much again as the axis has cost so far.

    Offers are more seeds of every level and new levels beyond the last; the target is the law's
    prediction at twice the last level. A run's cost is the median of its level, a new level's
    lies on the power law of cost through the levels.

    Args:
        clean: run table.
        result: one axis of `fit_study`.
        how: options.

    Returns:
        `unit` (GPU-hours, FLOPs or runs), `budget`, `target`, and `rows` in buying order:
        `level`, `kind`, `num_runs`, `cost`, `spent`, `sd_percent_before`, `sd_percent_after`
        (of the predicted error at the target); or `refused`.
    """
    axis = str(result["axis"])
    if result["trend"]["verdict"] == "rises":
        return {"refused": f"the error rises with {result['label']}: there is nothing to buy"}
    found = axis_slice(clean, axis, n_column=how.n_column, hold=how.hold)
    price, unit = level_costs(found.rows, found.column)
    offers = _offers(price, axis)
    # levels keep the axis's name: the law reads it under that name
    rows = found.rows.assign(**{axis: found.rows[found.column]})
    budget = float(price.reindex(found.rows[found.column]).sum())
    target = {axis: 2.0 * float(price.index.max())}
    try:
        order = design_next(rows, budget, offers, law=PowerLaw(axis), target=target, cost="cost",
                            y=how.y, groups=how.groups, n_column=how.n_column)  # fmt: skip
    except ValueError as problem:
        return {"refused": str(problem)}
    if order.empty or not np.isfinite(order["sd_after"]).all():
        return {"refused": "no estimate of the noise, or nothing that the budget buys"}
    return {"unit": unit, "budget": budget, "target": target[axis],
            "rows": _grouped(order, axis)[:SHOWN]}  # fmt: skip


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


def _grouped(order: pd.DataFrame, axis: str) -> list[dict[str, Any]]:
    """Join neighbouring purchases of the same level into one line."""
    lines: list[dict[str, Any]] = []
    for row in order.to_dict("records"):
        after = {"spent": row["spent"], "sd_percent_after": 100 * row["sd_after"]}
        if lines and lines[-1]["level"] == row[axis]:
            lines[-1] |= after | {
                "num_runs": lines[-1]["num_runs"] + 1,
                "cost": lines[-1]["cost"] + row["cost"],
            }
            continue
        lines.append(
            {"level": row[axis], "kind": row["kind"], "num_runs": 1, "cost": row["cost"]}
            | {"sd_percent_before": 100 * row["sd_before"]}
            | after
        )
    return lines
