"""Variable projection: descent over exponents alone, the amplitudes solved for at every step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from analysis.law import MAX_EXPONENT
from analysis.solving.objective import Objective

SMALLEST_SHARE = 1e-4
LONGEST_STEP = 0.7  # of an exponent


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A sum of powers whose residuals are, to first order, `scale * prediction - want`.

    Shapes: `u` [K, n] (centred log axes), `scale`, `want` and `weights` [n].
    """

    objective: Objective
    u: np.ndarray
    scale: np.ndarray
    want: np.ndarray
    weights: np.ndarray

    @classmethod
    def relative(cls, objective: Objective, y: np.ndarray, weights: np.ndarray) -> Linear:
        """Linearise log residuals: relative errors."""
        return cls(
            objective=objective, u=objective.u, scale=1.0 / y, want=np.ones(len(y)), weights=weights
        )

    def thinned(self, rows: np.ndarray) -> Linear:
        """Return the same problem on some rows."""
        if len(rows) == len(self.want):
            return self
        return replace(
            self,
            u=self.u[:, rows],
            scale=self.scale[rows],
            want=self.want[rows],
            weights=self.weights[rows],
        )


def linearised(
    objective: Objective, y: np.ndarray, weights: np.ndarray, *, is_binomial: bool
) -> Linear:
    """Linearise the link's residuals, or the binomial deviance, around the data [n]."""
    if is_binomial:
        rate = (y * weights + 0.5) / (weights + 1.0)  # none of none is not certainty
        scale = 1.0 / np.sqrt(rate * (1.0 - rate))
        want = rate * scale
    elif objective.link == "identity":
        scale = np.full(len(y), 1.0 / max(float(np.abs(y).mean()), 1e-300))
        want = y * scale
    elif objective.link == "logit":
        scale = 1.0 / (y * (1.0 - y))
        want = y * scale
    else:
        return Linear.relative(objective, y, weights)
    return Linear(objective=objective, u=objective.u, scale=scale, want=want, weights=weights)


def terms_as_parameters(
    objective: Objective, held: np.ndarray, exponents: np.ndarray, amplitudes: np.ndarray
) -> np.ndarray:
    """Write amplitudes and exponents [B, K] as parameters; a vanished term restarts small."""
    theta = np.tile(np.where(np.isnan(held), 0.0, held), (len(exponents), 1))
    level = amplitudes.sum(axis=1)
    for k, (a, e) in enumerate(zip(objective.amplitude, objective.exponent, strict=True)):
        if np.isnan(held[a]):
            theta[:, a] = np.log(np.maximum(amplitudes[:, k], SMALLEST_SHARE * level + 1e-300))
        if e >= 0:
            theta[:, e] = exponents[:, k]
    return theta


def project(
    linear: Linear, theta: np.ndarray, held: np.ndarray, *, robust: bool, max_iter: int = 15
) -> tuple[np.ndarray, np.ndarray]:
    """Descend over the free exponents from B starts; return parameters [B, p] and costs [B].

    A Levenberg-Marquardt iteration with Kaufman's (1975) Jacobian. With `robust`, residuals
    beyond the typical one of the best start weigh less (Huber), so that outliers do not lead.

    Args:
        linear: the problem.
        theta: starts [B, p]; a term at minus infinity stays out.
        held: centred parameters [p], NaN where free.
        robust: weigh by Huber's loss.
        max_iter: most steps.
    """
    state = _Projection(linear, theta, held, robust)
    exponents = theta[:, state.moving]
    if not exponents.shape[1]:
        state.evaluate(exponents, np.arange(len(theta)))
        return state.parameters(exponents), state.cost
    state.evaluate(exponents, np.arange(len(theta)))
    damping = np.full(len(theta), 1e-3)
    open_ = np.ones(len(theta), dtype=bool)
    for _ in range(max_iter):
        rows = np.flatnonzero(open_)
        if not len(rows):
            break
        step = state.step(rows, damping[rows])
        trial = np.clip(exponents[rows] + step, -MAX_EXPONENT, MAX_EXPONENT)
        was = state.cost[rows]
        better = state.evaluate(trial, rows)
        exponents[rows[better]] = trial[better]
        damping[rows] = np.where(better, damping[rows] * 0.1, damping[rows] * 10)
        small = np.abs(step).max(axis=1) < 1e-5
        idle = better & (was - state.cost[rows] <= 1e-7 * was)
        open_[rows] = ~(small | idle | (damping[rows] > 1e6))
    return state.parameters(exponents), state.cost


