"""Profile likelihood: the cost along one parameter, and the interval it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import chdtri, erf, fdtri

from analysis.document import Document
from analysis.law import MAX_EXPONENT
from analysis.solving.objective import Rho
from analysis.solving.solver import minimise

if TYPE_CHECKING:
    from analysis.fit import LawRegressor

PROFILE_POINTS = 31  # odd: the estimate is the middle one
WIDEST = 20.0  # of a half-grid: e^20 in an amplitude; an interval beyond is open


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile(Document):
    """The cost along one parameter, minimised over the others: grid, cost, interval."""

    name: str
    level: float
    estimate: float
    grid: np.ndarray
    cost: np.ndarray
    threshold: float
    interval: tuple[float, float]


def loss_scale(rho: Rho, sigma: float) -> float:
    """Return E psi^2 / E psi' under normal noise: twice a rise in cost over it is chi-square.

    For least squares it is sigma^2, for LAD sigma sqrt(pi / 2) (Huber and Ronchetti 2009, ch. 13).
    """
    if rho.loss == "binomial":
        return 1.0
    if rho.loss == "ls":
        return sigma**2
    if rho.loss == "lad":
        return sigma * float(np.sqrt(np.pi / 2))
    c = rho.delta / max(sigma, 1e-300)
    inside = float(erf(c / np.sqrt(2)))
    if inside <= 0:
        return sigma * rho.delta * float(np.sqrt(np.pi / 2))
    second = sigma**2 * (inside - c * np.sqrt(2 / np.pi) * np.exp(-c * c / 2))
    return float((second + rho.delta**2 * (1 - inside)) / inside)


def profile(reg: LawRegressor, name: str, level: float = 0.95) -> Profile:
    """Profile one parameter; an end that the data do not close is 0 or infinite.

    The threshold is half the F(1, n - p) quantile times the loss's scale (`loss_scale`).

    Raises:
        ValueError: an unknown or fixed parameter, or no residual degrees of freedom.
    """
    if name not in reg.law.param_names or name in (reg.fixed or {}):
        raise ValueError(f"cannot profile {name!r}: free parameters are {_free_names(reg)}")
    if reg.df_ <= 0:
        raise ValueError(f"no residual degrees of freedom: {reg.n_obs_} rows; add runs")
    quantile = fdtri(1, reg.df_, level) if reg.loss != "binomial" else chdtri(1, 1 - level)
    threshold = 0.5 * float(quantile) * loss_scale(reg.rho, reg.sigma_)
    return _Profiler(reg, name).run(level, threshold)


def _free_names(reg: LawRegressor) -> list[str]:
    return [n for n in reg.law.param_names if n not in (reg.fixed or {})]


def _adjust(width: float, inside: np.ndarray) -> float:
    """Widen a half-grid [k] that never leaves the interval; refine one that leaves it at once."""
    if inside.all():
        return min(4 * width, WIDEST)
    if inside[: len(inside) // 5].all() or not inside.any() or width < 1e-9:
        return width
    return width * 0.3


class _Profiler:
    """Walks one internal parameter (a logarithm where positive) with the others minimised."""

    def __init__(self, reg: LawRegressor, name: str) -> None:
        self.reg, self.name = reg, name
        self.j = reg.law.param_names.index(name)
        self.objective = reg.objective((*(reg.fixed or {}), name))
        uncentred = reg._objective.from_centred(reg._theta)
        self.theta = self.objective.to_centred(uncentred)
        self.free = np.isnan(reg._held)
        self.free[self.j] = False
        self.positive = name in reg.law.positive

    def cost(self, values: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Minimise with the parameter at each value; return cost [k] and parameters [k, p]."""
        starts = starts.copy()
        starts[:, self.j] = values
        data = self.reg.data_
        found = minimise(
            self.objective,
            starts,
            target=data.target,
            weights=data.weights,
            rho=self.reg.rho,
            free=self.free,
            max_iter=50,
            tolerance=1e-9,
        )
        if self.reg.loss == "lad":  # solved rounded off, and then lower than the loss itself
            exact = self.objective.cost(found.theta, data.target, data.weights, self.reg.rho)
            return exact, found.theta
        return found.cost, found.theta

    def run(self, level: float, threshold: float) -> Profile:
        """Fit the grid to the interval: wider where the cost has not risen enough, or finer."""
        half = PROFILE_POINTS // 2
        centre, left, right = self._first_grid()
        for _ in range(10):
            grid = np.concatenate(
                [
                    np.linspace(centre - left, centre, half, endpoint=False),
                    np.linspace(centre, centre + right, half + 1),
                ]
            )
            if not self.positive:
                grid = np.clip(grid, -MAX_EXPONENT, MAX_EXPONENT)
            cost = self._both_ways(grid)
            inside = cost - min(float(cost.min()), self.reg.cost_) <= threshold
            was = left, right
            left = _adjust(left, inside[half::-1])
            right = _adjust(right, inside[half:])
            if (left, right) == was:
                break
        return self._close(grid, cost, (level, threshold))

    def _first_grid(self) -> tuple[float, float, float]:
        """Return centre and half-widths: three standard errors, within reason."""
        _, jac = self.reg._objective.linearise(self.reg._theta, self.reg.data_.target)
        inner = jac.T @ (jac * self.reg.data_.weights[:, None])
        centre = float(self.theta[self.j])
        if not np.isfinite(centre):  # a term at its bound: begin where it would just be seen
            return self._log_error() - 6.0, 2.0, 6.0
        diagonal = float(np.linalg.pinv(inner, rcond=1e-12)[self.j, self.j])
        width = 3.0 * self.reg.sigma_ * np.sqrt(max(diagonal, 0.0))
        width = float(np.clip(width, 1e-6, 1.0)) if np.isfinite(width) else 1.0
        return centre, width, width

    def _log_error(self) -> float:
        """Return the middle of the fitted errors, in logarithm."""
        return float(np.median(self.reg._objective.log_prediction(self.reg._theta[None])))

    def _both_ways(self, grid: np.ndarray) -> np.ndarray:
        """Solve on the grid [k] from the fit, then again from both neighbours; return costs."""
        base = self.reg._theta.copy()
        base = self.objective.to_centred(self.reg._objective.from_centred(base))
        # A term at its bound begins at a thousandth of the error, where it can still move.
        base = np.where(np.isneginf(base), self._log_error() + np.log(1e-3), base)
        cost, theta = self.cost(grid, np.tile(base, (len(grid), 1)))
        beside = np.concatenate([np.roll(theta, 1, axis=0), np.roll(theta, -1, axis=0)])
        again = self.cost(np.tile(grid, 2), beside)[0].reshape(2, -1).min(axis=0)
        return np.minimum(cost, again)

    def _close(
        self,
        grid: np.ndarray,
        cost: np.ndarray,
        how: tuple[float, float],
    ) -> Profile:
        level, threshold = how
        least = min(float(cost.min()), self.reg.cost_)
        inside = np.flatnonzero(cost - least <= threshold)
        if len(inside):
            low = self._cross(grid, cost - least - threshold, int(inside[0]), -1)
            high = self._cross(grid, cost - least - threshold, int(inside[-1]), 1)
        else:  # noiseless data: nothing but the estimate is as good
            low = high = float(self.theta[self.j])
        to_user = np.exp if self.positive else np.asarray
        return Profile(
            name=self.name,
            level=level,
            estimate=self.reg.params_[self.name],
            grid=to_user(grid),
            cost=cost,
            threshold=threshold,
            interval=(float(to_user(low)), float(to_user(high))),
        )

    def _cross(self, grid: np.ndarray, excess: np.ndarray, at: int, side: int) -> float:
        """Return where the excess over the threshold changes sign beside a grid point."""
        other = at + side
        if other < 0 or other >= len(grid):
            return side * np.inf
        share = excess[at] / (excess[at] - excess[other]) if excess[other] != excess[at] else 0.5
        return float(grid[at] + share * (grid[other] - grid[at]))
