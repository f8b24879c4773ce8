"""The search for a law's optimum on one table: starts, descent, bounds, and the valley."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.solving.lad import search_corners
from analysis.solving.objective import Objective, Rho
from analysis.solving.solver import minimise, walk_valley
from analysis.solving.starts import grid_starts, other_starts, thin
from analysis.solving.varpro import linearised, project

SAME_OPTIMUM = 1e-7  # relative difference of cost below which two starts found the same optimum
NUM_STARTS = 7
NUM_BARE = 3  # starts without the offset
ROUGH_POINTS = 240
ROUGH_ITERATIONS = 30
FINALISTS = 4
NEARLY_FLAT = 0.05
LAST_TOLERANCE = 1e-16
LAST_ROUNDS = 6  # of 300 steps each
NEGLIGIBLE = 1e-7
LAD_SMOOTHING = 0.03  # of the mean residual
HOPELESS = 2.0  # times the best rough cost: a bound that far above the inside is no answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is minimised: the compiled law, linked and plain y [n], weights [n], loss, held [p]."""

    objective: Objective
    y: np.ndarray
    target: np.ndarray
    weights: np.ndarray
    rho: Rho
    held: np.ndarray

    @property
    def free(self) -> np.ndarray:
        """Which parameters move [p]."""
        return np.isnan(self.held)

    @property
    def how(self) -> dict[str, Any]:
        """The table and the loss as `minimise` takes them."""
        return {"target": self.target, "weights": self.weights, "rho": self.rho}

    def cost(self, theta: np.ndarray) -> np.ndarray:
        """Return the summed loss [B] at centred parameters [B, p]."""
        return self.objective.cost(theta, self.target, self.weights, self.rho)


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """Centred parameters [p], whether the descent ended there, and how many starts reached it."""

    theta: np.ndarray
    converged: bool
    num_starts: int
    num_at_optimum: int


def find_optimum(problem: Problem) -> Optimum:
    """Minimise from every start and at every bound; return the best place found."""
    objective, free = problem.objective, problem.free
    starts, reached, num_starts = _descend(problem)
    how = problem.how | {"rho": _smooth_enough(problem, starts)}
    fine = minimise(objective, starts, free=free, max_iter=200, **how)
    theta, cost, converged = fine.theta, fine.cost, fine.converged
    leader = int(np.argmin(cost))
    more = [starts] if len(starts) > 1 else []  # smoothing may lead out of the better basin
    if _is_doubtful(problem, theta[leader], bool(converged[leader])):
        more.append(walk_valley(objective, theta[leader], free, how))
        more.append(_without_terms(objective, theta[leader], free))
    if more:
        again = np.concatenate(more)
        last = minimise(objective, again, free=free, max_iter=200, smooth=False, **how)
        theta = np.concatenate([theta, last.theta])
        cost = np.concatenate([cost, last.cost])
        converged = np.concatenate([converged, last.converged])
    if problem.rho.loss == "lad":
        later = len(starts) + np.argsort(cost[len(starts) :], kind="stable")[:FINALISTS]
        theta = theta[np.concatenate([np.arange(len(starts)), later])]
        theta = search_corners(objective, theta, problem.target, problem.weights)
        converged = np.ones(len(theta), dtype=bool)
    elif more:  # the best once more, to the end of its valley
        end, ended = _descend_to_the_end(problem, theta[int(np.argmin(cost))])
        theta = np.concatenate([theta, end])
        converged = np.append(converged, ended)
    exact = problem.cost(theta)
    # a bound that costs nothing is the answer: the term was not needed
    judged = np.where(np.isinf(theta).any(axis=1), exact * (1 - 1e-10) - 1e-300, exact)
    best = int(np.argmin(judged))
    rounding = 1e-12 * problem.weights.sum() if problem.rho.loss == "lad" else 1e-24
    same = exact[: len(starts)] <= float(exact.min()) * (1 + SAME_OPTIMUM) + rounding
    return Optimum(
        theta=without_idle_terms(problem, theta[best]),
        converged=bool(converged[best]),
        num_starts=num_starts,
        num_at_optimum=int(reached[same].sum()),
    )


