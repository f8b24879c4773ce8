"""Least absolute deviations to the last digit: descent along the points that the curve meets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.solving.objective import Objective

MAX_STEPS = 150
QUIET_KICKS = 2  # in a row that find nothing better end the search
SPARED = 3  # parameters beyond these take a quiet kick more each
KICK_ROWS = 2000  # with more rows than that, corners lie close to one another
VANISHED = 30.0  # logarithms below the prediction: a term that is not there
REOPENED = 0.01  # of the prediction
KICK = 0.3  # how unevenly rows weigh in a kick
MEETS = 1e-11  # of the mean residual: a point on the curve
NEAR = 0.02  # of the mean residual: a point that the curve may meet


def search_corners(
    objective: Objective, theta: np.ndarray, target: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Polish LAD solutions [S, p]; try also beside the best; return [S + 1, p].

    A curved law has many corners from which no small step leads down. Polishing on rows that are
    weighted anew at random, then on the true weights, goes from one to the next.
    """
    polished = [polish_lad(objective, t, target, weights) for t in theta]
    plain = _Problem(objective, theta[0], target, weights)
    costs = [plain.evaluate(t).cost for t in polished]
    best, least = polished[int(np.argmin(costs))], min(costs)
    rng = np.random.default_rng(0)
    quiet = 0
    many = len(target) > KICK_ROWS
    enough = max(QUIET_KICKS, len(plain.moving) - SPARED)
    while not many and quiet < enough and least > 1e-13 * len(target):
        kicked = weights * rng.exponential(size=len(weights)) ** KICK
        trial = polish_lad(objective, best, target, kicked)
        trial = polish_lad(objective, trial, target, weights)
        cost = plain.evaluate(trial).cost
        quiet = 0 if cost < least * (1 - 1e-12) else quiet + 1
        best, least = (trial, cost) if quiet == 0 else (best, least)
    for start in _reopened(objective, best):
        trial = polish_lad(objective, start, target, weights)
        cost = plain.evaluate(trial).cost
        best, least = (trial, cost) if cost < least * (1 - 1e-12) else (best, least)
    return np.array([*polished, best])


def _reopened(objective: Objective, theta: np.ndarray) -> list[np.ndarray]:
    """Return copies [p] with one vanished term each brought back: at zero it cannot move."""
    level = float(np.median(objective.log_prediction(theta[None])))
    copies = []
    for a in objective.amplitude:
        if a in objective.moving and theta[a] < level - VANISHED:
            copies.append(theta.copy())
            copies[-1][a] = level + np.log(REOPENED)
    return copies


