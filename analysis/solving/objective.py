"""The summed loss of a law on a table, with gradient and Hessian, for many refits at once."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from analysis.law import MAX_EXPONENT, Law, log_jacobian, log_predict

Link = Literal["log", "identity", "logit"]
Loss = Literal["huber", "lad", "ls", "binomial"]
LINKS: tuple[Link, ...] = ("log", "identity", "logit")
LOSSES: tuple[Loss, ...] = ("huber", "lad", "ls", "binomial")


class Derivatives(NamedTuple):
    """Cost [B], gradient [B, p], Hessian [B, p, p], metric [B, p, p] and secant curvature [B].

    The metric J' W J measures a step by how far it moves the log predictions; `secant` is the
    loss's mean slope over residual, a curvature that is there even where all residuals lie on
    the straight parts of the loss.
    """

    cost: np.ndarray
    gradient: np.ndarray
    hessian: np.ndarray
    metric: np.ndarray
    secant: np.ndarray


def apply_link(link: Link, log_values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the link of exp(log_values) and its first two derivatives by the logarithm."""
    if link == "log":
        return log_values, np.ones_like(log_values), np.zeros_like(log_values)
    values = np.exp(log_values)
    if link == "identity":
        return values, values, values
    rest = 1.0 - values
    rest = np.where(rest > 0, rest, np.nan)  # a prediction of one or more has no logit
    return log_values - np.log(rest), 1.0 / rest, values / rest**2


