"""How far a fit can be trusted: resampling, bands, conditioning, the noise floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import chdtri

from analysis.document import Document
from analysis.inputs import check_columns, check_level, error_column
from analysis.solving.objective import Objective, apply_link, invert_link
from analysis.solving.solver import minimise
from analysis.table import setting_columns

if TYPE_CHECKING:
    from analysis.fit import LawRegressor

METHODS = ("auto", "cluster", "parametric")
# Below this many runs a parameter, resampling runs gives intervals that are plainly too short.
RUNS_PER_PARAMETER = 10
NEGLIGIBLE = 1e-7  # of the curve's least: an offset below it is written as zero
# Of the cost. An interval's end is known to two digits at best, so a refit may stop earlier than a
# fit, whose parameters are printed.
REFIT_TOLERANCE = 1e-10
# A refit beyond these exponents, or with an offset e^3 below the curve, is tried again.
STEEP, FLAT, NEAR_EDGE = 3.0, 0.02, 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseFloor(Document):
    """Seed-to-seed variation: what no fit can explain."""

    sigma: float
    interval: tuple[float, float]
    degrees_of_freedom: int
    num_cells: int
    num_runs: int


def conditioning(
    jac: np.ndarray, weights: np.ndarray, moving: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return the condition number of J'J and the correlation of parameters [p, p]."""
    size = jac.shape[1]
    correlation = np.full((size, size), np.nan)
    where = np.flatnonzero(moving)
    if not len(where):
        return float("nan"), correlation
    inner = (jac[:, where] * weights[:, None]).T @ jac[:, where]
    if not np.isfinite(inner).all():
        return float("inf"), correlation
    values, vectors = np.linalg.eigh(inner)
    condition = float(values[-1] / values[0]) if values[0] > 0 else float("inf")
    # below rounding an eigenvalue may be negative, and its square root no number
    safe = np.maximum(values, max(values[-1], 1e-300) * 1e-15)
    covariance = (vectors / safe) @ vectors.T
    spread = np.sqrt(np.diag(covariance))
    correlation[np.ix_(where, where)] = covariance / np.outer(spread, spread)
    return condition, correlation


def choose_method(reg: LawRegressor) -> str:
    """Choose how to resample: runs where there are many, noise of the estimated size elsewhere.

    Resampling m runs of a cell shrinks the variance by (m - 1) / m, and does nothing where each
    cell has one run; with few runs new noise is drawn instead, its size uncertain as well.
    """
    runs = int(reg.data_.groups.max()) + 1
    several_rows = runs < len(reg.data_.y)
    enough = runs >= RUNS_PER_PARAMETER * int(reg._moving.sum())
    return "cluster" if enough or several_rows or reg.df_ <= 0 else "parametric"


def draws(reg: LawRegressor, n: int, seed: int, method: str = "auto") -> np.ndarray:
    """Return n refits as centred internal parameters [n, p].

    Raises:
        ValueError: an unknown method, or n < 1.
    """
    if method not in METHODS or not isinstance(n, Integral) or n < 1:
        raise ValueError(f"method={method!r}, n={n!r}: choose one of {METHODS} and a whole n >= 1")
    method = choose_method(reg) if method == "auto" else method
    rng = np.random.default_rng(seed)
    if method == "cluster":
        return refit(reg, reg.data_.target, resample_weights(reg, n, rng))
    return refit(reg, resample_noise(reg, n, rng), reg.data_.weights)


