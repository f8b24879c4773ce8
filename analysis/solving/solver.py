"""Minimisation of many refits at once: damped Newton steps with exact Hessians, and starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.solving.objective import Derivatives, Objective, Rho

TOLERANCE = 1e-13  # predicted fall of the cost, relative to the cost, at which a refit has ended
# Floats of scratch per sweep: small enough to stay in cache, large enough to amortise NumPy.
CHUNK_FLOATS = 60_000
MAX_STEP = 3.0
RIDGE = 1e-11  # of the scaled metric: keeps collinear parameters solvable


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """Parameters [B, p], cost [B], whether each refit converged [B], and iterations used."""

    theta: np.ndarray
    cost: np.ndarray
    converged: np.ndarray
    iterations: int


def minimise(
    objective: Objective,
    theta: np.ndarray,
    *,
    target: np.ndarray,
    weights: np.ndarray,
    rho: Rho,
    free: np.ndarray,
    max_iter: int = 200,
    tolerance: float = TOLERANCE,
    smooth: bool = True,
) -> Solution:
    """Minimise the loss from B starts.

    Args:
        theta: centred parameters [B, p]; minus infinity in an amplitude removes its term.
        target: linked y, [n] or [B, n].
        weights: of the points, [n] or [B, n].
        free: which parameters move, [p] or [B, p].
        max_iter: Newton steps of the last stage.
        tolerance: predicted relative fall of the cost at which a refit has ended.
        smooth: False starts with the loss itself and stays in the basin of the start.

    A loss with kinks is approached through smoother ones of falling `delta`: near its optimum a
    Huber loss far below the noise is nearly polyhedral, and Newton's method needs the right face.
    """
    size = len(theta)
    target = np.broadcast_to(target, (size, objective.num_points))
    weights = np.broadcast_to(weights, (size, objective.num_points))
    free = np.broadcast_to(free, theta.shape)
    rows = max(1, CHUNK_FLOATS // (objective.num_points * (theta.shape[1] + 2)))
    parts = []
    for begin in range(0, size, rows):
        cut = slice(begin, begin + rows)
        parts.append(
            _minimise_chunk(
                objective,
                theta[cut],
                (target[cut], weights[cut], free[cut]),
                rho,
                (max_iter, tolerance, smooth),
            )
        )
    return Solution(
        theta=np.concatenate([p.theta for p in parts]),
        cost=np.concatenate([p.cost for p in parts]),
        converged=np.concatenate([p.converged for p in parts]),
        iterations=max(p.iterations for p in parts),
    )


def _minimise_chunk(
    objective: Objective,
    theta: np.ndarray,
    data: tuple[np.ndarray, np.ndarray, np.ndarray],
    rho: Rho,
    end: tuple[int, float, bool],
) -> Solution:
    stages = _smoothing_stages(objective, theta, data, rho)
    used = 0
    for stage in stages[:-1] if end[2] else []:
        rough = _newton(objective, theta, data, (stage, 12, 1e-4))
        theta, used = rough.theta, used + rough.iterations
    final = _newton(objective, theta, data, (stages[-1], end[0], end[1]))
    return replace(final, iterations=used + final.iterations)


def _smoothing_stages(
    objective: Objective,
    theta: np.ndarray,
    data: tuple[np.ndarray, np.ndarray, np.ndarray],
    rho: Rho,
) -> list[Rho]:
    """List losses from smooth to the one asked for; the first has its knee at typical residuals."""
    if rho.loss in ("ls", "binomial"):
        return [rho]
    plain = Rho(loss="lad", delta=1.0)
    total = objective.cost(theta, data[0], data[1], plain)
    with np.errstate(all="ignore"):
        typical = float(np.nanmedian(total / data[1].sum(axis=-1)))
    typical = typical if np.isfinite(typical) and typical > 0 else 1.0
    last = rho.delta if rho.loss == "huber" else rho.smoothing or 3e-4 * typical
    knees = []
    knee = typical
    while knee > 2 * last:
        knees.append(knee)
        knee *= 0.25
    if rho.loss == "lad":
        return [replace(rho, smoothing=k) for k in [*knees, last]]
    return [*(replace(rho, delta=k) for k in knees), rho]


def _newton(
    objective: Objective,
    theta: np.ndarray,
    data: tuple[np.ndarray, np.ndarray, np.ndarray],
    how: tuple[Rho, int, float],
) -> Solution:
    """Run damped Newton steps on every row until each has ended."""
    rho, max_iter, tolerance = how
    target, weights, free = data
    theta = np.clip(theta, objective.lower, objective.upper)
    cost = objective.cost(theta, target, weights, rho)
    damping = np.full(len(theta), 1e-3)
    done = ~np.isfinite(cost)
    converged = np.zeros(len(theta), dtype=bool)
    iteration = 0
    while iteration < max_iter and not done.all():
        iteration += 1
        rows = np.flatnonzero(~done)
        now = objective.derivatives(theta[rows], target[rows], weights[rows], rho)
        moving = _moving(objective, theta[rows], now.gradient, free[rows])
        with np.errstate(all="ignore"):  # flat directions overflow; the step is then zero
            step, fall = _step_within(objective, theta[rows], now, (moving, damping[rows]))
        trial = np.clip(theta[rows] + step, objective.lower, objective.upper)
        trial_cost = objective.cost(trial, target[rows], weights[rows], rho)
        better = trial_cost < now.cost
        theta[rows[better]] = trial[better]
        cost[rows[better]] = trial_cost[better]
        small = fall <= tolerance * now.cost
        stuck = ~better & (damping[rows] > 1e7)
        # a small predicted fall under strong damping says nothing: let the damping relax first
        idle = better & (now.cost - trial_cost <= tolerance * now.cost) & (damping[rows] < 1e-2)
        settled = (small & (damping[rows] < 1e-2)) | (~better & small) | (now.cost <= 1e-28) | idle
        converged[rows] = settled
        done[rows] = settled | stuck
        damping[rows] = np.where(better, np.maximum(damping[rows] * 0.2, 1e-12), damping[rows] * 6)
    return Solution(theta=theta, cost=cost, converged=converged, iterations=iteration)


def _moving(
    objective: Objective, theta: np.ndarray, gradient: np.ndarray, free: np.ndarray
) -> np.ndarray:
    """Find parameters that may move: free, finite, and not pressed against a bound."""
    pressed = ((theta <= objective.lower) & (gradient > 0)) | (
        (theta >= objective.upper) & (gradient < 0)
    )
    return free & np.isfinite(theta) & ~pressed


def _step_within(
    objective: Objective,
    theta: np.ndarray,
    now: Derivatives,
    how: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Return the step [B, p] that stays within the bounds and the fall that it predicts [B].

    A parameter that the step would push through the bound it lies on is held and the rest solved
    anew; a step that meets a bound on its way is cut there as a whole. Cutting one parameter
    alone would turn a step along a valley into one out of it.
    """
    moving, damping = how
    step, fall = _step(now, moving, damping)
    for _ in range(theta.shape[1]):
        lies_on = ((theta <= objective.lower) & (step < 0)) | (
            (theta >= objective.upper) & (step > 0)
        )
        rows = np.flatnonzero((lies_on & moving).any(axis=1))
        if not len(rows):
            break
        moving = moving & ~lies_on
        part = Derivatives(*(values[rows] for values in now))
        step[rows], fall[rows] = _step(part, moving[rows], damping[rows])
    bound = np.where(step > 0, objective.upper, objective.lower)
    share = np.where(step != 0, (bound - theta) / step, np.inf).min(axis=1, keepdims=True)
    return step * np.minimum(share, 1.0), fall


