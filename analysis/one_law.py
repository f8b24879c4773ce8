"""Fit one named law to any table with named columns: what `scaling fit TABLE --law` prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.document import Document
from analysis.estimator import FitOptions
from analysis.fit import LawRegressor
from analysis.law_fit import LawFit, describe_fit
from analysis.laws import (
    Additive,
    BrokenPowerLaw,
    Chinchilla,
    Constant,
    DataConstrained,
    Law,
    PowerLaw,
)
from analysis.notes import Note
from analysis.solving.objective import Link, Loss
from analysis.table import axis_column, check_n_column, clean_runs, group_values

SCHEMA = 1
# What an error's column is called where the table has no val_l1 and none was named.
USUAL_ERRORS = ("loss", "val_loss", "test_loss", "error", "y")
USUAL_AXES = {
    "N": ("n", "params", "parameters", "num_params", "model size"),
    "D": ("d", "tokens", "training tokens", "num_tokens", "samples"),
    "U": ("u", "unique_tokens", "unique tokens"),
}
LAWS: dict[str, Callable[[tuple[str, ...]], Law]] = {
    "constant": lambda axes: Constant(),
    "power": lambda axes: PowerLaw(_only(axes)),
    "pure-power": lambda axes: PowerLaw(_only(axes), offset=False),
    "broken": lambda axes: BrokenPowerLaw(_only(axes)),
    "chinchilla": lambda axes: Chinchilla(),
    "data-constrained": lambda axes: DataConstrained(),
    "additive": lambda axes: Additive(axes),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFit(Document):
    """One law fitted to a table; `columns` by axis, `notes` on the table, `fit` with its own."""

    law: str
    y: str
    columns: dict[str, str]
    level: float
    fixed: dict[str, float]
    loss: Loss
    delta: float
    link: Link
    seed: int
    num_draws: int
    num_rows: int
    notes: tuple[Note, ...]
    fit: LawFit

    def to_dict(self) -> dict[str, Any]:
        """Return the fit as `scaling fit --law --json` has it: values, intervals, the rest."""
        told, own = self.fit.to_dict(), Document.to_dict(self)
        intervals = ("bootstrap", "profile")
        params = told.pop("params")
        del told["profiles"], own["fit"], own["notes"]
        first = {name: own.pop(name) for name in ("law", "y", "columns")}
        return (
            {"schema": SCHEMA}
            | first
            | {"params": {k: p["value"] for k, p in params.items()}}
            | {"intervals": {k: {i: p[i] for i in intervals} for k, p in params.items()}}
            | own
            | told
            | {"notes": [note.to_dict() for note in self.notes] + list(told["notes"])}
        )


def make_law(name: str, axes: Sequence[str] = ()) -> Law:
    """Return a law by its name on the command line.

    Args:
        name: a key of `LAWS`.
        axes: of `power`, `pure-power`, `broken` (one; "N" by default) and `additive` (several).

    Raises:
        ValueError: no such law, or axes that it does not take.
    """
    if name not in LAWS:
        raise ValueError(f"no law {name!r}: choose from {', '.join(LAWS)}")
    if name == "additive" and len(axes) < 2:
        raise ValueError(f"additive over {list(axes)}: name two axes or more, e.g. N,episodes")
    law = LAWS[name](tuple(axes))
    if axes and set(axes) != set(law.axes):
        raise ValueError(f"{name} has axes {list(law.axes)}, not {list(axes)}")
    return law


def _only(axes: tuple[str, ...]) -> str:
    return axes[0] if axes else "N"


def fit_table(
    table: pd.DataFrame,
    law: Law,
    *,
    columns: Mapping[str, str] | None = None,
    weights: str | None = None,
    fixed: Mapping[str, float] | None = None,
    options: FitOptions | None = None,
) -> TableFit:
    """Fit one law to a table.

    Args:
        table: one row a run.
        law: the form.
        columns: the column behind an axis, where it is not called as the axis.
        weights: column of row weights; of trials under the binomial loss.
        fixed: parameters held at a value.
        options: estimator, error column and draws. Without a column of that name the table's
            most usual error column (such as `loss`) is taken, and named in the result.

    Raises:
        ValueError: columns that are missing or cannot be chosen, rows that cannot be used, or a
            law that the table does not identify.
    """
    how = options or FitOptions()
    check_n_column(how.n_column, [str(c) for c in table.columns])
    found = {a: _column_of(table, a, dict(columns or {}), how) for a in law.axes}
    strange = sorted(set(columns or {}) - set(law.axes))
    if strange:
        raise ValueError(f"no axis {', '.join(strange)} in {law.name}: it has {list(law.axes)}")
    y = choose_y(table, how.y)
    rows, notes = _usable(table, y, how)
    X = pd.DataFrame({a: _numbers(rows, column) for a, column in found.items()})
    reg = LawRegressor(law, loss=how.loss, delta=how.delta, link=how.link, fixed=fixed,
                       seed=how.seed)  # fmt: skip
    runs = group_values(rows, how.groups)
    reg.fit(
        X if len(found) else np.zeros((len(rows), 0)),
        _numbers(rows, y),
        weights=None if weights is None else _numbers(rows, weights),
        groups=runs,
    )
    return TableFit(
        law=law.name,
        y=y,
        columns=found,
        level=how.level,
        fixed=dict(fixed or {}),
        loss=how.loss,
        delta=how.delta,
        link=how.link,
        seed=how.seed,
        num_draws=how.num_draws,
        num_rows=reg.n_obs_,
        notes=notes,
        fit=describe_fit(reg, how, runs),
    )


def _column_of(table: pd.DataFrame, axis: str, named: Mapping[str, str], how: FitOptions) -> str:
    """Return the column of an axis: the one named, the contract's, or the only usual one."""
    have = [str(c) for c in table.columns]
    if axis in named:
        if named[axis] not in have:
            raise ValueError(f"{axis}={named[axis]}: no such column; the table has {have}")
        return named[axis]
    try:
        return axis_column(axis, have, how.n_column)
    except ValueError as problem:
        usual = USUAL_AXES.get(axis, (axis.lower(),))
        same = [c for c in have if c.lower() in usual]
        if len(same) == 1:
            return same[0]
        raise ValueError(f"{problem}: give {axis}=COLUMN") from None


