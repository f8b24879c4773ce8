"""Fit one named law to any table with named columns: what `scaling fit TABLE --law` prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.axis_study import describe_fit
from analysis.fit import LawRegressor
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
from analysis.options import FitOptions, jsonable
from analysis.pages.words import number, sensitivity_text, span
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
) -> dict[str, Any]:
    """Fit one law to a table; return plain data for JSON.

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
    reg.fit(
        X if len(found) else np.zeros((len(rows), 0)),
        _numbers(rows, y),
        weights=None if weights is None else _numbers(rows, weights),
        groups=(runs := group_values(rows, how.groups)),
    )
    about = {"schema": SCHEMA, "law": law.name, "y": y, "columns": found}
    told = _describe(reg, how, runs)
    told["notes"] = [n.to_dict() for n in notes] + told["notes"]
    return jsonable(about | told)


def _describe(reg: LawRegressor, how: FitOptions, runs: np.ndarray) -> dict[str, Any]:
    """Return parameters, intervals and how they came about."""
    told = describe_fit(reg, how, runs)
    intervals = {
        k: {"bootstrap": p["bootstrap"], "profile": p["profile"]} for k, p in told["params"].items()
    }
    return {
        "params": dict(reg.params_),
        "intervals": intervals,
        "level": how.level,
        "fixed": dict(reg.fixed or {}),
        "loss": how.loss,
        "delta": how.delta,
        "link": how.link,
        "seed": how.seed,
        "num_draws": how.num_draws,
        "num_rows": reg.n_obs_,
        **{k: v for k, v in told.items() if k not in ("params", "profiles")},
    }


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


def render_law(document: Mapping[str, Any]) -> str:
    """Write one fitted law as text for a terminal."""
    rule = "-" * 88
    where = ", ".join(f"{a} = {c}" for a, c in document["columns"].items())
    lines = [
        f"{document['law']}: {document['y']} = {document['formula']}",
        rule,
        f"estimator: {document['estimator']}; {document['num_rows']} rows; {where or 'no axes'}",
    ]
    for name, value in document["params"].items():
        line = f"  {name:<12} {value:<12.6g}"
        for kind, interval in document["intervals"][name].items():
            if interval is not None:
                line += f"  {kind} {document['level']:.0%} {span(interval)}"
        lines.append(line + ("  held" if name in document["fixed"] else ""))
    lines.append(
        f"cost {document['cost']:.9g} (sum), sigma {number(document['sigma'])} on the "
        f"{document['link']} scale, {document['df']} degrees of freedom, "
        f"{document['n_starts_at_optimum']} of {document['n_starts']} starts at the optimum, "
        f"condition {number(document['condition_number'])}"
    )
    if document.get("sensitivity"):
        lines.append(sensitivity_text(document["sensitivity"]))
    lines += [f"note: {note['message']}" for note in document["notes"]]
    return "\n".join([*lines, rule])
