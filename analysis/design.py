"""What to buy next: isoFLOP optima, the best split of a budget, the most informative runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.allocation import Allocation, Cost, optimal_allocation, six_nd
from analysis.document import Document
from analysis.fit import LawRegressor
from analysis.inputs import check_positive, error_column, positive_column
from analysis.laws import Additive, Law, PowerLaw
from analysis.notes import MIN_LEVELS
from analysis.table import STUDY_AXES, axis_column, axis_frame, group_values
from analysis.uncertainty import ends

__all__ = [
    "Allocation",
    "Cost",
    "IsoFlop",
    "design_next",
    "isoflop",
    "optimal_allocation",
    "six_nd",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoFlop(Document):
    """Optima of parabolas at equal compute, and the power laws through them.

    `minima` holds `compute`, `axis value`, `y` of each kept parabola; `num_edge` counts those
    whose minimum lies outside the sizes tried: they bound an optimum and are dropped.
    """

    axis: str
    minima: tuple[dict[str, float], ...]
    exponent: float
    exponent_interval: tuple[float, float]
    num_edge: int
    num_convexless: int
    num_small: int


def isoflop(
    df: pd.DataFrame,
    axis: str = "N",
    *,
    y: str = "val_l1",
    compute: str = "compute_flops",
    tolerance: float = 0.02,
    num_draws: int = 1000,
    seed: int = 0,
    n_column: str = "num_params_total",
) -> IsoFlop:
    """Fit a parabola of log y in log axis at each budget; fit the optima by a power of compute.

    The exponent's interval comes from seed noise: residuals of the parabolas are resampled
    (Porian et al. 2024). Budgets within `tolerance` (relative) are one.

    Raises:
        ValueError: a column is missing or not positive, or a tolerance below zero.
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance={tolerance!r}: give a relative difference of budgets, 0.02")
    column = axis_column(axis, list(df.columns), n_column)
    if compute not in df.columns:
        raise ValueError(f"no column {compute!r}: give FLOPs as a column, they are never guessed")
    log_c = np.log(positive_column(df, compute))
    order = np.argsort(log_c, kind="stable")
    budget = np.cumsum(np.diff(log_c[order], prepend=log_c[order][:1]) > tolerance)
    u, v = np.log(positive_column(df, column)), np.log(error_column(df, y))
    rng = np.random.default_rng(seed)
    kept, counts = [], {"edge": 0, "convex": 0, "small": 0}
    for number in np.unique(budget):
        rows = order[budget == number]
        if len(np.unique(u[rows])) < 4:
            counts["small"] += 1
            continue
        found = _parabola(u[rows], v[rows], num_draws, rng)
        if found is None:
            counts["convex"] += 1
        elif not u[rows].min() < found[0] < u[rows].max():
            counts["edge"] += 1
        else:
            kept.append((float(log_c[rows].mean()), *found))
    slope, span = _frontier(kept)
    return IsoFlop(
        axis=axis,
        minima=tuple(
            {"compute": float(np.exp(c)), axis: float(np.exp(m)), "y": float(np.exp(w))}
            for c, m, w, _ in kept
        ),
        exponent=slope,
        exponent_interval=span,
        num_edge=counts["edge"],
        num_convexless=counts["convex"],
        num_small=counts["small"],
    )


def _parabola(
    u: np.ndarray, v: np.ndarray, num_draws: int, rng: np.random.Generator
) -> tuple[float, float, np.ndarray] | None:
    """Return the minimum's place, its value, and draws of its place; None if it opens down."""
    centre = u.mean()
    basis = np.vander(u - centre, 3)
    solve = np.linalg.pinv(basis)
    c2, c1, c0 = solve @ v
    if c2 <= 0:
        return None
    fitted = basis @ (solve @ v)
    # residuals of three coefficients are too small by that root; at least one is kept free
    spread = (v - fitted) * np.sqrt(len(u) / max(len(u) - 3, 1))
    again = solve @ (fitted[:, None] + rng.choice(spread, size=(len(u), num_draws)))
    with np.errstate(divide="ignore"):
        draws = np.where(again[0] > 0, centre - again[1] / (2 * again[0]), np.nan)
    return centre - c1 / (2 * c2), c0 - c1 * c1 / (4 * c2), draws


def _frontier(kept: Sequence[tuple[float, float, float, np.ndarray]]) -> tuple[float, Any]:
    nan = float("nan")
    if len(kept) < 2:
        return nan, (nan, nan)
    c = np.array([k[0] for k in kept])
    u = c - c.mean()
    slope = float(u @ np.array([k[1] for k in kept]) / (u @ u))
    draws = (u[:, None] * np.stack([k[3] for k in kept])).sum(axis=0) / (u @ u)
    low, high = ends(draws)
    return slope, (float(low), float(high))


