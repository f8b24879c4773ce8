"""The run table as laws see it: axes and their columns, clean rows, and slices along one axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd

from analysis.document import Scalar
from analysis.inputs import check_one_metric
from analysis.law import Law
from analysis.notes import MIN_LEVELS, Note

# Law axes and the columns of the exported run table that hold them.
AXIS_COLUMNS = {
    "N": "num_params_total",
    "D": "num_samples_seen",
    "episodes": "num_unique_episodes",
    "domains": "num_domains",
    "C": "compute_flops",
}
AXIS_LABELS = {
    "N": "parameters",
    "D": "training samples seen",
    "episodes": "unique training episodes",
    "domains": "training domains",
    "C": "training compute (FLOPs)",
}
N_LABELS = {
    "num_params_policy": "policy parameters",
    "num_params_trainable": "trainable parameters",
}
# What must not vary within a slice along one axis, beside the other axes.
HELD_COLUMNS = ("U", "stage", "blind", "soft_prompt_length", "prediction_window_s")
STUDY_AXES = ("N", "D", "episodes", "domains")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Rows along one axis with all else equal: the rows, and at what the rest is held."""

    axis: str
    column: str
    rows: pd.DataFrame
    held: dict[str, Scalar]
    notes: tuple[Note, ...] = ()

    @property
    def num_levels(self) -> int:
        """Distinct values of the axis."""
        return int(self.rows[self.column].nunique())


def axis_column(axis: str, columns: Sequence[str], n_column: str = "num_params_total") -> str:
    """Name the column of an axis: the axis's own name if the table has it, else the contract's.

    Raises:
        ValueError: the table has neither.
    """
    mapped = n_column if axis == "N" else AXIS_COLUMNS.get(axis, axis)
    asked = axis == "N" and n_column != AXIS_COLUMNS["N"]
    for name in (mapped, axis) if asked else (axis, mapped):
        if name in columns:
            return name
    tried = " and ".join(dict.fromkeys((repr(axis), repr(mapped))))
    raise ValueError(f"no column for axis {axis!r}: looked for {tried} in {list(columns)}")


def check_n_column(n_column: str, columns: Sequence[str]) -> None:
    """Raise ValueError for a column of N that was asked for by name and is not in the table."""
    if n_column == "num_params_total" or n_column in columns:
        return
    known = [name for name in columns if name.startswith("num_params")] or list(columns)
    raise ValueError(f"n_column {n_column!r} is not in the table; allowed: {', '.join(known)}")


def setting_columns(
    columns: Sequence[str], n_column: str = "num_params_total", also: Sequence[str] = ()
) -> list[str]:
    """List the columns that tell two runs apart other than by seed, as far as a table has them.

    Compute is one only where a table has no other: it follows from sizes and samples.
    """
    axes = [name for axis in AXIS_COLUMNS if axis != "C" for name in (axis, AXIS_COLUMNS[axis])]
    wanted = ["size", n_column, *axes, "episodes_per_domain", *HELD_COLUMNS, *also]
    found = [name for name in dict.fromkeys(wanted) if name in columns]
    return found or [name for name in ("C", AXIS_COLUMNS["C"]) if name in columns]


def unusual_columns(axes: Sequence[str], columns: Sequence[str]) -> tuple[str, ...]:
    """Return those of the axes that are columns of the table's own, not of the contract."""
    usual = {*AXIS_COLUMNS, *AXIS_COLUMNS.values()}
    return tuple(axis for axis in axes if axis in columns and axis not in usual)


def axis_label(axis: str, n_column: str = "num_params_total") -> str:
    """Return what an axis is called in figures and sentences; N says which parameters it counts."""
    if axis == "N" and n_column in N_LABELS:
        return N_LABELS[n_column]
    return AXIS_LABELS.get(axis, axis)


def axis_frame(table: pd.DataFrame, law: Law, n_column: str = "num_params_total") -> pd.DataFrame:
    """Return the law's axes as columns under their axis names, in the table's row order."""
    found = {a: axis_column(a, list(table.columns), n_column) for a in law.axes}
    columns = {a: table[c].to_numpy(dtype=float) for a, c in found.items()}
    return pd.DataFrame(columns, index=table.index)


def group_values(table: pd.DataFrame, groups: str) -> np.ndarray:
    """Return the run of each row; a table without that column has one run a row."""
    if groups in table.columns:
        return table[groups].to_numpy()
    return np.arange(len(table))


def clean_runs(
    runs: pd.DataFrame, y: str = "val_l1", groups: str = "run_id"
) -> tuple[pd.DataFrame, tuple[Note, ...]]:
    """Keep finished, sighted, pretraining rows with a usable error; say what was dropped.

    Raises:
        ValueError: no such column, a run id given twice, or several metrics mixed.
    """
    if y not in runs.columns:
        have = [str(column) for column in runs.columns]
        raise ValueError(f"no column {y!r}: the table has {have}; name the error with y (--y)")
    if groups in runs.columns and runs[groups].duplicated().any():
        twice = sorted(runs.loc[runs[groups].duplicated(), groups].astype(str).unique())
        raise ValueError(f"{groups} {twice[:3]} given more than once: keep one row a run")
    check_one_metric(runs)
    notes = []
    keep = pd.Series(True, index=runs.index)
    value = pd.to_numeric(runs[y], errors="coerce")
    tests = [("no_value", f"without a positive, finite {y}", np.isfinite(value) & (value > 0))]
    if "state" in runs.columns:
        tests.insert(0, ("not_done", "not done", runs["state"] == "done"))
    if "blind" in runs.columns:
        sighted = ~runs["blind"].astype("boolean").fillna(False).astype(bool)
        tests.append(("blind", "blind (images zeroed)", sighted))
    if "stage" in runs.columns and (runs["stage"] == "pretrain").any():
        tests.append(("other_stage", "of another stage", runs["stage"] == "pretrain"))
    for code, words, good in tests:
        dropped = int((keep & ~good).sum())
        if dropped:
            notes.append(Note(code=code, message=f"{dropped} runs {words} left out", value=dropped))
        keep &= good
    return runs[keep].assign(**{y: value[keep].astype(float)}), tuple(notes)


