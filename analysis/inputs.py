"""Checks of what users give: columns, values and options; each error says the cure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd


class NotFittedError(ValueError, AttributeError):
    """The regressor has not been fitted; both kinds of error, as in scikit-learn."""


def check_level(level: Any) -> None:
    """Raise ValueError unless the level of an interval lies between 0 and 1."""
    if not isinstance(level, int | float | np.number) or not 0 < level < 1:
        raise ValueError(f"level={level!r}: give a share between 0 and 1, such as 0.95")


def check_positive(name: str, value: Any) -> None:
    """Raise ValueError unless an option is a positive, finite number."""
    if not isinstance(value, int | float | np.number) or not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name}={value!r}: give a positive number")


def check_columns(df: pd.DataFrame, *names: str) -> None:
    """Raise ValueError for columns that the table lacks."""
    missing = [name for name in names if name not in df.columns]
    if missing:
        have = [str(column) for column in df.columns]
        raise ValueError(f"no column {', '.join(map(repr, missing))}: the table has {have}")


def check_one_metric(df: pd.DataFrame) -> None:
    """Raise ValueError for a table whose column `metric` names several."""
    if "metric" in df.columns and df["metric"].nunique(dropna=False) > 1:
        mixed = sorted(df["metric"].astype(str).unique())
        raise ValueError(f"{len(mixed)} metrics in one table ({mixed[:4]}): keep the rows of one")


def positive_column(df: pd.DataFrame, name: str) -> np.ndarray:
    """Return a column [n] that logarithms are taken of, or that is a price.

    Raises:
        ValueError: it is missing, or has values that are not positive and finite.
    """
    check_columns(df, name)
    values = pd.to_numeric(df[name], errors="coerce").to_numpy(dtype=float)
    bad = int((~(np.isfinite(values) & (values > 0))).sum())
    if bad:
        raise ValueError(
            f"column {name!r} has {bad} of {len(values)} values that are not positive and finite: "
            "drop or mend these rows"
        )
    return values


def error_column(df: pd.DataFrame, y: str) -> np.ndarray:
    """Return the errors of a table [n]: one metric, positive and finite."""
    check_one_metric(df)
    return positive_column(df, y)