def design_next(
    df: pd.DataFrame,
    budget: float,
    candidates: pd.DataFrame,
    *,
    law: Law | None = None,
    target: Mapping[str, float] | None = None,
    cost: str = "gpu_hours",
    y: str = "val_l1",
    groups: str = "run_id",
    seed: int = 0,
    n_column: str = "num_params_total",
) -> pd.DataFrame:
    """Choose the runs that lower the variance of the prediction at a target most for their cost.

    Args:
        df: the run table so far.
        budget: to spend, in the units of the column `cost`.
        candidates: runs that could be bought: the law's axes and `cost`; each may be bought once.
        law: whose prediction matters; by default the power law, or the additive one, of the study
            axes that the candidates have and that vary in the table.
        target: axis values of the prediction; twice the largest of each axis by default.

    Returns:
        Candidates in buying order with `sd_before` and `sd_after` (standard deviation of the
        log prediction at the target), `fall_per_cost` and `spent`; none where the budget buys none.

    Raises:
        ValueError: a column is missing or not positive, a budget that is none, no candidates, or
            a table that does not identify the law.
    """
    check_positive("budget", budget)
    price = positive_column(candidates, cost)
    if not len(price):
        raise ValueError("no candidates: give a table of runs that could be bought, one a row")
    law = law or _law_of(df, candidates, n_column)
    reg = LawRegressor(law, loss="ls", seed=seed)
    here = axis_frame(df, law, n_column)
    reg.fit(here, error_column(df, y), groups=group_values(df, groups))
    aim = target or {a: 2.0 * float(here[a].max()) for a in law.axes}
    offers = axis_frame(candidates, law, n_column)
    rows, goal = _log_slopes(reg, offers), _log_slopes(reg, pd.DataFrame([aim]))[0]
    known = _log_slopes(reg, here)
    scale = np.maximum(np.sqrt((known**2).sum(axis=0)), 1e-300)
    # The variance of a prediction is g' (J'J)^-1 g sigma^2; columns are
    # scaled, since an amplitude and an exponent differ by ten powers of ten.
    information = (known / scale).T @ (known / scale)
    # a ridge far below what a run adds: a direction that nothing has measured has a finite price
    inverse = np.linalg.pinv(information + 1e-10 * np.eye(len(scale)))
    chosen = _greedy(inverse, rows / scale, goal / scale, price, budget)
    table = candidates.iloc[[c[0] for c in chosen]].copy()
    sigma = reg.sigma_
    table["sd_before"] = [sigma * np.sqrt(c[1]) for c in chosen]
    table["sd_after"] = [sigma * np.sqrt(c[2]) for c in chosen]
    table["fall_per_cost"] = [sigma**2 * (c[1] - c[2]) / c[3] for c in chosen]
    table["spent"] = np.cumsum([c[3] for c in chosen])
    return table.reset_index(drop=True)


def _law_of(df: pd.DataFrame, candidates: pd.DataFrame, n_column: str) -> Law:
    """Choose the law over the study axes that the candidates have and that vary in the table."""
    axes = []
    for axis in STUDY_AXES:
        try:
            column = axis_column(axis, list(df.columns), n_column)
            axis_column(axis, list(candidates.columns), n_column)
        except ValueError:
            continue
        if df[column].nunique() >= MIN_LEVELS:
            axes.append(axis)
    if not axes:
        raise ValueError(
            f"no axis of {STUDY_AXES} is in the candidates and has {MIN_LEVELS} levels or more in "
            "the table: name the law with law="
        )
    return PowerLaw(axes[0]) if len(axes) == 1 else Additive(tuple(axes))


def _log_slopes(reg: LawRegressor, X: pd.DataFrame) -> np.ndarray:
    """Return d log prediction / d parameter [n, p] in natural units."""
    return reg.law.jacobian(reg.params_, X) / np.asarray(reg.predict(X))[:, None]


def _greedy(
    inverse: np.ndarray, rows: np.ndarray, goal: np.ndarray, price: np.ndarray, budget: float
) -> list[tuple[int, float, float, float]]:
    """Buy while money lasts, each time the greatest fall per price (Sherman and Morrison)."""
    left = budget
    chosen: list[tuple[int, float, float, float]] = []
    open_rows = set(range(len(rows)))
    while True:
        affordable = [i for i in sorted(open_rows) if price[i] <= left]
        if not affordable:
            return chosen
        now = float(goal @ inverse @ goal)
        moved = rows[affordable] @ inverse
        fall = (moved @ goal) ** 2 / (1 + (moved * rows[affordable]).sum(axis=1))
        best = int(np.argmax(fall / price[affordable]))
        i = affordable[best]
        chosen.append((i, now, max(now - float(fall[best]), 0.0), float(price[i])))
        step = inverse @ rows[i]
        inverse = inverse - np.outer(step, step) / (1 + rows[i] @ step)
        left -= price[i]
        open_rows.remove(i)
