"""The forms of law: what is predicted from which axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from analysis.law import MAX_EXPONENT, Law, Term

__all__ = [
    "MAX_EXPONENT",
    "Additive",
    "BrokenPowerLaw",
    "Chinchilla",
    "Constant",
    "DataConstrained",
    "Law",
    "PowerLaw",
    "Term",
]


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


@dataclass(frozen=True, slots=True)
class DataConstrained(Law):
    """Chinchilla's law with repeated data and excess parameters (Muennighoff et al. 2023).

    `E + A / N'^alpha + B / D'^beta`, where D' = U + U R_D (1 - exp(-(D / U - 1) / R_D)) counts
    repeated tokens for less and N' likewise counts parameters beyond those that U unique tokens
    deserve. Axes: parameters `N`, tokens seen `D`, unique tokens `U`.
    """

    @property
    def axes(self) -> tuple[str, ...]:
        return ("N", "D", "U")

    @property
    def terms(self) -> tuple[Term, ...]:
        return Chinchilla().terms

    @property
    def param_names(self) -> tuple[str, ...]:
        return ("E", "A", "B", "alpha", "beta", "R_D", "R_N")

    @property
    def positive(self) -> tuple[str, ...]:
        return ("E", "A", "B", "R_D", "R_N")

    @property
    def is_posynomial(self) -> bool:
        return False

    def log_terms(
        self, theta: Mapping[str, np.ndarray], logx: Mapping[str, np.ndarray]
    ) -> list[np.ndarray]:
        alpha, beta = theta["alpha"], theta["beta"]
        unique = np.minimum(logx["U"], logx["D"])
        # N and D that are optimal together: N = G^(1 + beta / alpha) D^(beta / alpha)
        log_g = (np.log(alpha * 1.0) + theta["A"] - np.log(beta * 1.0) - theta["B"]) / (
            alpha + beta
        )
        deserved = log_g + beta / alpha * (unique + log_g)
        deserved = np.where(deserved.real < logx["N"], deserved, logx["N"])
        log_d = with_repetition(logx["D"], unique, theta["R_D"])
        log_n = with_repetition(logx["N"], deserved, theta["R_N"])
        return [theta["E"], theta["A"] - alpha * log_n, theta["B"] - beta * log_d]


def with_repetition(log_x: np.ndarray, log_base: np.ndarray, log_r: np.ndarray) -> np.ndarray:
    """Return log of base + base R (1 - exp(-(x / base - 1) / R)): excess counts for less."""
    r = np.exp(log_r)
    excess = np.exp(log_x - log_base) - 1.0
    return log_base + np.log1p(-r * np.expm1(-excess / r))


@dataclass(frozen=True, slots=True)
class BrokenPowerLaw(Law):
    """`E + A x^-alpha prod_i (1 + (x / d_i)^(1 / f_i))^(-c_i f_i)` (Caballero et al. 2023).

    At each break d_i the slope changes by c_i over a width f_i (in log x).
    """

    axis: str = "N"
    breaks: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.breaks, int) or self.breaks < 1:
            raise ValueError(f"breaks={self.breaks!r}: give a whole number, 1 or more")

    @property
    def axes(self) -> tuple[str, ...]:
        return (self.axis,)

    @property
    def terms(self) -> tuple[Term, ...]:
        return PowerLaw(self.axis).terms

    @property
    def param_names(self) -> tuple[str, ...]:
        bends = range(1, self.breaks + 1)
        return ("E", "A", "alpha", *(f"{p}_{i}" for i in bends for p in ("c", "d", "f")))

    @property
    def positive(self) -> tuple[str, ...]:
        return ("E", "A", *(n for n in self.param_names if n[0] in "df"))

    @property
    def is_posynomial(self) -> bool:
        return False

    def log_terms(
        self, theta: Mapping[str, np.ndarray], logx: Mapping[str, np.ndarray]
    ) -> list[np.ndarray]:
        x = logx[self.axis]
        falling = theta["A"] - theta["alpha"] * x
        for i in range(1, self.breaks + 1):
            width = np.exp(theta[f"f_{i}"])
            z = (x - theta[f"d_{i}"]) / width
            # log(1 + e^z) without overflow; the branch is chosen by the real part
            bend = np.where(z.real > 0, z, 0) + np.log1p(np.exp(np.where(z.real > 0, -z, z)))
            falling = falling - theta[f"c_{i}"] * width * bend
        return [theta["E"], falling]

    def describe(self, params: Mapping[str, float] | None = None) -> str:
        form = PowerLaw(self.axis).describe(params)
        if params is None:
            return f"{form} with {self.breaks} breaks"
        at = ", ".join(f"{params[f'd_{i}']:.4g}" for i in range(1, self.breaks + 1))
        return f"{form}, slope changing at {self.axis} = {at}"
