"""Fit a whole study: every axis judged, the joint law where identified, what to buy next."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pandas as pd

from analysis.axis_study import AxisFit, fit_axis, num_seeds
from analysis.budgets import IsoFlopView, fit_budgets
from analysis.document import Document
from analysis.estimator import FitOptions
from analysis.law_fit import LawFit, describe_fit
from analysis.laws import Additive, PowerLaw
from analysis.notes import MIN_LEVELS, SPARE_CELLS, Note, Refused, count_cells
from analysis.ranking import Setting, rank_settings
from analysis.solving.objective import Link, Loss
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
from analysis.uncertainty import NoiseFloor, noise_floor

__all__ = ["FitOptions", "StudyFit", "fit_study"]

SCHEMA = 2
BASELINES = {
    "mean_chunk": "baseline_mean_chunk_l1",
    "hold": "baseline_hold_l1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JointLaw(Document):
    """The additive law over every axis with enough levels."""

    status: Literal["fitted"] = field(default="fitted", init=False)
    axes: list[str]
    num_cells: int
    law: LawFit


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFit(Document):
    """A fitted study, and the record to refit it: estimator, knee, seed, hash of the data.

    `num_seeds` and `noise_floor` are None where the table has no seeds or repeats; `isoflop` where
    it has no budgets. `ranking` holds the settings, best first.
    """

    schema: int = SCHEMA
    study: str
    y: str
    n_column: str
    loss: Loss
    delta: float
    link: Link
    level: float
    seed: int
    estimator: str
    num_runs: int
    num_seeds: int | None
    data_sha256: str
    noise_floor: NoiseFloor | None
    baselines: dict[str, float]
    notes: tuple[Note, ...]
    axes: dict[str, AxisFit]
    joint: JointLaw | Refused
    isoflop: IsoFlopView | None
    ranking: list[Setting]


def fit_study(
    runs: pd.DataFrame,
    *,
    study: str = "table",
    axes: Sequence[str] | Literal["auto"] = "auto",
    options: FitOptions | None = None,
    **changes: Any,
) -> StudyFit:
    """Fit the laws of a study; what the data cannot carry is refused with its reason.

    Args:
        runs: one row a run (runs.parquet, or any table with an error and axis columns).
        study: its name.
        axes: "N", "D", "episodes", "domains" or columns; "auto" takes those that vary.
        options: see `FitOptions`; single fields may be given as keywords instead.

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
    sigma = noise.sigma if noise else None
    return StudyFit(
        study=study,
        y=how.y,
        n_column=how.n_column,
        loss=how.loss,
        delta=how.delta,
        link=how.link,
        level=how.level,
        seed=how.seed,
        estimator=how.regressor(PowerLaw()).estimator,
        num_runs=len(clean),
        num_seeds=num_seeds(clean),
        data_sha256=data_hash(clean, how.y),
        noise_floor=noise,
        baselines=baselines(clean),
        notes=notes,
        axes={axis: fit_axis(clean, axis, how) for axis in names},
        joint=fit_joint(clean, names, how),
        isoflop=fit_budgets(clean, how),
        ranking=rank_settings(clean, y=how.y, sigma=sigma, n_column=how.n_column, also=how.hold),
    )


def suited(how: FitOptions, clean: pd.DataFrame, axes: Sequence[str]) -> FitOptions:
    """Return the options with what a table says of itself: its own `N`, its own axes held apart."""
    columns = list(clean.columns)
    own = "N" in columns and how.n_column == AXIS_COLUMNS["N"]
    hold = dict.fromkeys([*how.hold, *unusual_columns(axes, columns)])
    return replace(how, hold=tuple(hold), n_column="N" if own else how.n_column)


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


def fit_joint(clean: pd.DataFrame, axes: Sequence[str], how: FitOptions) -> JointLaw | Refused:
    """Fit the additive law over every axis with enough levels, where the cells identify it."""
    used = [a for a in axes if _levels(clean, a, how) >= MIN_LEVELS]
    if len(used) < 2:
        reason = f"{len(used)} axes with {MIN_LEVELS} levels: a joint law needs two or more"
        return Refused(reason=reason)
    law = Additive(tuple(used))
    X = axis_frame(clean, law, how.n_column)
    cells = count_cells({a: X[a].to_numpy() for a in used})
    need = len(law.param_names) + SPARE_CELLS
    if cells < need:
        reason = f"not identified: {cells} cells, {len(law.param_names)} parameters"
        return Refused(reason=f"{reason} ({need} cells are needed)")
    reg, runs = how.regressor(law), group_values(clean, how.groups)
    try:
        reg.fit(X, clean[how.y], groups=runs)
    except ValueError as problem:
        return Refused(reason=str(problem))
    return JointLaw(axes=used, num_cells=cells, law=describe_fit(reg, how, runs))


def _levels(clean: pd.DataFrame, axis: str, how: FitOptions) -> int:
    try:
        return axis_slice(clean, axis, n_column=how.n_column, hold=how.hold).num_levels
    except ValueError:
        return 0


def _noise(clean: pd.DataFrame, how: FitOptions) -> NoiseFloor | None:
    try:
        cells = setting_columns(list(clean.columns), how.n_column, how.hold)
        return noise_floor(clean, y=how.y, groups=how.groups, cells=cells or None)
    except ValueError:
        return None
