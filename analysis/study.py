"""Fit a whole study: every axis judged, the joint law where identified, what to buy next."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import pandas as pd

from analysis.axis_study import describe_fit, fit_axis, num_seeds
from analysis.budgets import fit_budgets
from analysis.laws import Additive, PowerLaw
from analysis.next_runs import next_runs
from analysis.notes import MIN_LEVELS, SPARE_CELLS, Note, count_cells
from analysis.options import FitOptions, jsonable
from analysis.ranking import rank_settings
from analysis.table import (
    AXIS_COLUMNS,
    axis_column,
    axis_frame,
    axis_slice,
    check_n_column,
    clean_runs,
    find_axes,
    group_values,
    setting_columns,
    unusual_columns,
)
from analysis.uncertainty import noise_floor

__all__ = ["FitOptions", "fit_study", "jsonable", "note_texts"]

SCHEMA = 2
BASELINES = {
    "mean_chunk": "baseline_mean_chunk_l1",
    "hold": "baseline_hold_l1",
}


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
        `points`, `curve`, `next_runs`, at what all else is `held` (`held_of_many`: where the table
        has other values), or `status: refused` and a `reason`; the `joint` law; `isoflop` where
        the table has budgets; the `noise_floor`; `ranking` of settings; the record to refit
        (estimator, delta, seed, data hash). An open end of an interval, and a number that does not
        exist, is None.

    Raises:
        ValueError: no such column or axis, a run given twice, or not one usable row.
    """
    how = options or FitOptions(**changes)
    clean, notes = clean_runs(runs, how.y, how.groups)
    if clean.empty:
        told = "; ".join(n.message for n in notes) or "the table is empty"
        raise ValueError(f"no usable run in {study}: {told}")
    check_n_column(how.n_column, list(clean.columns))
    names = find_axes(clean, how.n_column) if axes == "auto" else list(axes)
    for axis in names:
        axis_column(axis, list(clean.columns), how.n_column)
    how = suited(how, clean, names)
    noise = _noise(clean, how)
    sigma = noise["sigma"] if noise else None
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "study": study,
        **_conditions(how),
        "num_runs": len(clean),
        "num_seeds": num_seeds(clean),
        "data_sha256": data_hash(clean, how.y),
        "noise_floor": noise,
        "baselines": baselines(clean),
        "notes": [n.to_dict() for n in notes],
        "axes": {axis: _advised(clean, axis, how) for axis in names},
        "joint": fit_joint(clean, names, how),
        "isoflop": fit_budgets(clean, how),
        "ranking": rank_settings(clean, y=how.y, sigma=sigma, n_column=how.n_column, also=how.hold),
    }
    return jsonable(document)


def suited(how: FitOptions, clean: pd.DataFrame, axes: Sequence[str]) -> FitOptions:
    """Return the options with what a table says of itself: its own `N`, its own axes held apart."""
    columns = list(clean.columns)
    own = "N" in columns and how.n_column == AXIS_COLUMNS["N"]
    hold = dict.fromkeys([*how.hold, *unusual_columns(axes, columns)])
    return replace(how, hold=tuple(hold), n_column="N" if own else how.n_column)


def _advised(clean: pd.DataFrame, axis: str, how: FitOptions) -> dict[str, Any]:
    """Judge one axis and, where it has a law, say which runs to buy next."""
    result = fit_axis(clean, axis, how)
    if result["status"] == "fitted":
        result["next_runs"] = next_runs(clean, result, how)
    return result


def _conditions(how: FitOptions) -> dict[str, Any]:
    """Return what every number of a study depends on, beside its runs."""
    names = ("y", "n_column", "loss", "delta", "link", "level", "seed")
    estimator = how.regressor(PowerLaw()).estimator
    return {name: getattr(how, name) for name in names} | {"estimator": estimator}


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
    reg, runs = how.regressor(law), group_values(clean, how.groups)
    try:
        reg.fit(X, clean[how.y], groups=runs)
    except ValueError as problem:
        return {"status": "refused", "reason": str(problem)}
    told = describe_fit(reg, how, runs)
    return {"status": "fitted", "axes": used, "num_cells": cells, "law": told}


def _levels(clean: pd.DataFrame, axis: str, how: FitOptions) -> int:
    try:
        return axis_slice(clean, axis, n_column=how.n_column, hold=how.hold).num_levels
    except ValueError:
        return 0


def _noise(clean: pd.DataFrame, how: FitOptions) -> dict[str, Any] | None:
    try:
        cells = setting_columns(list(clean.columns), how.n_column, how.hold)
        return noise_floor(clean, y=how.y, groups=how.groups, cells=cells or None).to_dict()
    except ValueError:
        return None


def note_texts(part: dict[str, Any]) -> list[str]:
    """Collect the remarks of one axis or joint fit as sentences."""
    notes = [*part.get("notes", []), *part.get("law", {}).get("notes", [])]
    return [str(Note(**n)) for n in notes]