def _descend_to_the_end(problem: Problem, place: np.ndarray) -> tuple[np.ndarray, bool]:
    """Follow the best place [p] to the end of its valley; return where [1, p], and if it ends.

    Where several terms hardly vary, the valley is long, and often ends at a bound: a descent that
    does not arrive goes on beside others that begin at the bounds.
    """
    how = problem.how | {"free": problem.free, "smooth": False, "tolerance": LAST_TOLERANCE}
    tries = place[None]
    for _ in range(LAST_ROUNDS):
        found = minimise(problem.objective, tries, max_iter=300, **how)
        best = int(np.argmin(found.cost))
        place, ended = found.theta[best], bool(found.converged[best])
        if ended:
            break
        edges = _without_terms(problem.objective, place, problem.free)
        tries = np.concatenate([place[None], edges])
    return place[None], ended


def _smooth_enough(problem: Problem, starts: np.ndarray) -> Rho:
    """Return the loss that the descent minimises: LAD rounded off, its corners are found later."""
    if problem.rho.loss != "lad":
        return problem.rho
    typical = float(problem.cost(starts).min() / problem.weights.sum())
    share = LAD_SMOOTHING * min(1.0, 1000 / len(problem.y))  # few points, however many rows
    return replace(problem.rho, smoothing=max(share * typical, 1e-15))


def _descend(problem: Problem) -> tuple[np.ndarray, np.ndarray, int]:
    """Return places worth a full descent [S, p], how many starts led to each [S], and of how many.

    Starts at a bound (a term left out) are not counted.
    """
    if problem.objective.law.is_posynomial:
        return _project_starts(problem)
    objective, free = problem.objective, problem.free
    starts = other_starts(objective, problem.y, problem.weights, problem.held)
    bare = _without_offset(objective, starts[:NUM_BARE], free)
    both = np.concatenate([starts, bare])
    rough = minimise(objective, both, free=free, max_iter=ROUGH_ITERATIONS, **problem.how)
    order = np.argsort(rough.cost, kind="stable")
    places = rough.theta[order[:FINALISTS]]
    tried = rough.cost[: len(starts)]
    near = int((tried <= rough.cost.min() * (1 + SAME_OPTIMUM) + 1e-24).sum())
    reached = np.zeros(len(places), dtype=int)
    reached[0] = max(near, 1)
    edges = _without_terms(objective, places[0], free)
    reached = np.concatenate([reached, np.zeros(len(edges), dtype=int)])
    return np.concatenate([places, edges]), reached, len(starts)


def _project_starts(problem: Problem) -> tuple[np.ndarray, np.ndarray, int]:
    """Descend over the exponents from the grid, inside and at every bound; keep what differs."""
    objective, held = problem.objective, problem.held
    rows = thin(len(problem.y), ROUGH_POINTS)
    is_binomial = problem.rho.loss == "binomial"
    linear = linearised(objective, problem.y, problem.weights, is_binomial=is_binomial)
    linear = linear.thinned(rows)
    with np.errstate(all="ignore"):
        robust = problem.rho.loss in ("huber", "lad")
        starts = [grid_starts(linear, held, NUM_STARTS, robust=robust)]
        for k, a in enumerate(objective.amplitude):
            if np.isnan(held[a]) and len(objective.amplitude) > 1:
                many = NUM_BARE if objective.exponent[k] < 0 else 1
                starts.append(grid_starts(linear, held, many, robust=robust, without=k))
        inside = len(starts[0])
        theta, cost = project(linear, np.concatenate(starts), held, robust=robust)
    theta = _within_domain(problem, theta)
    factor = np.where(np.arange(len(cost)) < inside, 2 * HOPELESS, HOPELESS)
    good = cost <= factor * np.nanmin(cost) + 1e-300
    places, reached = _distinct(problem, theta[good], cost[good], int(good[:inside].sum()))
    return places, reached, inside