def _step(
    now: Derivatives, moving: np.ndarray, damping: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the damped Newton step [B, p] and the fall in cost that it predicts [B].

    Steps are damped in the metric of the predictions, not of the parameters: a long valley (an
    offset against its exponent) is then as round as any other direction. Directions of negative
    curvature are followed with its absolute value, so that saddles repel (Dauphin et al. 2014).
    """
    both = moving[:, :, None] & moving[:, None, :]
    eye = np.eye(moving.shape[1])
    metric = np.where(both, now.metric, 0.0)
    hessian = np.where(both & np.isfinite(now.hessian), now.hessian, 0.0)
    diagonal = np.diagonal(metric, axis1=1, axis2=2)
    scale = np.where(diagonal > 0, np.sqrt(np.abs(diagonal)), 1.0)
    area = scale[:, :, None] * scale[:, None, :]
    metric = np.where(both, metric / area, eye)
    spread, axes = np.linalg.eigh(np.where(np.isfinite(metric), metric, eye))
    factor = (axes / np.sqrt(np.maximum(spread, RIDGE))[:, None, :]).transpose(0, 2, 1)
    gradient = np.where(moving, now.gradient, 0.0) / scale
    gradient = (factor @ gradient[:, :, None])[:, :, 0]
    curvature = factor @ (hessian / area) @ factor.transpose(0, 2, 1)
    values, vectors = np.linalg.eigh(curvature)
    size = np.abs(values)
    largest = np.maximum(np.maximum(size.max(axis=1), np.abs(now.secant)), 1e-300)
    floor = (damping[:, None] + 1e-14) * largest[:, None]
    along = (vectors * gradient[:, :, None]).sum(axis=1)
    fall = 0.5 * (along**2 / (size + floor)).sum(axis=1)
    move = (vectors * (-along / (size + floor))[:, None, :]).sum(axis=2)
    step = (factor.transpose(0, 2, 1) @ move[:, :, None])[:, :, 0] / scale
    step = np.where(moving & np.isfinite(step), step, 0.0)
    longest = np.abs(step).max(axis=1, keepdims=True)
    return step * np.minimum(1.0, MAX_STEP / (longest + 1e-300)), fall


def walk_valley(
    objective: Objective, theta: np.ndarray, free: np.ndarray, how: dict[str, Any]
) -> np.ndarray:
    """Walk along a law's valley and return the solution [p] and the best places found [k, p].

    Nearly flat data leave offset and exponent undetermined, repeated data leave R_D so: the cost
    then has a long curved valley with many small basins, in which Newton steps are short. With
    one parameter held the rest is easy.
    """
    names = objective.names
    name = next((n for n in ("R_D", "d_1", "E") if n in names and free[names.index(n)]), None)
    if name is None or len(objective.law.terms) == 1:
        return theta[None]
    j = names.index(name)
    least = float(objective.log_prediction(theta[None]).min())
    theta = np.where(np.isneginf(theta) & free, least + np.log(0.1), theta)
    if name == "E":
        near = 1 - np.logspace(-4, -1.1, 8)
        values = least + np.log(np.concatenate([np.linspace(0.02, 0.9, 16), near]))
    elif name == "R_D":
        # with all else held few values are dear; with all else free the valley is smoother
        values = np.log(np.logspace(-1, 4, 101 if free.sum() <= 3 else 21))
    else:
        x = objective.logx[objective.law.axes[0]]
        values = np.linspace(x.min(), x.max(), 25)
    walk = np.tile(theta, (len(values), 1))
    walk[:, j] = values
    held = free.copy()
    held[j] = False
    found = minimise(objective, walk, free=held, max_iter=60, **how)
    padded = np.pad(found.cost, 1, constant_values=np.inf)
    dips = np.flatnonzero((found.cost <= padded[:-2]) & (found.cost <= padded[2:]))
    dips = dips[np.argsort(found.cost[dips], kind="stable")[:6]]
    return np.concatenate([theta[None], found.theta[dips]])
