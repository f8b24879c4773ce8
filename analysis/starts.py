"""Starting points: a grid over the exponents, the amplitudes solved for (variable projection)."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np

from analysis.objective import Objective

# Exponents of error laws lie near 0.05-2; the grid reaches beyond on both sides.
_LINE = "-3 -1.5 -.8 -.4 -.2 -.08 .04 .08 .14 .2 .28 .37 .48 .6 .75 .95 1.2 1.5 2 2.7 3.7 5 7.5"
GRIDS: dict[int, tuple[float, ...]] = {
    1: tuple(float(x) for x in _LINE.split()),
    2: (-1.5, -0.5, -0.15, 0.06, 0.13, 0.22, 0.32, 0.43, 0.57, 0.75, 1, 1.4, 2, 3, 5),
    3: (-0.8, -0.2, 0.08, 0.2, 0.35, 0.55, 0.9, 1.6, 3.5),
    4: (-0.5, 0.1, 0.25, 0.5, 1.0, 2.5),
}
MAX_POINTS = 200
SMALLEST_SHARE = 1e-4


def find_starts(
    objective: Objective, y: np.ndarray, weights: np.ndarray, *, held: np.ndarray, count: int
) -> np.ndarray:
    """Return up to `count` starting points [S, p] for a law; see `posynomial_starts`."""
    rows = _thin(len(y))
    del rows
    return posynomial_starts(objective, y, weights, held=held, count=count)


def posynomial_starts(
    objective: Objective, y: np.ndarray, weights: np.ndarray, *, held: np.ndarray, count: int
) -> np.ndarray:
    """Return up to `count` starts [S, p], the best cells of the exponent grid.

    Args:
        objective: the compiled law.
        y: positive targets [n].
        weights: of the points [n].
        held: centred parameters [p], NaN where free.
        count: how many starts at most; they differ by at least two cells of the grid.

    The amplitudes at each cell are those of least *relative* squares, none negative, which is
    what every link and loss here sees to first order.
    """
    rows = _thin(len(y))
    basis_exponents, index = _grid(objective, held)
    u, y, weights = objective.u[:, rows], y[rows], weights[rows]
    columns = np.exp(-basis_exponents[:, :, None] * u[None]) / y  # [G, K, n]
    amplitudes = _nonnegative(columns, weights, held[objective.amplitude])
    theta = _assemble(objective, held, basis_exponents, amplitudes)
    fit = (amplitudes[:, :, None] * columns).sum(axis=1) - 1.0
    cost = (weights * np.minimum(np.abs(fit), 10.0)).sum(axis=1)
    return theta[_spread(cost, index, count)]


def _thin(n: int) -> np.ndarray:
    """Choose evenly spaced rows of a large table: starts need no more."""
    if n <= MAX_POINTS:
        return np.arange(n)
    return np.unique(np.linspace(0, n - 1, MAX_POINTS).astype(int))


def _grid(objective: Objective, held: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the exponent of each term [G, K] and indices into the grid [G, m]."""
    used = sorted({e for e in objective.exponent if e >= 0})
    free = [e for e in used if np.isnan(held[e])]
    values = GRIDS[min(max(len(free), 1), 4)]
    index = np.array(list(product(range(len(values)), repeat=len(free))), dtype=int)
    cells = np.tile(np.where(np.isnan(held), 0.0, held), (len(index), 1))
    for column, e in enumerate(free):
        cells[:, e] = np.array(values)[index[:, column]]
    term = np.zeros((len(index), len(objective.exponent)))
    for k, e in enumerate(objective.exponent):
        if e >= 0:
            term[:, k] = cells[:, e]
    return term, index


def _nonnegative(columns: np.ndarray, weights: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Solve min sum w (columns a - 1)^2 with a >= 0 for each cell [G, K], by trying supports."""
    free = np.isnan(held)
    fixed = np.where(free, 0.0, np.exp(np.where(free, 0.0, held)))
    rest = 1.0 - (columns * fixed[None, :, None]).sum(axis=1)
    weighted = columns * weights
    gram = weighted @ columns.transpose(0, 2, 1)
    right = (weighted * rest[:, None, :]).sum(axis=2)
    best = np.zeros(right.shape)
    best_gain = np.full(len(columns), -np.inf)
    where = np.flatnonzero(free)
    for size in range(1, len(where) + 1):
        for support in combinations(where, size):
            part = gram[:, support][:, :, support]
            ridge = 1e-12 * np.trace(part, axis1=1, axis2=2)[:, None, None] * np.eye(size)
            a = np.linalg.solve(part + ridge, right[:, support][..., None])[..., 0]
            gain = (a * right[:, support]).sum(axis=1)
            use = (a > 0).all(axis=1) & (gain > best_gain)
            best[use] = 0.0
            best[np.ix_(use, support)] = a[use]
            best_gain[use] = gain[use]
    return best + fixed


def _assemble(
    objective: Objective, held: np.ndarray, exponents: np.ndarray, amplitudes: np.ndarray
) -> np.ndarray:
    """Write amplitudes and exponents as parameters; a vanished term restarts small, not absent."""
    theta = np.tile(np.where(np.isnan(held), 0.0, held), (len(exponents), 1))
    level = amplitudes.sum(axis=1)
    for k, (a, e) in enumerate(zip(objective.amplitude, objective.exponent, strict=True)):
        if np.isnan(held[a]):
            theta[:, a] = np.log(np.maximum(amplitudes[:, k], SMALLEST_SHARE * level + 1e-300))
        if e >= 0:
            theta[:, e] = exponents[:, k]
    return theta


def _spread(cost: np.ndarray, index: np.ndarray, count: int) -> np.ndarray:
    """Pick the cheapest cells that are not neighbours of one another."""
    chosen: list[int] = []
    for cell in np.argsort(cost, kind="stable"):
        near = any(np.abs(index[cell] - index[other]).max(initial=0) < 2 for other in chosen)
        if not chosen or not near:
            chosen.append(int(cell))
        if len(chosen) == count:
            break
    return np.array(chosen)


def without_terms(objective: Objective, theta: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Return copies of the best start with one free amplitude set to zero each: the bounds."""
    copies = []
    for a in objective.amplitude:
        if free[a] and any(np.isfinite(theta[b]) for b in objective.amplitude if b != a):
            copy = theta.copy()
            copy[a] = -np.inf
            copies.append(copy)
    return np.array(copies).reshape(-1, len(theta))


def without_offset(objective: Objective, starts: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Return copies of starts [S, p] with a free offset set to zero; none if there is none."""
    bare = [k for k, e in enumerate(objective.exponent) if e < 0 and free[objective.amplitude[k]]]
    if not bare or len(objective.amplitude) == 1:
        return np.empty((0, starts.shape[1]))
    copies = starts.copy()
    copies[:, objective.amplitude[bare[0]]] = -np.inf
    return copies[np.isfinite(copies[:, objective.amplitude]).any(axis=1)]