def _within_domain(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """Lower starts [S, p] that predict a rate of one or more where rates have a logarithm."""
    objective = problem.objective
    if problem.rho.loss != "binomial" and objective.link != "logit":
        return theta
    above = np.maximum(objective.log_prediction(theta).max(axis=1) - np.log(0.98), 0.0)
    for a in objective.amplitude:
        if np.isnan(problem.held[a]):
            theta[:, a] -= above
    return theta


def _distinct(
    problem: Problem, theta: np.ndarray, cost: np.ndarray, inside: int
) -> tuple[np.ndarray, np.ndarray]:
    """Keep the cheapest of the starts that met [S, p]; count those that began inside [S]."""
    rows = thin(len(problem.y), 60)
    few = problem.objective.at_rows(rows)
    curves = few.log_prediction(theta)
    kept: list[int] = []
    counts: dict[int, int] = {}
    for i in np.argsort(np.where(np.isnan(cost), np.inf, cost), kind="stable"):
        same = [
            j
            for j in kept
            if np.abs(curves[i] - curves[j]).max() < 1e-3
            and (np.isneginf(theta[i]) == np.isneginf(theta[j])).all()
        ]
        home = same[0] if same else int(i)
        if not same:
            kept.append(home)
        counts[home] = counts.get(home, 0) + int(i < inside)
    edges = [i for i in kept if i >= inside]
    inner = [i for i in kept if i < inside]
    chosen = [*inner[:FINALISTS], *edges[:FINALISTS]]
    return theta[chosen], np.array([counts[i] for i in chosen])


def _is_doubtful(problem: Problem, theta: np.ndarray, converged: bool) -> bool:
    """Tell whether the optimum may lie elsewhere in the law's valley (`walk_valley`)."""
    objective = problem.objective
    exponents = [theta[e] for e in objective.exponent if e >= 0]
    flat = any(abs(value) < NEARLY_FLAT for value in exponents)
    rugged = not objective.law.is_posynomial
    return not converged or flat or rugged or bool(np.isneginf(theta).any())


def without_idle_terms(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """Set amplitudes that matter nowhere to exactly zero [p]."""
    objective = problem.objective
    for a in objective.amplitude:
        others = np.isneginf(theta).sum() < len(objective.law.terms) - 1
        if not np.isnan(problem.held[a]) or np.isneginf(theta[a]) or not others:
            continue
        smaller = theta.copy()
        smaller[a] = -np.inf
        both = np.stack([theta, smaller])
        log_pred = objective.log_prediction(both)
        if np.abs(log_pred[0] - log_pred[1]).max() >= NEGLIGIBLE:
            continue
        cost = problem.cost(both)
        if cost[1] <= cost[0] * (1 + 1e-9):
            theta = smaller
    return theta


def _without_terms(objective: Objective, theta: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Return copies of the best start with one free amplitude set to zero each: the bounds."""
    copies = []
    for a in objective.amplitude:
        if free[a] and any(np.isfinite(theta[b]) for b in objective.amplitude if b != a):
            copy = theta.copy()
            copy[a] = -np.inf
            copies.append(copy)
    return np.array(copies).reshape(-1, len(theta))


def _without_offset(objective: Objective, starts: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Return copies of starts [S, p] with a free offset set to zero; none if there is none."""
    bare = [k for k, e in enumerate(objective.exponent) if e < 0 and free[objective.amplitude[k]]]
    if not bare or len(objective.amplitude) == 1:
        return np.empty((0, starts.shape[1]))
    copies = starts.copy()
    copies[:, objective.amplitude[bare[0]]] = -np.inf
    return copies[np.isfinite(copies[:, objective.amplitude]).any(axis=1)]