def choose_y(table: pd.DataFrame, y: str) -> str:
    """Return the error's column: y where the table has it, else the most usual name for one.

    Raises:
        ValueError: there is none, or y was chosen and is not there.
    """
    if y in table.columns:
        return y
    named = {str(c).lower(): str(c) for c in table.columns}
    usual = [named[name] for name in USUAL_ERRORS if name in named]
    if y == FitOptions().y and usual:
        return usual[0]
    have = [str(c) for c in table.columns]
    raise ValueError(f"no column {y!r}: the table has {have}; name the error with --y COLUMN")


def _usable(table: pd.DataFrame, y: str, how: FitOptions) -> tuple[pd.DataFrame, tuple[Note, ...]]:
    """Keep the rows that the estimator can take; a logarithm needs positive errors."""
    if how.link == "log" and how.loss != "binomial":
        rows, notes = clean_runs(table, y, how.groups)
    else:
        value = pd.to_numeric(table[y], errors="coerce")
        rows = table[np.isfinite(value)]
        dropped = len(table) - len(rows)
        message = f"{dropped} rows without a finite {y} left out"
        notes = (Note(code="no_value", message=message, value=dropped),) if dropped else ()
    if rows.empty:
        told = "; ".join(n.message for n in notes) or "the table is empty"
        raise ValueError(f"no usable row: {told}")
    return rows, notes


def _numbers(rows: pd.DataFrame, column: str) -> np.ndarray:
    if column not in rows.columns:
        raise ValueError(f"no column {column!r}: the table has {[str(c) for c in rows.columns]}")
    values = pd.to_numeric(rows[column], errors="coerce").to_numpy(dtype=float)
    bad = int(np.isnan(values).sum())
    if bad:
        raise ValueError(f"column {column!r} has {bad} of {len(values)} values that are no number: "
                         "drop or fill these rows")  # fmt: skip
    return values