class _Projection:
    """Columns, amplitudes and residuals of B rows; `evaluate` keeps only what improves."""

    def __init__(self, linear: Linear, theta: np.ndarray, held: np.ndarray, robust: bool) -> None:
        self.linear, self.held = linear, held
        o = linear.objective
        self.amplitude, self.exponent = o.amplitude, o.exponent
        self.moving = sorted({e for e in o.exponent if e >= 0 and np.isnan(held[e])})
        size, terms = len(theta), len(o.amplitude)
        amplitude = held[o.amplitude]
        self.free = np.isnan(amplitude)[None] & ~np.isneginf(theta[:, o.amplitude])
        self.fixed = np.where(np.isnan(amplitude), 0.0, np.exp(np.nan_to_num(amplitude)))
        self.theta = theta
        self.columns = np.zeros((size, terms, len(linear.want)))
        self.residual = np.zeros((size, len(linear.want)))
        self.a = np.zeros((size, terms))
        self.cost = np.full(size, np.inf)
        self.knee = np.inf
        self._set_knee(robust)

    def _set_knee(self, robust: bool) -> None:
        if not robust:
            return
        columns = self._columns(self.theta[:, self.moving], np.arange(len(self.theta)))
        a = np.exp(np.where(np.isneginf(self.theta), -700.0, self.theta))[:, self.amplitude]
        residual = (a[:, None] @ columns)[:, 0] - self.linear.want
        self.residual = residual
        weights = self.linear.weights
        self.knee = float((np.abs(residual) @ weights).min() / weights.sum()) or np.inf

    def _columns(self, exponents: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the terms without their amplitudes, scaled [b, K, n]."""
        logs = np.zeros((len(rows), len(self.amplitude), len(self.linear.want)))
        for k, e in enumerate(self.exponent):
            if e < 0:
                continue
            value = (
                exponents[:, self.moving.index(e), None]
                if e in self.moving
                else self.theta[rows, e, None]
            )
            logs[:, k] = -value * self.linear.u[k]
        return np.exp(logs, out=logs) * self.linear.scale

    def _weights(self, residual: np.ndarray) -> np.ndarray:
        if np.isinf(self.knee):
            return np.broadcast_to(self.linear.weights, residual.shape)
        size = np.maximum(np.abs(residual), self.knee)
        return self.linear.weights * (self.knee / size)

    def evaluate(self, exponents: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Solve for the amplitudes at exponents [b, m]; keep the rows that cost less."""
        columns = self._columns(exponents, rows)
        weighted = columns * self._weights(self.residual[rows])[:, None]
        gram = weighted @ columns.transpose(0, 2, 1)
        right = (weighted @ self.linear.want) - gram @ self.fixed
        free = self.free[rows]
        a = _solve(gram, right, free)
        a = _solve(gram, right, free & (a > 0))
        a = np.where(free, np.maximum(a, 0.0), self.fixed)
        residual = (a[:, None] @ columns)[:, 0] - self.linear.want
        size = np.abs(residual)
        if np.isinf(self.knee):
            loss = 0.5 * residual**2
        else:
            short = np.minimum(size, self.knee)
            loss = short * (size - 0.5 * short)
        cost = loss @ self.linear.weights
        better = cost < self.cost[rows]
        kept = rows[better]
        self.columns[kept], self.residual[kept] = columns[better], residual[better]
        self.a[kept], self.cost[kept] = a[better], cost[better]
        return better

    def step(self, rows: np.ndarray, damping: np.ndarray) -> np.ndarray:
        """Return the damped Gauss-Newton step of the exponents [b, m]."""
        columns, a = self.columns[rows], self.a[rows]
        slopes = np.zeros((len(rows), len(self.moving), columns.shape[2]))
        for k, e in enumerate(self.exponent):
            if e in self.moving:
                slopes[:, self.moving.index(e)] -= self.linear.u[k] * columns[:, k] * a[:, k, None]
        w = self._weights(self.residual[rows])[:, None]
        weighted = columns * w
        used = self.free[rows] & (a > 0)
        gram = _masked(weighted @ columns.transpose(0, 2, 1), used)
        across = np.where(used[..., None], weighted @ slopes.transpose(0, 2, 1), 0.0)
        slopes = slopes - np.linalg.solve(gram, across).transpose(0, 2, 1) @ columns
        pulled = slopes * w
        inner = pulled @ slopes.transpose(0, 2, 1)
        gradient = (pulled @ self.residual[rows][..., None])[..., 0]
        diagonal = np.diagonal(inner, axis1=1, axis2=2)
        bump = damping[:, None] * diagonal + 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300
        inner = inner + bump[:, :, None] * np.eye(inner.shape[1])
        move = np.linalg.solve(inner, -gradient[..., None])[..., 0]
        move = np.where(np.isfinite(move), move, 0.0)
        longest = np.abs(move).max(axis=1, keepdims=True)
        return move * np.minimum(1.0, LONGEST_STEP / (longest + 1e-300))

    def parameters(self, exponents: np.ndarray) -> np.ndarray:
        """Return the rows as centred parameters [B, p]."""
        terms = np.zeros(self.a.shape)
        for k, e in enumerate(self.exponent):
            if e >= 0:
                terms[:, k] = (
                    exponents[:, self.moving.index(e)] if e in self.moving else self.theta[:, e]
                )
        found = terms_as_parameters(self.linear.objective, self.held, terms, self.a)
        out = np.isneginf(self.theta)
        return np.where(out, self.theta, found)


def _masked(gram: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Leave unused rows and columns of [b, K, K] with ones on the diagonal; add a ridge."""
    both = used[:, :, None] & used[:, None, :]
    masked = np.where(both, gram, 0.0)
    diagonal = np.diagonal(masked, axis1=1, axis2=2)
    extra = np.where(used, 1e-13 * diagonal.max(axis=1, keepdims=True) + 1e-300, 1.0)
    return masked + extra[:, :, None] * np.eye(gram.shape[1])


def _solve(gram: np.ndarray, right: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Solve the normal equations [b, K] over the used terms; zero elsewhere."""
    right = np.where(used, right, 0.0)
    return np.linalg.solve(_masked(gram, used), right[..., None])[..., 0]