def resample_weights(reg: LawRegressor, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw runs with replacement within their cells; return weights of the rows [n, rows].

    Cells with a single run form one stratum together: alone they would never vary.
    """
    groups = reg.data_.groups
    num = int(groups.max()) + 1
    strata = _strata(reg, num)
    counts = np.zeros((n, num))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        even = np.full(len(members), 1.0 / len(members))
        counts[:, members] = rng.multinomial(len(members), even, size=n)
    return counts[:, groups] * reg.data_.weights


def _strata(reg: LawRegressor, num: int) -> np.ndarray:
    """Number the cell of each run [num]; runs alone in their cell share the number -1."""
    rows = np.column_stack(list(reg.data_.logx.values()))
    cell = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
    keys = [tuple(np.sort(cell[reg.data_.groups == g])) for g in range(num)]
    codes = pd.factorize(pd.Series(keys, dtype=object))[0]
    return np.where(np.bincount(codes)[codes] > 1, codes, -1)


def resample_noise(reg: LawRegressor, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw linked targets [n, rows] around the fit.

    The noise's size is drawn from its own sampling distribution (scaled inverse chi-square with
    the residual degrees of freedom), which turns normal intervals into Student's.
    """
    centre = reg.data_.target + reg.residuals_
    if reg.loss == "binomial":
        rate = np.clip(np.exp(reg._objective.log_prediction(reg._theta[None])[0]), 0, 1)
        trials = np.maximum(np.rint(reg.data_.weights), 1).astype(int)
        return rng.binomial(trials, rate, size=(n, len(rate))) / trials
    sigma = reg.sigma_ * np.sqrt(reg.df_ / rng.chisquare(reg.df_, size=(n, 1)))
    scale = np.sqrt(reg.data_.weights.mean() / np.maximum(reg.data_.weights, 1e-300))
    return centre + sigma * scale * rng.standard_normal((n, len(centre)))


def refit(reg: LawRegressor, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Refit the law to many tables at once from two starts each; return [n, p]."""
    objective = reg._objective
    size = max(np.atleast_2d(target).shape[0], np.atleast_2d(weights).shape[0])
    free = np.isnan(reg._held)
    target = np.broadcast_to(target, (size, reg.n_obs_))
    weights = np.broadcast_to(weights, (size, reg.n_obs_))
    best, cost = np.zeros((size, len(free))), np.full(size, np.inf)
    rows = np.arange(size)
    for number, start in enumerate(_warm_starts(reg)):
        found = minimise(
            objective,
            np.tile(start, (len(rows), 1)),
            target=target[rows],
            weights=weights[rows],
            rho=reg.rho,
            free=free,
            max_iter=80,
            tolerance=REFIT_TOLERANCE,
        )
        better = found.cost < cost[rows]
        best[rows[better]], cost[rows[better]] = found.theta[better], found.cost[better]
        if number == 0:
            rows = rows[_doubtful(reg, found.theta, found.converged)]
        if not len(rows):
            break
    return _drop_negligible(reg, best)


def _doubtful(reg: LawRegressor, theta: np.ndarray, converged: np.ndarray) -> np.ndarray:
    """Tell which refits deserve another start [B]: unfinished ones, and those near an edge."""
    edge = ~converged
    for k, (a, e) in enumerate(zip(reg._objective.amplitude, reg._objective.exponent, strict=True)):
        if e >= 0:
            edge |= (np.abs(theta[:, e]) > STEEP) | (theta[:, e] < FLAT)
        elif len(reg.law.terms) > 1 and k == 0:
            least = reg._objective.log_prediction(theta).min(axis=1)
            edge |= ~(np.abs(theta[:, a] - least) < NEAR_EDGE)
    return edge


def _warm_starts(reg: LawRegressor) -> list[np.ndarray]:
    """List starts for refits: the fit with its bounds reopened, and fits at other offsets.

    Offset and exponent trade along a valley that is flat where the offset vanishes: a refit that
    begins there never leaves it, so others begin at a large offset and at a small one.
    """
    theta, objective = reg._theta.copy(), reg._objective
    least = float(objective.log_prediction(theta[None]).min())
    free = np.isnan(reg._held)
    theta[free & np.isneginf(theta)] = least + np.log(0.02)
    if "E" not in reg.law.param_names or len(reg.law.terms) == 1:
        return [theta]
    j = reg.law.param_names.index("E")
    if not free[j]:
        return [theta]
    others = np.tile(theta, (2, 1))
    others[:, j] = least + np.log([0.8, 0.2])
    moving = free.copy()
    moving[j] = False
    found = minimise(
        objective,
        others,
        target=reg.data_.target,
        weights=reg.data_.weights,
        rho=reg.rho,
        free=moving,
        max_iter=50,
        tolerance=1e-6,
    )
    return [theta, *found.theta]


def _drop_negligible(reg: LawRegressor, theta: np.ndarray) -> np.ndarray:
    """Write offsets that no longer matter as exactly zero."""
    names = reg.law.param_names
    if "E" in names and len(reg.law.terms) > 1 and reg.law.is_posynomial:
        j = names.index("E")
        least = reg._objective.log_prediction(theta).min(axis=1)
        if np.isnan(reg._held[j]):
            theta[:, j] = np.where(theta[:, j] < least + np.log(NEGLIGIBLE), -np.inf, theta[:, j])
    return theta


def band(
    reg: LawRegressor,
    logx: dict[str, np.ndarray],
    *,
    level: float,
    new_run: bool,
    num_draws: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper ends of a band [m] from refits, plus one run's noise if asked."""
    if reg.df_ <= 0:
        nothing = np.full(len(next(iter(logx.values()))), np.nan)
        return nothing, nothing
    objective = Objective(reg.law, logx, link=reg.link)
    log_pred = objective.log_prediction(objective.to_centred(reg.band_draws(num_draws)))
    with np.errstate(all="ignore"):
        linked = apply_link(reg.link, log_pred)[0]
    if new_run:
        rng = np.random.default_rng(reg.seed + 1)
        size = reg.sigma_ * np.sqrt(reg.df_ / rng.chisquare(reg.df_, size=(len(linked), 1)))
        linked = linked + size * rng.standard_normal(linked.shape)
    low, high = ends(linked, level)
    return invert_link(reg.link, low), invert_link(reg.link, high)


def ends(drawn: np.ndarray, level: float = 0.95) -> np.ndarray:
    """Return both ends [2, ...] of the interval that n draws [n, ...] give; NaN is left out.

    Quantiles at (n + 1) p (Hyndman and Fan 1996, definition 6): between them lies `level` of the
    distribution drawn from, on average; the usual (n - 1) p loses two draws' worth.
    """
    check_level(level)
    places = [0.5 - level / 2, 0.5 + level / 2]
    return np.nanquantile(drawn, places, axis=0, method="weibull")


def noise_floor(
    df: pd.DataFrame,
    *,
    y: str = "val_l1",
    groups: str = "run_id",
    cells: Sequence[str] | None = None,
    level: float = 0.95,
) -> NoiseFloor:
    """Estimate the seed-to-seed standard deviation of log y within cells of equal settings.

    Args:
        df: run table.
        y: the error's column.
        groups: the run's column; rows of one run are averaged first.
        cells: columns that define a cell (none: all runs are repeats of one setting); by default
            every column of the table that is known to tell settings apart.
        level: of the interval (chi-square).

    Raises:
        ValueError: no column that tells settings apart, an error that is not positive, or no cell
            of two runs, so that there is no repeat to learn from.
    """
    check_level(level)
    keys = setting_columns(list(df.columns)) if cells is None else list(cells)
    if cells is None and not keys:
        raise ValueError(
            f"no column tells settings apart among {[str(c) for c in df.columns]}: name those that "
            "do with cells= (cells=[] if all runs are repeats)"
        )
    check_columns(df, *keys)
    table = df.assign(_log=np.log(error_column(df, y)))
    if groups in table.columns:
        table = table.groupby([groups, *keys], dropna=False)["_log"].mean().reset_index()
    cell = table.groupby(keys, dropna=False)["_log"] if keys else table.groupby(lambda _: 0)["_log"]
    rss = float(((cell.transform("mean") - table["_log"]) ** 2).sum())
    df_ = len(table) - cell.ngroups
    if df_ < 1:
        raise ValueError(
            f"no repeats: {len(table)} runs in {cell.ngroups} cells; a noise floor needs two seeds "
            "or more of the same settings"
        )
    # rss / sigma^2 is chi-square with the degrees of freedom left by the cells' means
    upper, lower = chdtri(df_, 0.5 - level / 2), chdtri(df_, 0.5 + level / 2)
    return NoiseFloor(
        sigma=float(np.sqrt(rss / df_)),
        interval=(float(np.sqrt(rss / upper)), float(np.sqrt(rss / lower))),
        degrees_of_freedom=df_,
        num_cells=int(cell.ngroups),
        num_runs=len(table),
    )
