"""Starting points: a grid over the exponents, the amplitudes solved for (variable projection)."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np

from analysis.laws import BrokenPowerLaw, Chinchilla, PowerLaw, with_repetition
from analysis.solving.objective import Objective, Rho
from analysis.solving.varpro import Linear, terms_as_parameters

# Exponents of error laws lie near 0.05-2; the grid reaches beyond on both sides.
_LINE = "-3 -1.5 -.8 -.4 -.2 -.08 .04 .08 .14 .2 .28 .37 .48 .6 .75 .95 1.2 1.5 2 2.7 3.7 5 7.5"
GRIDS: dict[int, tuple[float, ...]] = {
    1: tuple(float(x) for x in _LINE.split()),
    2: (-1.5, -0.5, -0.15, 0.06, 0.13, 0.22, 0.32, 0.43, 0.57, 0.75, 1, 1.4, 2, 3, 5),
    3: (-0.8, -0.2, 0.08, 0.2, 0.35, 0.55, 0.9, 1.6, 3.5),
    4: (-0.5, 0.1, 0.25, 0.5, 1.0, 2.5),
}
GRID_POINTS = 100


def thin(n: int, most: int) -> np.ndarray:
    """Choose evenly spaced rows of a large table: starts need no more."""
    if n <= most:
        return np.arange(n)
    return np.unique(np.linspace(0, n - 1, most).astype(int))


def grid_starts(
    linear: Linear, held: np.ndarray, count: int, *, robust: bool = True, without: int | None = None
) -> np.ndarray:
    """Return up to `count` starts [S, p], the best cells of the exponent grid.

    Args:
        linear: the law as a sum of terms, and what it should meet (`analysis.solving.varpro`).
        held: centred parameters [p], NaN where free.
        count: how many starts at most; they differ by at least two cells of the grid.
        robust: choose cells by deviations, so that a few outliers do not; else by squares.
        without: a term left out, or None.

    The amplitudes at each cell are those of least squares of linearised residuals, none negative.
    """
    cells, index = _grid(linear.objective, held)
    few = linear.thinned(thin(len(linear.want), GRID_POINTS))
    columns, where = _distinct_columns(few, cells)
    amplitudes = _nonnegative(few, columns, where, (held[linear.objective.amplitude], without))
    theta = terms_as_parameters(linear.objective, held, cells, amplitudes)
    if without is not None:
        theta[:, linear.objective.amplitude[without]] = -np.inf
    fit = amplitudes[:, 0, None] * columns[where[:, 0]]
    for k in range(1, where.shape[1]):
        fit += amplitudes[:, k, None] * columns[where[:, k]]
    fit -= few.want
    loss = np.minimum(np.abs(fit), 10.0 * np.abs(few.want).mean()) if robust else fit**2
    cost = loss @ few.weights
    return theta[_spread(cost, index, count)]


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


def _distinct_columns(linear: Linear, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the few different columns [Q, n] of all cells, and which each term uses [G, K]."""
    columns, where, used = [], np.zeros(cells.shape, dtype=int), 0
    for k in range(cells.shape[1]):
        values, place = np.unique(cells[:, k], return_inverse=True)
        columns.append(np.exp(-values[:, None] * linear.u[k]) * linear.scale)
        where[:, k] = used + place.reshape(-1)
        used += len(values)
    return np.concatenate(columns), where


def _nonnegative(
    linear: Linear,
    columns: np.ndarray,
    where: np.ndarray,
    held: tuple[np.ndarray, int | None],
) -> np.ndarray:
    """Solve min sum w (columns a - want)^2 with a >= 0 for each cell [G, K], by trying supports."""
    amplitude, without = held
    free = np.isnan(amplitude)
    fixed = np.where(free, 0.0, np.exp(np.where(free, 0.0, amplitude)))
    weighted = columns * linear.weights
    table = weighted @ columns.T
    gram = table[where[:, :, None], where[:, None, :]]
    right = (weighted @ linear.want)[where] - gram @ fixed
    best = np.zeros(right.shape)
    best_gain = np.full(len(where), -np.inf)
    usable = [k for k in np.flatnonzero(free) if k != without]
    for size in range(1, len(usable) + 1):
        for support in combinations(usable, size):
            part = gram[:, support][:, :, support]
            ridge = 1e-12 * np.trace(part, axis1=1, axis2=2)[:, None, None] * np.eye(size)
            a = np.linalg.solve(part + ridge, right[:, support][..., None])[..., 0]
            gain = (a * right[:, support]).sum(axis=1)
            use = (a > 0).all(axis=1) & (gain > best_gain)
            best[use] = 0.0
            best[np.ix_(use, support)] = a[use]
            best_gain[use] = gain[use]
    return best + fixed


def _spread(cost: np.ndarray, index: np.ndarray, count: int) -> np.ndarray:
    """Pick the cheapest cells that are not neighbours of one another."""
    chosen: list[int] = []
    for cell in np.argsort(cost, kind="stable"):
        near = chosen and (np.abs(index[cell] - index[chosen]).max(axis=1, initial=0) < 2).any()
        if not near:
            chosen.append(int(cell))
        if len(chosen) == count:
            break
    return np.array(chosen)


def other_starts(
    objective: Objective, y: np.ndarray, weights: np.ndarray, held: np.ndarray
) -> np.ndarray:
    """Return starts [S, p] for a law that is not a plain sum of powers: basins along one axis."""
    law = objective.law
    rows = thin(len(y), 2 * GRID_POINTS)
    few = Objective(law, {a: x[rows] for a, x in objective.logx.items()}, link="log")
    if isinstance(law, BrokenPowerLaw):
        wanted, key = _broken_candidates(law, few, y[rows], weights[rows]), "d_1"
    else:
        wanted, key = _constrained_candidates(few, y[rows], weights[rows], held), "R_D"
    theta = np.where(np.isnan(held), wanted, held)
    cost = few.cost(theta, np.log(y[rows]), weights[rows], Rho(loss="lad", delta=1.0))
    return theta[_best_of_each(cost, wanted[:, law.param_names.index(key)])]


def _best_of_each(cost: np.ndarray, group: np.ndarray, keep: int = 2) -> np.ndarray:
    """Pick the cheapest candidates of every group: basins lie apart along it."""
    order = np.argsort(cost, kind="stable")
    return np.concatenate([order[group[order] == value][:keep] for value in np.unique(group)])


def _plain_starts(
    objective: Objective, y: np.ndarray, weights: np.ndarray, count: int
) -> np.ndarray:
    """Return uncentred starts [S, p] of a plain law that a richer one bends."""
    linear = Linear.relative(objective, y, weights)
    free = np.full(len(objective.names), np.nan)
    return objective.from_centred(grid_starts(linear, free, count))


def _broken_candidates(
    law: BrokenPowerLaw, objective: Objective, y: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Bend the best plain power laws at inner points of the axis, up or down, sharp or soft."""
    plain = Objective(PowerLaw(law.axis), objective.logx, link="log")
    bases = _plain_starts(plain, y, weights, count=4)
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
            bases = _plain_starts(plain, y, weights, count=3)
        for base in bases:
            found += [[*base, log_rd, r] for r in np.log([0.5, 1.5, 5.0, 15.0, 100.0])]
    return np.array(found)
