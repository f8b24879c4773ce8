"""Settings side by side: never an order without the difference in standard errors and the seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.document import Document, Scalar
from analysis.table import plain_scalar, setting_columns

# Errors have other targets at other levels of these: compared within a level only (App. C.4),
# unless they were measured over one fixed horizon or count failures.
OWN_TARGETS = ("prediction_window_s",)
ONE_TARGET = ("horizon_l1", "adapted_failure")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting(Document):
    """One setting: its values in the columns that vary, and the geometric mean of y over seeds.

    `delta_percent` and `delta_over_sigma` (standard errors of the difference) are against the
    best; None where seeds do not say what a difference is worth.
    """

    values: dict[str, Scalar]
    num_seeds: int
    y: str
    error: float
    delta_percent: float | None
    delta_over_sigma: float | None

    def to_row(self) -> dict[str, Scalar]:
        """Return the setting as a row of a table; the error stands under its column's name."""
        return self.values | {
            "num_seeds": self.num_seeds,
            self.y: self.error,
            "delta_percent": self.delta_percent,
            "delta_over_sigma": self.delta_over_sigma,
        }

    to_dict = to_row


def rank_settings(
    clean: pd.DataFrame,
    *,
    y: str = "val_l1",
    sigma: float | None = None,
    n_column: str = "num_params_total",
    also: Sequence[str] = (),
) -> list[Setting]:
    """Average the seeds of each setting and compare every setting with the best.

    Args:
        clean: runs with a usable error.
        y: the error's column.
        sigma: seed-to-seed standard deviation of log y (`noise_floor`).
        n_column: the parameter count to show.
        also: columns beside the usual ones that tell settings apart.

    Returns:
        Settings, best first; those with other prediction windows have other targets and are
        compared within a window only, unless y is in ONE_TARGET. Without sigma there is no order:
        they stand by their values, both deltas None.
    """
    keys = varying_settings(clean, n_column, also)
    table = clean.assign(_log=np.log(clean[y].to_numpy(dtype=float)))
    if keys:
        grouped = table.groupby(keys, dropna=False, sort=True)["_log"]
        cells = grouped.agg(_mean="mean", _count="size").reset_index()
    else:
        cells = pd.DataFrame({"_mean": [table["_log"].mean()], "_count": [len(table)]})
    own = [c for c in OWN_TARGETS if c in keys and y not in ONE_TARGET]
    if sigma:
        cells = cells.sort_values([*own, "_mean"], kind="stable")
    listed = cells.to_dict("records")
    rows = []
    for cell in listed:
        rivals = [other for other in listed if all(_same(other[c], cell[c]) for c in own)]
        best = min(rivals, key=lambda other: other["_mean"])
        gap = cell["_mean"] - best["_mean"]
        error = (sigma or np.nan) * np.sqrt(1 / cell["_count"] + 1 / best["_count"])
        rows.append(
            Setting(
                values={str(k): plain_scalar(cell[k]) for k in keys},
                num_seeds=int(cell["_count"]),
                y=y,
                error=float(np.exp(cell["_mean"])),
                delta_percent=float(100 * np.expm1(gap)) if sigma else None,
                delta_over_sigma=float(gap / error) if sigma else None,
            )
        )
    return rows


def varying_settings(
    clean: pd.DataFrame, n_column: str = "num_params_total", also: Sequence[str] = ()
) -> list[str]:
    """List the columns that tell settings apart: those of sizes, counts and settings that vary."""
    wanted = setting_columns(list(clean.columns), n_column, also)
    if n_column != "num_params_total" and n_column in wanted:
        wanted = [c for c in wanted if c != "num_params_total"]
    return [c for c in wanted if clean[c].nunique(dropna=False) > 1]


def setting_of(row: Mapping[str, Scalar], ranking: Sequence[Setting]) -> Setting | None:
    """Return the ranked setting that a run belongs to; None for a run that was not ranked."""
    same = (s for s in ranking if all(_same(row.get(k), v) for k, v in s.values.items()))
    return next(same, None)


def _same(a: Any, b: Any) -> bool:
    missing = [v is None or v != v for v in (a, b)]
    return all(missing) if any(missing) else a == b
