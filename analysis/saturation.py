"""Has the error stopped falling along an axis? A test with a verdict, a p-value and intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from analysis.document import Document
from analysis.fit import LawRegressor
from analysis.inputs import check_level, error_column, positive_column
from analysis.laws import PowerLaw
from analysis.notes import MIN_LEVELS
from analysis.solving.objective import Loss
from analysis.table import axis_column, group_values, one_line
from analysis.uncertainty import ends

Verdict = Literal["saturated", "not saturated", "undecidable"]
# Saturated: at least this share of the error is surely floor, most of it can no longer be gained.
FLOOR_SHARE = 0.5
MIN_NULL = 200  # draws of the null distribution: with fewer than 20 nothing is ever found
# Without a detected floor, floors up to this share of the error must be excluded to say "no".
EXCLUDED_SHARE = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Saturation(Document):
    """The verdict for one axis.

    `p_value` is that of "no floor" (a pure power law) against a floor. `elasticity` is
    -d log y / d log x at the last level. `next_doubling` is the fall of y, in y's units, when
    the axis doubles beyond its last level. `floor_interval` is the profile's, and
    `floor_share_interval` the same in shares of the fitted error at the last level (`last`).
    """

    axis: str
    verdict: Verdict
    reason: str
    p_value: float
    elasticity: float
    elasticity_interval: tuple[float, float]
    next_doubling: float
    next_doubling_interval: tuple[float, float]
    floor: float
    floor_interval: tuple[float, float]
    floor_share_interval: tuple[float, float]
    last: float
    level: float
    sigma: float
    num_levels: int
    num_runs: int
    estimator: str


class Local(NamedTuple):
    """What happens at the last level: see `Saturation`, whose fields these are."""

    elasticity: float
    elasticity_interval: tuple[float, float]
    next_doubling: float
    next_doubling_interval: tuple[float, float]
    floor: float
    floor_interval: tuple[float, float]
    floor_share_interval: tuple[float, float]
    last: float


def saturation_test(
    df: pd.DataFrame,
    axis: str,
    *,
    y: str = "val_l1",
    groups: str = "run_id",
    loss: Loss = "ls",
    delta: float = 1e-3,
    level: float = 0.95,
    num_draws: int = 1000,
    seed: int = 0,
    n_column: str = "num_params_total",
) -> Saturation:
    """Test for a floor along one axis, all else being equal in the table.

    The statistic is the score of the floor at zero (the slope of log y on x^alpha beside the
    straight line); its null distribution is drawn by parametric bootstrap, because a floor cannot
    be negative and the null lies on that boundary.

    Args:
        df: rows along the axis, one a run; of a table in which other settings vary within a level
            of the axis, the longest line with all else equal (`analysis.table.axis_slice`).
        axis: axis or column.
        y: the error's column.
        groups: the run's column.
        loss: estimator of elasticity, floor and gain.
        delta: Huber's knee.
        level: of the intervals; the test is made at 1 - level.
        num_draws: of the bootstraps.
        seed: of the bootstraps.
        n_column: the column behind axis "N".

    Raises:
        ValueError: a column is missing, several metrics, an axis or error that is not positive.
    """
    check_level(level)
    error_column(df, y)
    df = one_line(df, axis, n_column)
    column = axis_column(axis, list(df.columns), n_column)
    x, values = positive_column(df, column), error_column(df, y)
    levels = len(np.unique(x))
    if levels < MIN_LEVELS or len(x) < MIN_LEVELS + 1:
        reason = f"{levels} levels and {len(x)} runs: {MIN_LEVELS} levels with a repeat are needed"
        return _undecided(axis, reason, level, (levels, len(x)))
    table = pd.DataFrame({axis: x})
    reg = LawRegressor(PowerLaw(axis), loss=loss, delta=delta, seed=seed)
    reg.fit(table, values, groups=group_values(df, groups))
    if reg.df_ <= 0:
        reason = f"{reg.n_obs_} runs, {reg.n_obs_ - reg.df_} parameters: no noise estimate"
        return _undecided(axis, reason, level, (levels, len(x)))
    return judge_saturation(reg, level=level, num_draws=num_draws)


def judge_saturation(
    reg: LawRegressor, *, level: float = 0.95, num_draws: int = 1000
) -> Saturation:
    """Judge a fitted `PowerLaw` with offset as `saturation_test` does, reusing its refits."""
    axis, data = reg.law.axes[0], reg.data_
    log_x = data.logx[axis]
    p_value = floor_p_value(
        log_x, np.log(data.y), num_draws=max(num_draws, MIN_NULL) - 1, seed=reg.seed
    )
    local = _local(reg, float(np.exp(log_x.max())), level, num_draws)
    verdict, reason = _judge(p_value, local, reg.sigma_, level)
    return Saturation(
        axis=axis,
        verdict=verdict,
        reason=reason,
        p_value=p_value,
        level=level,
        sigma=reg.sigma_,
        num_levels=len(np.unique(log_x)),
        num_runs=reg.n_obs_,
        estimator=reg.estimator,
        **local._asdict(),
    )


def _undecided(axis: str, reason: str, level: float, counts: tuple[int, int]) -> Saturation:
    nan = float("nan")
    unknown = Local(nan, (nan, nan), nan, (nan, nan), nan, (nan, nan), (nan, nan), nan)
    return Saturation(
        axis=axis,
        verdict="undecidable",
        reason=reason,
        p_value=nan,
        **unknown._asdict(),
        level=level,
        sigma=nan,
        num_levels=counts[0],
        num_runs=counts[1],
        estimator="none",
    )


def floor_p_value(
    log_x: np.ndarray, log_y: np.ndarray, *, num_draws: int = 999, seed: int = 0
) -> float:
    """Return the one-sided p-value of "no floor", by parametric bootstrap of the score [n] -> 1.

    Only the design and alpha enter the null distribution: noise is drawn standard normal, scaled.
    """
    u = log_x - log_x.mean()
    observed, line, sigma = _scores(u, log_y[None])
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((num_draws, len(u)))
    draws, _, _ = _scores(u, line + sigma[0] * noise)
    return float((1 + (draws >= observed[0]).sum()) / (num_draws + 1))


def _scores(u: np.ndarray, log_y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the score's t statistic [B], the fitted lines [B, n] and sigmas [B]."""
    n = len(u)
    norm = u @ u
    slope = log_y @ u / norm
    line = log_y.mean(axis=1, keepdims=True) + slope[:, None] * u
    residual = log_y - line
    w = -slope[:, None] * u
    # exp(w) - 1 - w, the part of x^alpha that no straight line has; w^2 / 2 where alpha vanishes
    z = np.where(np.abs(w) < 1e-4, 0.5 * w * w, np.expm1(w) - w)
    z = z - z.mean(axis=1, keepdims=True) - ((z @ u) / norm)[:, None] * u
    size = np.maximum((z * z).sum(axis=1), 1e-300)
    along = (z * residual).sum(axis=1) / np.sqrt(size)
    rss = (residual**2).sum(axis=1)
    rest = np.maximum(rss - along**2, 1e-300) / max(n - 3, 1)
    return along / np.sqrt(rest), line, np.sqrt(rss / (n - 2))


