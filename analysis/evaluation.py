"""Evaluate a law: reading its axes, natural and internal parameters, predictions, derivatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from analysis.laws import Law


def log_axes(law: Law, X: Any) -> dict[str, np.ndarray]:
    """Read the law's axes from a table as natural logarithms, each [n].

    Raises:
        ValueError: a column is missing, not numeric, or not positive and finite.
    """
    if not hasattr(X, "keys"):
        X = _named_columns(law, X)
    have = list(X.keys())
    logs = {}
    for axis in law.axes:
        if axis not in have:
            raise ValueError(
                f"no column {axis!r}: {law.name} needs {law.axes}, the table has {have}"
            )
        column = np.asarray(X[axis], dtype=float).reshape(-1)
        bad = int(np.sum(~(np.isfinite(column) & (column > 0))))
        if bad:
            raise ValueError(
                f"column {axis!r} has {bad} values that are not positive and finite: a power law "
                "takes logarithms; drop these rows or choose another axis"
            )
        logs[axis] = np.log(column)
    if not law.axes:
        length = len(X) if not isinstance(X, Mapping) else len(next(iter(X.values()), [0]))
        logs[""] = np.zeros(length)
    return logs


def _named_columns(law: Law, X: Any) -> dict[str, np.ndarray]:
    """Turn an array [n, axes] (or [n] for one axis) into columns under the law's axes."""
    values = np.asarray(X, dtype=float)
    if not law.axes and values.ndim:
        return {"": np.zeros(len(values))}
    if values.ndim == 1 and len(law.axes) == 1:
        values = values[:, None]
    if values.ndim != 2 or values.shape[1] != len(law.axes):
        raise ValueError(
            f"X has shape {values.shape}: {law.name} needs a table with the columns {law.axes}, or "
            f"an array [n, {len(law.axes)}]"
        )
    return {axis: values[:, i] for i, axis in enumerate(law.axes)}


def internal(law: Law, values: Any) -> np.ndarray:
    """Turn natural parameters [..., p] into internal ones (positive ones by logarithm)."""
    theta = np.array(values, dtype=float)
    for j, name in enumerate(law.param_names):
        if name in law.positive:
            with np.errstate(divide="ignore", invalid="ignore"):
                theta[..., j] = np.log(theta[..., j])
    return theta


def natural(law: Law, theta: np.ndarray) -> np.ndarray:
    """Turn internal parameters [..., p] back into natural ones."""
    values = np.array(theta, dtype=float)
    for j, name in enumerate(law.param_names):
        if name in law.positive:
            with np.errstate(over="ignore"):  # an amplitude at x = 1 may exceed all numbers
                values[..., j] = np.exp(values[..., j])
    return values


def log_predict(law: Law, theta: np.ndarray, logx: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return log predictions [B, n] for internal parameters [B, p] (complex ones too)."""
    named = {name: theta[:, j : j + 1] for j, name in enumerate(law.param_names)}
    length = len(next(iter(logx.values())))
    total = np.zeros((len(theta), length), dtype=theta.dtype)
    for log_term in law.log_terms(named, logx):
        total = total + np.exp(log_term)
    return np.log(total)


def log_jacobian(
    law: Law,
    theta: np.ndarray,
    logx: Mapping[str, np.ndarray],
    columns: Sequence[int] | None = None,
) -> np.ndarray:
    """Return d log prediction / d internal parameter [B, n, p] by complex steps.

    A complex step has no subtraction, hence no cancellation: the result is exact to rounding.
    Parameters not in `columns` get zeros.
    """
    step = 1e-30
    length = len(next(iter(logx.values())))
    jac = np.zeros((len(theta), length, theta.shape[1]))
    for j in range(theta.shape[1]) if columns is None else columns:
        moved = theta.astype(complex)
        moved[:, j] += 1j * step
        jac[:, :, j] = log_predict(law, moved, logx).imag / step
    return jac