def polish_lad(
    objective: Objective, theta: np.ndarray, target: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Sharpen one LAD solution [p] to a local minimum of the sum of absolute residuals.

    At a minimum the curve passes through some points, at most as many as it has parameters. Such
    a set is kept: Newton steps on the smooth rest move along it, points that the curve meets on
    the way enter, and those that pull harder than they weigh leave (Murray and Overton 1981).
    """
    problem = _Problem(objective, theta, target, weights)
    if not len(problem.moving):
        return theta
    found = problem.descend(theta)
    return found.theta if found.cost < problem.evaluate(theta).cost else theta


@dataclass(frozen=True, slots=True)
class _Point:
    """Parameters [p], residuals [n], their Jacobian [n, m], and the cost."""

    theta: np.ndarray
    residual: np.ndarray
    jac: np.ndarray
    cost: float


class _Problem:
    def __init__(
        self, objective: Objective, theta: np.ndarray, target: np.ndarray, weights: np.ndarray
    ) -> None:
        rows = np.column_stack([target, *objective.logx.values()])
        # equal rows are one row of their joint weight: two of them would not make a basis
        order = np.lexsort(rows.T)
        new = np.ones(len(order), dtype=bool)
        new[1:] = (np.diff(rows[order], axis=0) != 0).any(axis=1)
        self.weights = np.add.reduceat(weights[order], np.flatnonzero(new))
        first = order[new]
        self.objective, self.target = objective.at_rows(first), target[first]
        free = np.zeros(len(theta), dtype=bool)
        free[objective.moving] = True
        self.moving = np.flatnonzero(
            free & np.isfinite(theta) & (np.abs(theta) < objective.upper * (1 - 1e-12))
        )

    def evaluate(self, theta: np.ndarray) -> _Point:
        """Evaluate the law at parameters [p]."""
        residual, jac = self.objective.linearise(theta, self.target)
        cost = float(self.weights @ np.abs(residual))
        good = np.isfinite(cost) and bool(np.isfinite(jac).all())
        return _Point(theta, residual, jac[:, self.moving], cost if good else np.inf)

    def descend(self, theta: np.ndarray) -> _Point:
        """Descend to a point from which no small step leads down."""
        at = self.evaluate(theta)
        if not np.isfinite(at.cost):
            return at
        unit = max(float(np.abs(at.residual).mean()), 1e-13)
        active = np.flatnonzero(
            np.abs(at.residual) < NEAR * unit * min(1.0, 1000 / len(at.residual))
        )
        for _ in range(MAX_STEPS):
            if at.cost <= 1e-13 * self.weights.sum():
                break
            active = self._independent(at, active)
            step, force = self._step(at, active)
            away = np.abs(at.residual[active])
            # at a corner nothing is left to move along: only who leaves is to be found
            corner = len(active) == len(self.moving) and away.max() <= MEETS * unit
            moved, enters, share = (None, None, 0.0) if corner else self._walk(at, active, step)
            if moved is not None:
                at = moved
            if enters is not None:
                active = np.append(active, enters)
            if share > 0.1:
                continue
            away = np.abs(at.residual[active])
            strong = np.abs(force) / self.weights[active]
            if moved is None and len(active) and strong.max() > 1 + 1e-9:
                out = int(np.argmax(strong))
                # the side that it leaves to
                at.residual[active[out]] = 1e-300 * np.sign(force[out])
            elif len(active) and away.max() > MEETS * unit:
                out = int(np.argmax(away))  # no curve near by meets all of them
            elif moved is None:
                break
            else:
                continue
            active = np.delete(active, out)
        return at

    def _independent(self, at: _Point, rows: np.ndarray) -> np.ndarray:
        """Keep rows of independent slopes, the nearest to the curve first, as many as move."""
        rows = rows[np.argsort(np.abs(at.residual[rows]), kind="stable")][:200]
        scale = _column_scale(at.jac)
        if len(rows) <= len(self.moving):
            slopes = (at.jac[rows] / scale).T
            apart = np.abs(np.diagonal(np.linalg.qr(slopes, mode="r")))
            if (apart > 1e-6 * np.sqrt((slopes**2).sum(axis=0)) + 1e-300).all():
                return rows
        kept: list[int] = []
        basis = np.zeros((len(self.moving), 0))
        for i in rows:
            slope = at.jac[i] / scale
            rest = slope - basis @ (basis.T @ slope)
            size = float(np.linalg.norm(rest))
            if size > 1e-6 * float(np.linalg.norm(slope)) + 1e-300:
                kept.append(int(i))
                basis = np.column_stack([basis, rest / size])
            if len(kept) == len(self.moving):
                break
        return np.array(kept, dtype=int)

    def _step(self, at: _Point, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the Newton step [m] that keeps the active points on the curve, and their pull."""
        sign = np.sign(at.residual)
        sign[active] = 0.0
        pull = self.weights * sign
        gradient = pull @ at.jac
        scale = _column_scale(at.jac)
        q, r = np.linalg.qr((at.jac[active] / scale).T, mode="complete")
        count = len(active)
        inside, along, r = q[:, :count], q[:, count:], r[:count]
        force = np.linalg.solve(r, inside.T @ (-gradient / scale)) if count else np.zeros(0)
        back = inside @ np.linalg.solve(r.T, -at.residual[active]) if count else np.zeros(len(q))
        if along.shape[1]:
            pull[active] = force
            bend = self.objective.curvature(at.theta, pull)[np.ix_(self.moving, self.moving)]
            bend = bend / np.outer(scale, scale)
            values, vectors = np.linalg.eigh(along.T @ bend @ along)
            # curvature below the spread of the slopes: as good as straight, the walk finds its end
            floor = 1e-6 * float(self.weights @ np.abs(at.residual)) + 1e-300
            down = vectors.T @ (along.T @ (-gradient / scale - bend @ back))
            back = back + along @ (vectors @ (down / np.maximum(np.abs(values), floor)))
        return back / scale, force

    def _walk(
        self, at: _Point, active: np.ndarray, step: np.ndarray
    ) -> tuple[_Point | None, int | None, float]:
        """Walk along a step to the least cost on it; return where, who was met, and how far."""
        longest = float(np.abs(step).max(initial=0.0))
        if longest == 0 or not np.isfinite(longest):
            return None, None, 0.0
        kept = min(1.0, 3.0 / longest)
        step = step * kept
        slope = at.jac @ step
        with np.errstate(divide="ignore", invalid="ignore"):
            meets = -at.residual / slope
        meets[active] = np.inf
        ahead = np.flatnonzero((meets > 0) & (meets < 1))
        ahead = ahead[np.argsort(meets[ahead], kind="stable")]
        best, where = self._least(at, (active, slope, kept), (ahead, meets))
        for shrink in (1.0, 0.3, 0.1, 0.03, 0.003):
            theta = at.theta.copy()
            theta[self.moving] += shrink * best * step
            trial = self._restored(theta, active)
            if trial.cost < at.cost * (1 - 1e-15):
                return trial, where if shrink == 1.0 else None, shrink
        return None, None, 0.0

    def _restored(self, theta: np.ndarray, active: np.ndarray) -> _Point:
        """Bring the active points back to the curve, which bends; keep what costs least."""
        best = now = self.evaluate(theta)
        if not len(active) or not np.isfinite(now.cost):
            return best
        for _ in range(2):
            scale = _column_scale(now.jac)
            back = np.linalg.lstsq(now.jac[active] / scale, now.residual[active], rcond=1e-12)[0]
            theta = now.theta.copy()
            theta[self.moving] -= back / scale
            now = self.evaluate(theta)
            if not now.cost < best.cost:
                break
            best = now
        return best

    def _least(
        self,
        at: _Point,
        line: tuple[np.ndarray, np.ndarray, float],
        points: tuple[np.ndarray, np.ndarray],
    ) -> tuple[float, int | None]:
        """Return the share of the step at which the cost, linearised, is least; and who is met."""
        active, slope, kept = line
        ahead, meets = points
        sign = np.sign(at.residual)
        sign[active] = 0.0
        start = float(self.weights @ (sign * slope))
        start -= float(self.weights[active] @ np.abs(at.residual[active]))
        bend = max(-start, 0.0) * kept  # a whole Newton step ends where slope and bend cancel
        rising = start + np.cumsum(2 * self.weights[ahead] * np.abs(slope[ahead]))
        stop = np.flatnonzero(rising + bend * meets[ahead] >= 0)
        if len(stop) and len(active) < len(self.moving):
            return float(meets[ahead[stop[0]]]), int(ahead[stop[0]])
        return 1.0, None


def _column_scale(jac: np.ndarray) -> np.ndarray:
    """Return the largest slope by each parameter [m], none vanishing beside the others."""
    size = np.abs(jac).max(axis=0)
    return np.maximum(size, 1e-12 * float(size.max()) + 1e-100)
