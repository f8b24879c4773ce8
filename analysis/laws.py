"""The forms of law: what is predicted from which axis, and its derivatives."""

from __future__ import annotations

from collections.abc import Mapping
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


class Law:
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
    def axes(self) -> tuple[str, ...]:
        """Names of the columns the law reads."""
        raise NotImplementedError

    @property
    def terms(self) -> tuple[Term, ...]:
        """The summands, the offset first."""
        raise NotImplementedError

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

    def effective_log_axes(
        self, theta: Mapping[str, np.ndarray], logx: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Return log axes as the terms see them; forms with inner structure override this.

        `theta` holds internal parameters (logarithms of the positive ones), each [B, 1].
        """
        return dict(logx)

    def predict(self, params: Mapping[str, float], X: Any) -> np.ndarray:
        """Evaluate the law.

        Args:
            params: every parameter by name, in natural units.
            X: table (or mapping) with one positive column an axis, n rows.

        Returns:
            Predictions [n].
        """
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


@dataclass(frozen=True, slots=True)
class Constant(Law):
    """`E`: the null, an error that depends on nothing."""

    @property
    def axes(self) -> tuple[str, ...]:
        return ()

    @property
    def terms(self) -> tuple[Term, ...]:
        return (Term(amplitude="E"),)


@dataclass(frozen=True, slots=True)
class PowerLaw(Law):
    """`E + A / x^alpha`; without offset a straight line on log-log paper."""

    axis: str = "N"
    offset: bool = True

    @property
    def axes(self) -> tuple[str, ...]:
        return (self.axis,)

    @property
    def terms(self) -> tuple[Term, ...]:
        power = Term(amplitude="A", axis=self.axis, exponent="alpha")
        return (Term(amplitude="E"), power) if self.offset else (power,)


@dataclass(frozen=True, slots=True)
class Chinchilla(Law):
    """`E + A / N^alpha + B / D^beta` (Hoffmann et al. 2022, approach 3).

    With `tied` both axes share `alpha`, as in Muennighoff et al. 2023.
    """

    tied: bool = False

    @property
    def axes(self) -> tuple[str, ...]:
        return ("N", "D")

    @property
    def terms(self) -> tuple[Term, ...]:
        return (
            Term(amplitude="E"),
            Term(amplitude="A", axis="N", exponent="alpha"),
            Term(amplitude="B", axis="D", exponent="alpha" if self.tied else "beta"),
        )


@dataclass(frozen=True, slots=True)
class Additive(Law):
    """`E + sum_i A_i / x_i^alpha_i`: the law of a study of several axes."""

    axes: tuple[str, ...] = ("N", "episodes", "domains")  # type: ignore[misc]

    def __post_init__(self) -> None:
        names = (self.axes,) if isinstance(self.axes, str) else tuple(self.axes)
        if not names or len(set(names)) != len(names):
            raise ValueError(f"axes={names!r}: give one or more different axis names")
        object.__setattr__(self, "axes", names)

    @property
    def terms(self) -> tuple[Term, ...]:
        powers = (Term(amplitude=f"A_{a}", axis=a, exponent=f"alpha_{a}") for a in self.axes)
        return (Term(amplitude="E"), *powers)


def log_axes(law: Law, X: Any) -> dict[str, np.ndarray]:
    """Read the law's axes from a table as natural logarithms, each [n].

    Raises:
        ValueError: a column is missing, not numeric, or not positive and finite.
    """
    if isinstance(X, np.ndarray) or not hasattr(X, "__getitem__"):
        values = np.asarray(X, dtype=float).reshape(-1, max(len(law.axes), 1))
        X = {axis: values[:, i] for i, axis in enumerate(law.axes)}
    have = list(X.keys()) if hasattr(X, "keys") else list(X.columns)
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
            values[..., j] = np.exp(values[..., j])
    return values


def log_predict(law: Law, theta: np.ndarray, logx: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return log predictions [B, n] for internal parameters [B, p] (complex ones too)."""
    named = {name: theta[:, j : j + 1] for j, name in enumerate(law.param_names)}
    axes = law.effective_log_axes(named, logx)
    length = len(next(iter(logx.values())))
    total = np.zeros((len(theta), length), dtype=theta.dtype)
    for term in law.terms:
        log_term = named[term.amplitude]
        if term.axis is not None and term.exponent is not None:
            log_term = log_term - named[term.exponent] * axes[term.axis]
        total = total + np.exp(log_term)
    return np.log(total)


def log_jacobian(law: Law, theta: np.ndarray, logx: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return d log prediction / d internal parameter [B, n, p] by complex steps.

    A complex step has no subtraction, hence no cancellation: the result is exact to rounding.
    """
    step = 1e-30
    columns = []
    for j in range(theta.shape[1]):
        moved = theta.astype(complex)
        moved[:, j] += 1j * step
        columns.append(log_predict(law, moved, logx).imag / step)
    return np.stack(columns, axis=-1)