def invert_link(link: Link, values: np.ndarray) -> np.ndarray:
    """Return predictions in the units of y."""
    if link == "log":
        return np.exp(values)
    return values if link == "identity" else 1.0 / (1.0 + np.exp(-values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rho:
    """A loss of residuals, summed, never averaged: Huber, least absolute deviations or squares.

    Huber is r^2/2 up to delta and delta (|r| - delta/2) beyond. LAD is |r|; it is approached by
    Huber losses of shrinking delta divided by delta (`smoothing`).
    """

    loss: Loss
    delta: float
    smoothing: float = 0.0

    @property
    def knee(self) -> float:
        """The residual where the loss turns from a parabola into a line."""
        return self.smoothing if self.loss == "lad" else self.delta

    def value(self, r: np.ndarray) -> np.ndarray:
        """Return the loss of each residual."""
        if self.loss == "ls":
            return 0.5 * r * r
        size = np.abs(r)
        if self.loss == "lad" and self.smoothing == 0:
            return size
        knee = self.knee
        loss = np.where(size <= knee, 0.5 * r * r, knee * (size - 0.5 * knee))
        return loss / knee if self.loss == "lad" else loss

    def slopes(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return first and second derivative of the loss."""
        if self.loss == "ls":
            return r, np.ones_like(r)
        knee = self.knee
        inside = np.abs(r) <= knee
        first, second = np.clip(r, -knee, knee), inside.astype(float)
        return (first / knee, second / knee) if self.loss == "lad" else (first, second)


class Objective:
    """A law on n points: cost and derivatives at B parameter vectors in one sweep.

    Internal parameters are logarithms of amplitudes at the *centre* of the log axes and plain
    exponents: centring removes nearly all correlation between the two. `centre` is zero where an
    amplitude is held fixed, so that the held number means what its name says.

    Args:
        law: the form.
        logx: log axes, each [n].
        link: the scale on which residuals are taken.
        held: names of the parameters held fixed.
    """

    def __init__(
        self, law: Law, logx: Mapping[str, np.ndarray], *, link: Link, held: tuple[str, ...] = ()
    ) -> None:
        self.law, self.link, self.logx = law, link, dict(logx)
        self.names = law.param_names
        self.moving = [j for j, name in enumerate(self.names) if name not in held]
        self.num_points = len(next(iter(logx.values())))
        index = {name: j for j, name in enumerate(self.names)}
        self.amplitude = [index[t.amplitude] for t in law.terms]
        self.exponent = [index[t.exponent] if t.exponent else -1 for t in law.terms]
        self.centre = np.zeros(len(law.terms))
        self.u = np.zeros((len(law.terms), self.num_points))
        for k, term in enumerate(law.terms):
            if term.axis is None:
                continue
            if law.is_posynomial and term.amplitude not in held:
                x = logx[term.axis]
                self.centre[k] = 0.5 * (x.min() + x.max())
            self.u[k] = logx[term.axis] - self.centre[k]
        self._moments = np.stack([np.ones_like(self.u), self.u, self.u**2], axis=-1)
        limit = np.array([np.inf if n in law.positive else MAX_EXPONENT for n in self.names])
        self.lower, self.upper = -limit, limit

    def at_rows(self, rows: np.ndarray) -> Objective:
        """Return the same objective, with the same centre, on some rows of the table."""
        few = copy(self)
        few.logx = {axis: x[rows] for axis, x in self.logx.items()}
        few.num_points = len(rows)
        few.u, few._moments = self.u[:, rows], self._moments[:, rows]
        return few

    def to_centred(self, theta: np.ndarray) -> np.ndarray:
        """Move internal parameters [..., p] from amplitudes at x = 1 to those at the centre."""
        return self._shift(theta, -1.0)

    def from_centred(self, theta: np.ndarray) -> np.ndarray:
        """Invert `to_centred`."""
        return self._shift(theta, 1.0)

    def _shift(self, theta: np.ndarray, sign: float) -> np.ndarray:
        moved = np.array(theta, dtype=float)
        for k, (a, e) in enumerate(zip(self.amplitude, self.exponent, strict=True)):
            if e >= 0 and self.centre[k] != 0:
                moved[..., a] = moved[..., a] + sign * moved[..., e] * self.centre[k]
        return moved

    def log_prediction(self, theta: np.ndarray) -> np.ndarray:
        """Return log predictions [B, n] at centred parameters [B, p]."""
        with np.errstate(all="ignore"):  # a start may lie off the edge of the numbers
            if not self.law.is_posynomial:
                return log_predict(self.law, theta, self.logx)
            return np.log(self._terms(theta).sum(axis=1))

    def _terms(self, theta: np.ndarray) -> np.ndarray:
        logs = np.empty((len(theta), len(self.amplitude), self.num_points))
        for k, (a, e) in enumerate(zip(self.amplitude, self.exponent, strict=True)):
            logs[:, k] = theta[:, a, None]
            if e >= 0:
                logs[:, k] -= theta[:, e, None] * self.u[k]
        return np.exp(logs, out=logs)

    def cost(
        self, theta: np.ndarray, target: np.ndarray, weights: np.ndarray, rho: Rho
    ) -> np.ndarray:
        """Return the summed loss [B]; infinite where the law leaves the link's domain."""
        with np.errstate(all="ignore"):
            log_pred = self.log_prediction(theta)
            if rho.loss == "binomial":
                losses = binomial(log_pred, target)[0]
            else:
                losses = rho.value(apply_link(self.link, log_pred)[0] - target)
            total = (weights * losses).sum(axis=-1)
        return np.where(np.isfinite(total), total, np.inf)

    def derivatives(
        self, theta: np.ndarray, target: np.ndarray, weights: np.ndarray, rho: Rho
    ) -> Derivatives:
        """Return the cost and its first two derivatives at centred parameters [B, p]."""
        with np.errstate(all="ignore"):
            if self.law.is_posynomial:
                terms = self._terms(theta)
                prediction = terms.sum(axis=1)
                log_pred, share = np.log(prediction), terms / prediction[:, None]
                jac = self._jacobian(share)
            else:
                log_pred = log_predict(self.law, theta, self.logx)
                jac, share = log_jacobian(self.law, theta, self.logx, self.moving), None
            losses, pull, curve, secant = self._chain(log_pred, target, rho)
            pull, curve, secant = weights * pull, weights * curve, weights * secant
            cost = (weights * losses).sum(axis=-1)
            gradient = (pull[:, None, :] @ jac)[:, 0]
            across = jac.transpose(0, 2, 1)
            outer = (across * curve[:, None, :]) @ jac
            metric = (across * weights[:, None, :]) @ jac
            if share is not None:
                outer += self._inner_hessian(share, pull, jac)
            else:
                outer += self._numeric_hessian(theta, pull, jac)
        typical = secant.sum(axis=-1) / (np.ones(len(cost))[:, None] * weights).sum(axis=-1)
        return Derivatives(cost, gradient, outer, metric, typical)

    def linearise(self, theta: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return linked residuals [n] and their Jacobian [n, p] at one parameter vector [p]."""
        with np.errstate(all="ignore"):
            if self.law.is_posynomial:
                terms = self._terms(theta[None])
                prediction = terms.sum(axis=1)
                log_pred, slope = np.log(prediction), self._jacobian(terms / prediction[:, None])
            else:
                log_pred = log_predict(self.law, theta[None], self.logx)
                slope = log_jacobian(self.law, theta[None], self.logx, self.moving)
            linked, h1, _ = apply_link(self.link, log_pred)
        if self.link != "log":
            slope = slope * h1[..., None]
        return (linked - target)[0], slope[0]

    def curvature(self, theta: np.ndarray, pull: np.ndarray) -> np.ndarray:
        """Return the Hessian [p, p] of sum(pull * linked prediction) at one parameter vector."""
        log_pred = self.log_prediction(theta[None])
        _, h1, h2 = apply_link(self.link, log_pred)
        with np.errstate(all="ignore"):
            if self.law.is_posynomial:
                terms = self._terms(theta[None])
                share = terms / terms.sum(axis=1, keepdims=True)
                jac = self._jacobian(share)
                inner = self._inner_hessian(share, pull * h1, jac)
            else:
                jac = log_jacobian(self.law, theta[None], self.logx, self.moving)
                inner = self._numeric_hessian(theta[None], pull * h1, jac)
            bent = (jac.transpose(0, 2, 1) * (pull * h2)[:, None, :]) @ jac
        return (inner + bent)[0]

    def _chain(
        self, log_pred: np.ndarray, target: np.ndarray, rho: Rho
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return loss, its two derivatives by the log prediction, and its secant curvature."""
        if rho.loss == "binomial":
            value, pull, curve = binomial(log_pred, target)
            return value, pull, curve, curve
        linked, h1, h2 = apply_link(self.link, log_pred)
        residual = linked - target
        first, second = rho.slopes(residual)
        secant = np.where(residual == 0, second, first / residual) * h1 * h1
        return rho.value(residual), first * h1, second * h1 * h1 + first * h2, secant

    def _jacobian(self, share: np.ndarray) -> np.ndarray:
        """Return d log prediction / d parameter [B, n, p] from the terms' shares [B, K, n]."""
        jac = np.zeros((len(share), self.num_points, len(self.names)))
        for k, (a, e) in enumerate(zip(self.amplitude, self.exponent, strict=True)):
            jac[:, :, a] += share[:, k]
            if e >= 0:
                jac[:, :, e] -= share[:, k] * self.u[k]
        return jac

    def _inner_hessian(self, share: np.ndarray, pull: np.ndarray, jac: np.ndarray) -> np.ndarray:
        """Sum pull * (Hessian of the log prediction): a log-sum-exp has it in closed form."""
        inner = -((jac * pull[..., None]).transpose(0, 2, 1) @ jac)
        pulled = share * pull[:, None, :]
        for k, (a, e) in enumerate(zip(self.amplitude, self.exponent, strict=True)):
            m = pulled[:, k] @ self._moments[k]
            inner[:, a, a] += m[:, 0]
            if e >= 0:
                inner[:, a, e] -= m[:, 1]
                inner[:, e, a] -= m[:, 1]
                inner[:, e, e] += m[:, 2]
        return inner

    def _numeric_hessian(self, theta: np.ndarray, pull: np.ndarray, jac: np.ndarray) -> np.ndarray:
        """Differentiate sum(pull * d log prediction) once more, by forward differences.

        Half of the entries are enough, and the Jacobian at hand is one end of every difference;
        an error of 1e-5 in curvature costs Newton's method nothing that can be seen.
        """
        size = theta.shape[1]
        inner = np.zeros((len(theta), size, size))
        step = 1e-5
        here = (pull[:, None, :] @ jac)[:, 0]
        for number, j in enumerate(self.moving):
            moved = theta.copy()
            moved[:, j] += step
            columns = self.moving[: number + 1]
            slope = log_jacobian(self.law, moved, self.logx, columns)
            there = (pull[:, None, :] @ slope)[:, 0]
            inner[:, columns, j] = (there[:, columns] - here[:, columns]) / step
            inner[:, j, columns] = inner[:, columns, j]
        return inner


def binomial(log_p: np.ndarray, rate: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return minus the log-likelihood of one trial at observed rates, and two derivatives.

    Weights are the numbers of trials; the law predicts the probability exp(log_p).
    """
    p = np.exp(log_p)
    rest = np.where(p < 1, 1.0 - p, np.nan)
    value = -(rate * log_p + (1.0 - rate) * np.log(rest))
    return value, -rate + (1.0 - rate) * p / rest, (1.0 - rate) * p / rest**2
