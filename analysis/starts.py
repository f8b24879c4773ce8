"""Starting points: a grid over the exponents, the amplitudes solved for (variable projection)."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np

from analysis.laws import BrokenPowerLaw, Chinchilla, PowerLaw, with_repetition
from analysis.objective import Objective, Rho

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
    law = objective.law
    if law.is_posynomial:
        return posynomial_starts(objective, y, weights, held=held, count=count)
    rows = _thin(len(y))
    thin = Objective(law, {a: x[rows] for a, x in objective.logx.items()}, link="log")
    if isinstance(law, BrokenPowerLaw):
        wanted, key = _broken_candidates(law, thin, y[rows], weights[rows]), "d_1"
    else:
        wanted, key = _constrained_candidates(thin, y[rows], weights[rows], held), "R_D"
    theta = np.where(np.isnan(held), wanted, held)
    cost = thin.cost(theta, np.log(y[rows]), weights[rows], Rho(loss="lad", delta=1.0))
    return theta[_best_of_each(cost, wanted[:, law.param_names.index(key)])]


def _best_of_each(cost: np.ndarray, group: np.ndarray, keep: int = 2) -> np.ndarray:
    """Pick the cheapest candidates of every group: basins lie apart along it."""
    order = np.argsort(cost, kind="stable")
    return np.concatenate([order[group[order] == value][:keep] for value in np.unique(group)])


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


def _broken_candidates(
    law: BrokenPowerLaw, objective: Objective, y: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Bend the best plain power laws at inner points of the axis, up or down, sharp or soft."""
    plain = Objective(PowerLaw(law.axis), objective.logx, link="log")
    free = np.full(3, np.nan)
    bases = plain.from_centred(posynomial_starts(plain, y, weights, held=free, count=4))
    x = objective.logx[law.axis]
    places = np.quantile(x, [0.15, 0.3, 0.5, 0.7, 0.85])
    span = max(float(np.ptp(x)), 1e-6)
    shapes = list(product((-0.5, -0.15, 0.15, 0.5), np.log(np.array([0.02, 0.1]) * span)))
    found = []
    for base in bases:
        for where in combinations(places, law.breaks):
            for c, f in shapes:
                found.append([*base, *(v for d in where for v in (c, d, f))])
    return np.array(found)


def _constrained_candidates(
    objective: Objective, y: np.ndarray, weights: np.ndarray, held: np.ndarray
) -> np.ndarray:
    """Fit Chinchilla's law on discounted tokens for a grid of R_D; pair with a grid of R_N."""
    logx, law = objective.logx, objective.law
    unique = np.minimum(logx["U"], logx["D"])
    known = not np.isnan(held[: len(law.param_names) - 2]).any()
    found = []
    for log_rd in np.log([0.3, 1.0, 3.0, 8.0, 20.0, 60.0, 200.0, 1000.0]):
        discounted = with_repetition(logx["D"], unique, np.array(log_rd))
        if known:
            bases = held[None, :5]
        else:
            plain = Objective(Chinchilla(), {"N": logx["N"], "D": discounted}, link="log")
            free = np.full(5, np.nan)
            bases = plain.from_centred(posynomial_starts(plain, y, weights, held=free, count=3))
        for base in bases:
            found += [[*base, log_rd, r] for r in np.log([0.5, 1.5, 5.0, 15.0, 100.0])]
    return np.array(found)