def _local(reg: LawRegressor, x_last: float, level: float, num_draws: int) -> Local:
    """Return elasticity, next doubling and floor at the last level, each with its interval."""
    names = reg.law.param_names
    draws = reg.bootstrap(num_draws).to_numpy()
    point = np.array([[reg.params_[name] for name in names]])
    at = {}
    for key, rows in (("point", point), ("draws", draws)):
        e, a, alpha = (rows[:, names.index(name)] for name in ("E", "A", "alpha"))
        with np.errstate(all="ignore"):
            falling = np.exp(np.log(a) - alpha * np.log(x_last))
        total = e + falling
        gain = falling * (1 - 2.0**-alpha)
        at[key] = (alpha * falling / total, gain, e, total)
    spans = [(float(low), float(high)) for low, high in (ends(v, level) for v in at["draws"][:2])]
    # refits around a floor of zero say little of floors above: the profile does
    floor = reg.profile("E", level).interval
    elasticity, gain, offset, last = (float(v[0]) for v in at["point"])
    return Local(
        elasticity=elasticity,
        elasticity_interval=spans[0],
        next_doubling=gain,
        next_doubling_interval=spans[1],
        floor=offset,
        floor_interval=floor,
        floor_share_interval=(min(floor[0] / last, 1.0), min(floor[1] / last, 1.0)),
        last=last,
    )


def _judge(p_value: float, local: Local, sigma: float, level: float) -> tuple[Verdict, str]:
    """Turn the test and the intervals into a verdict with its reason."""
    low, high = local.elasticity_interval
    least, most = local.floor_share_interval
    gain = local.next_doubling_interval[1] / local.last
    if low <= 0 <= high and gain < sigma:
        return "saturated", "the error does not fall, and the next doubling buys less than noise"
    if p_value < 1 - level:
        found = f"the test finds a floor; its size is {least:.0%} to {most:.0%} of the last error"
        if least >= FLOOR_SHARE:
            return "saturated", found
        return ("not saturated" if most < FLOOR_SHARE else "undecidable"), found
    if most < EXCLUDED_SHARE and low > 0:
        return "not saturated", f"no floor detected; one above {most:.0%} of the error is excluded"
    if low <= 0:
        return "undecidable", "whether the error still falls at the last level is within the noise"
    return "undecidable", f"a floor of up to {most:.0%} of the last error cannot be excluded"
