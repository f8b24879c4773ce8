"""What a law is, and how one is evaluated: axes read, parameters, predictions, derivatives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Exponents beyond this are steps, not power laws: the fit reports the bound instead.
MAX_EXPONENT = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One summand `amplitude * axis ** -exponent`; a bare amplitude is the offset."""

    amplitude: str
    axis: str | None = None
    exponent: str | None = None


class Law(ABC):
    """A sum of positive terms in the axes: the base of every form here.

    A form defines `axes`, `terms` and `param_names`. Amplitudes are positive (or exactly zero,
    which is a bound); exponents have either sign, so that an error that rises can be seen.
    """

    __slots__ = ()

    @property
    def name(self) -> str:
        """The form's name for tables and records."""
        return type(self).__name__

    @property
    @abstractmethod
    def axes(self) -> tuple[str, ...]:
        """Names of the columns the law reads."""

    @property
    @abstractmethod
    def terms(self) -> tuple[Term, ...]:
        """The summands, the offset first."""

    @property
    def param_names(self) -> tuple[str, ...]:
        """Parameters in the order of every array that holds them."""
        names: dict[str, None] = {}
        for term in self.terms:
            names[term.amplitude] = None
        for term in self.terms:
            if term.exponent:
                names[term.exponent] = None
        return tuple(names)

    @property
    def positive(self) -> tuple[str, ...]:
        """Parameters that are positive, and searched for by their logarithm."""
        return tuple(term.amplitude for term in self.terms)

    @property
    def is_posynomial(self) -> bool:
        """Whether the law is exactly its terms (second derivatives are then closed forms)."""
        return True

    def log_terms(
        self, theta: Mapping[str, np.ndarray], logx: Mapping[str, np.ndarray]
    ) -> list[np.ndarray]:
        """Return the logarithm of each term [B, n].

        Args:
            theta: internal parameters (logarithms of the positive ones), each [B, 1]; complex
                where derivatives are taken by complex steps.
            logx: log axes, each [n].
        """
        logs = []
        for term in self.terms:
            log_term = theta[term.amplitude]
            if term.axis is not None and term.exponent is not None:
                log_term = log_term - theta[term.exponent] * logx[term.axis]
            logs.append(log_term)
        return logs

    def predict(self, params: Mapping[str, float], X: Any) -> np.ndarray:
        """Evaluate the law.

        Args:
            params: every parameter by name, in natural units.
            X: table (or mapping) with one positive column an axis, n rows.

        Returns:
            Predictions [n].

        Raises:
            ValueError: a parameter or a column is missing, or an axis is not positive.
        """
        missing = [name for name in self.param_names if name not in params]
        if missing:
            raise ValueError(f"no value of {', '.join(missing)}: the law has {self.param_names}")
        theta = internal(self, [params[name] for name in self.param_names])
        return np.exp(log_predict(self, theta[None], log_axes(self, X))[0])

    def jacobian(self, params: Mapping[str, float], X: Any) -> np.ndarray:
        """Return d prediction / d parameter [n, p], exact to rounding, in natural units."""
        values = np.array([float(params[name]) for name in self.param_names])
        logx = log_axes(self, X)
        theta = internal(self, values)[None]
        slopes = log_jacobian(self, theta, logx)[0]
        prediction = np.exp(log_predict(self, theta, logx)[0])
        jac = slopes * prediction[:, None]
        for j, name in enumerate(self.param_names):
            if name not in self.positive:
                continue
            if values[j] > 0:
                jac[:, j] /= values[j]
            else:  # the derivative at zero is the term without its amplitude
                one = dict(zip(self.param_names, values, strict=True)) | {name: 1.0}
                jac[:, j] = self.predict(one, X) - prediction
        return jac

    def describe(self, params: Mapping[str, float] | None = None) -> str:
        """Write the law as a formula, with numbers where `params` are given."""

        def show(name: str) -> str:
            return name if params is None else f"{params[name]:.4g}"

        parts = []
        for term in self.terms:
            tail = f" / {term.axis}^{show(term.exponent)}" if term.axis and term.exponent else ""
            parts.append(show(term.amplitude) + tail)
        return " + ".join(parts)


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
    step = 1e-30  # its square vanishes beside any value: the first order is all that is left
    length = len(next(iter(logx.values())))
    jac = np.zeros((len(theta), length, theta.shape[1]))
    for j in range(theta.shape[1]) if columns is None else columns:
        moved = theta.astype(complex)
        moved[:, j] += 1j * step
        jac[:, :, j] = log_predict(law, moved, logx).imag / step
    return jac