def axis_slice(
    runs: pd.DataFrame, axis: str, *, n_column: str = "num_params_total", hold: Sequence[str] = ()
) -> Slice:
    """Return the rows along one axis: the combination of everything else with most levels.

    Of several with as many levels and rows, the one of the largest values is taken.

    Adding domains adds episodes too; the slice along `domains` therefore holds
    `episodes_per_domain` where that column exists, and takes all episodes of each level elsewhere.
    Sizes are held by the column `size` where there is one, since a parameter count may change
    with the number of domains.

    Args:
        runs: clean run table.
        axis: "N", "D", "episodes", "domains", or a column.
        n_column: the column behind "N".
        hold: more columns that must not vary.
    """
    column = axis_column(axis, list(runs.columns), n_column)
    held = _held_columns(runs, axis, column, n_column, hold)
    found = _longest(runs, axis, column, held)
    if axis == "domains":
        # where sources differ in size, no number per domain is common: take all there is of each
        whole = [c for c in held if c != "episodes_per_domain"]
        other = _longest(_all_episodes(runs, column, whole), axis, column, whole)
        found = other if held == whole or other.num_levels > found.num_levels else found
    missing = runs[column].nunique() - found.num_levels
    if not missing or found.num_levels >= MIN_LEVELS:
        return found
    message = f"{missing} levels of {axis} occur only together with other changes: not used"
    return replace(found, notes=(Note(code="confounded", message=message, value=int(missing)),))


def one_line(runs: pd.DataFrame, axis: str, n_column: str = "num_params_total") -> pd.DataFrame:
    """Return the rows along one axis: all, unless other settings vary within one of its levels.

    They do in a table of several axes; its rows are then those of `axis_slice`.
    """
    column = axis_column(axis, list(runs.columns), n_column)
    held = _held_columns(runs, axis, column, n_column, ())
    if not held or (runs.groupby(column)[held].nunique(dropna=False) <= 1).all(axis=None):
        return runs
    return axis_slice(runs, axis, n_column=n_column).rows


def _all_episodes(runs: pd.DataFrame, column: str, held: list[str]) -> pd.DataFrame:
    """Keep, at each level, the rows with the most episodes."""
    episodes = _own("episodes", runs)
    if episodes not in runs.columns or runs.empty:
        return runs
    most = runs.groupby([*held, column], dropna=False)[episodes].transform("max")
    return runs[runs[episodes] == most]


def _longest(runs: pd.DataFrame, axis: str, column: str, held: list[str]) -> Slice:
    """Return the combination of the held columns with most levels, then most rows, the last."""
    if not held or runs.empty:
        return Slice(axis=axis, column=column, rows=runs, held={})
    values, rows = max(
        reversed(list(runs.groupby(held, dropna=False, sort=True))),
        key=lambda item: (item[1][column].nunique(), len(item[1])),
    )
    fixed = dict(zip(held, (plain_scalar(v) for v in values), strict=True))
    return Slice(axis=axis, column=column, rows=rows, held=fixed)


def _held_columns(
    runs: pd.DataFrame, axis: str, column: str, n_column: str, hold: Sequence[str]
) -> list[str]:
    others = {a: _own(a, runs, n_column) for a in STUDY_AXES}
    others["N"] = "size" if "size" in runs.columns else others["N"]
    held = [c for a, c in others.items() if a != axis]
    if axis == "domains":
        held.remove(others["episodes"])
        held.append("episodes_per_domain")
    if axis == "C":  # compute is made of sizes and samples: only the data are held
        held = [others["episodes"], others["domains"]]
    return [
        c for c in dict.fromkeys([*held, *HELD_COLUMNS, *hold]) if c in runs.columns and c != column
    ]


def _own(axis: str, runs: pd.DataFrame, n_column: str = "num_params_total") -> str:
    """Return the axis's own name where the table has it, else the contract's column."""
    try:
        return axis_column(axis, list(runs.columns), n_column)
    except ValueError:
        return AXIS_COLUMNS[axis]


def plain_scalar(value: Any) -> Any:
    """Turn a NumPy scalar into a Python one, for JSON."""
    return value.item() if hasattr(value, "item") else value


def find_axes(runs: pd.DataFrame, n_column: str = "num_params_total") -> list[str]:
    """List the study axes along which a slice has two levels or more."""
    axes = []
    for axis in STUDY_AXES:
        try:
            found = axis_slice(runs, axis, n_column=n_column)
        except ValueError:
            continue
        if found.num_levels >= 2:
            axes.append(axis)
    return axes


def published(name: str) -> pd.DataFrame:
    """Read a table of the paper by its number, e.g. "table_1"; every row names its source.

    Raises:
        ValueError: there is no such table here.
    """
    folder = resources.files("analysis.published")
    path = folder / f"{name}.csv"
    if not path.is_file():
        have = sorted(p.name[:-4] for p in folder.iterdir() if p.name.endswith(".csv"))
        raise ValueError(f"no published table {name!r}: choose from {', '.join(have)}")
    with path.open(encoding="utf-8") as stream:
        return pd.read_csv(stream)
