"""The split of a budget over the axes of a law with the least predicted error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize

from analysis.document import Document
from analysis.fit import LawRegressor
from analysis.inputs import check_positive
from analysis.law import Law

Cost = Callable[..., float]
AT_LIMIT = 1e-6  # of a logarithm


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation(Document):
    """The split of a budget with the least predicted error.

    `at_limit` names axes at one of their limits; `beyond_data` how many times the largest (or
    below one, the smallest) value that was fitted each axis lies outside the data; `method` is
    "closed form" where cost is a product of powers of the axes, else "SLSQP".
    """

    axes: dict[str, float]
    cost: float
    predicted: float
    at_limit: tuple[str, ...]
    beyond_data: dict[str, float]
    method: str


def six_nd(*, N: float, D: float) -> float:
    """Return 6 N D, the usual count of training FLOPs of a dense language model."""
    return 6.0 * N * D


def optimal_allocation(
    law: LawRegressor | Law,
    budget: float,
    *,
    cost: Cost,
    params: Mapping[str, float] | None = None,
    limits: Mapping[str, tuple[float, float]] | None = None,
) -> Allocation:
    """Split a budget over the axes so that the predicted error is least.

    Where the cost is a product of powers (6 N D is) and every term falls, the answer is in closed
    form: d term / d log axis is in proportion to d log cost / d log axis (Hoffmann et al. 2022,
    equation 4, for two axes); axes that meet a limit are held there and the rest solved again.

    Args:
        law: a fitted regressor, or a law with `params`.
        budget: in the units of `cost`.
        cost: takes the axes by keyword and returns the cost; rising in each.
        limits: (least, most) of an axis, such as the domains that exist.

    Raises:
        ValueError: no parameters, limits that are none, a budget or cost that is not positive, or
            even the least of everything costs too much.
    """
    form = law.law if isinstance(law, LawRegressor) else law
    values = getattr(law, "params_", None) if isinstance(law, LawRegressor) else params
    if values is None:
        raise ValueError("give a fitted LawRegressor, or params=")
    missing = [name for name in form.param_names if name not in values]
    if missing or not form.axes:
        raise ValueError(f"no value of {missing}: the law has {form.param_names}" if missing else
                         f"{form.name} has no axis to split a budget over")  # fmt: skip
    check_positive("budget", budget)
    problem = _Split(form, values, float(np.log(budget)), cost, _box(form, law, limits))
    if problem.log_cost(problem.low) > problem.log_budget:
        least = float(np.exp(problem.log_cost(problem.low)))
        raise ValueError(f"budget {budget:g} is less than the least cost {least:g}")
    best, method = problem.closed_form(), "closed form"
    if best is None:
        best, method = problem.search(), "SLSQP"
    near = (np.abs(best - problem.low) < AT_LIMIT) | (np.abs(best - problem.high) < AT_LIMIT)
    return Allocation(
        axes={a: float(np.exp(x)) for a, x in zip(form.axes, best, strict=True)},
        cost=float(np.exp(problem.log_cost(best))),
        predicted=float(np.exp(problem.log_error(best))),
        at_limit=tuple(a for a, n in zip(form.axes, near, strict=True) if n),
        beyond_data=_beyond_data(form, law, best),
        method=method,
    )


class _Split:
    """The budget problem in log axes."""

    def __init__(
        self,
        form: Law,
        values: Mapping[str, float],
        log_budget: float,
        cost: Cost,
        box: dict[str, tuple[float, float]],
    ) -> None:
        self.form, self.values, self.log_budget, self.cost = form, values, log_budget, cost
        self.low = np.array([box[a][0] for a in form.axes])
        self.high = np.array([box[a][1] for a in form.axes])

    def log_cost(self, w: np.ndarray) -> float:
        """Return the log cost at log axes."""
        at = dict(zip(self.form.axes, map(float, np.exp(w)), strict=True))
        try:
            value = float(self.cost(**at))
        except TypeError as problem:
            raise ValueError(
                f"cost={self.cost!r} cannot be called with {', '.join(at)} by keyword: {problem}"
            ) from None
        if not value > 0:
            raise ValueError(
                f"cost returned {value!r}: it must be positive and rise with each axis"
            )
        return float(np.log(value))

    def log_error(self, w: np.ndarray) -> float:
        """Return the log prediction at log axes."""
        one = {a: np.array([np.exp(x)]) for a, x in zip(self.form.axes, w, strict=True)}
        return float(np.log(self.form.predict(self.values, one)[0]))

    def powers(self) -> np.ndarray | None:
        """Return the exponents of a cost that is a product of powers [m]; None if it is not."""
        centre = 0.5 * (self.low + self.high)
        size = np.minimum(1.0, 0.25 * (self.high - self.low))
        if (size <= 0).any():
            return None
        middle = self.log_cost(centre)
        steps = np.diag(size)
        slopes = np.array([self.log_cost(centre + s) - middle for s in steps]) / size
        # six places are enough: a cost that is no product of powers is bent everywhere
        rng = np.random.default_rng(0)
        for share in rng.uniform(0.05, 0.95, size=(6, len(size))):
            w = self.low + share * (self.high - self.low)
            if abs(self.log_cost(w) - middle - slopes @ (w - centre)) > 1e-9 * (1 + abs(middle)):
                return None
        return slopes if (slopes > 0).all() else None

    def closed_form(self) -> np.ndarray | None:
        """Return the optimum [m] where it has a closed form, else None."""
        terms = {t.axis: t for t in self.form.terms if t.axis}
        if not self.form.is_posynomial or set(terms) != set(self.form.axes):
            return None
        amplitude = np.array([self.values[terms[a].amplitude] for a in self.form.axes])
        alpha = np.array([self.values[str(terms[a].exponent)] for a in self.form.axes])
        if (amplitude <= 0).any() or (alpha <= 0).any() or (powers := self.powers()) is None:
            return None
        if self.log_cost(self.high) <= self.log_budget:
            return self.high
        offset = self.log_cost(self.low) - float(powers @ self.low)
        pull = np.log(alpha * amplitude / powers)
        w = np.clip(self.low, self.low, self.high)
        open_ = np.ones(len(w), dtype=bool)
        for _ in range(2 * len(w) + 1):
            left = self.log_budget - offset - float(powers[~open_] @ w[~open_])
            weight = powers[open_] / alpha[open_]
            price = (float(weight @ pull[open_]) - left) / float(weight.sum())
            w[open_] = (pull[open_] - price) / alpha[open_]
            above, below = np.maximum(w - self.high, 0), np.maximum(self.low - w, 0)
            if not (open_ & (above + below > 0)).any():
                return w
            # hold the side on which more of the budget is misplaced; the other may come back
            worst = above if float(powers @ above) >= float(powers @ below) else below
            held = open_ & (worst > 0)
            w = np.where(held, np.clip(w, self.low, self.high), w)
            open_ &= ~held
            if not open_.any():
                return np.clip(w, self.low, self.high)
        return None

    def search(self) -> np.ndarray:
        """Minimise numerically from several starts."""
        room = {"type": "ineq", "fun": lambda w: self.log_budget - self.log_cost(w)}
        best = None
        for share in (0.2, 0.4, 0.6, 0.8):
            found = minimize(
                self.log_error,
                self.low + share * (self.high - self.low),
                method="SLSQP",
                bounds=list(zip(self.low, self.high, strict=True)),
                constraints=[room],
                options={"ftol": 1e-14, "maxiter": 500},  # the error is flat at the optimum
            )
            # SLSQP keeps to the budget up to its own rounding
            feasible = self.log_cost(found.x) <= self.log_budget + 1e-6
            if feasible and (best is None or found.fun < best.fun):
                best = found
        if best is None:
            raise ValueError("no feasible split found: check that cost rises with each axis")
        return np.asarray(best.x)


def _box(
    form: Law, law: Any, limits: Mapping[str, tuple[float, float]] | None
) -> dict[str, tuple[float, float]]:
    """Return log bounds of each axis: the limits given, or many powers of ten around the data."""
    box = {}
    for axis in form.axes:
        box[axis] = (0.0, 45.0)  # 1 to 3e19
        if isinstance(law, LawRegressor):
            x = law.data_.logx[axis]
            # five powers of ten below the data, ten above
            box[axis] = (float(x.min()) - 12.0, float(x.max()) + 24.0)
    for axis, given in (limits or {}).items():
        pair = np.shape(given) == (2,)
        low, high = given if pair else (0.0, 0.0)
        if axis not in box or not 0 < low <= high < np.inf:
            raise ValueError(
                f"limits {axis}={given!r}: give 0 < least <= most of one of {form.axes}"
            )
        box[axis] = (float(np.log(low)), float(np.log(high)))
    return box


def _beyond_data(form: Law, law: Any, w: np.ndarray) -> dict[str, float]:
    """Return by which factor each axis lies outside the fitted data; inside ones are left out."""
    if not isinstance(law, LawRegressor):
        return {}
    found = {}
    for axis, value in zip(form.axes, w, strict=True):
        x = law.data_.logx[axis]
        if value > x.max() + 1e-9:
            found[axis] = float(np.exp(value - x.max()))
        elif value < x.min() - 1e-9:
            found[axis] = float(np.exp(value - x.min()))
    return found
