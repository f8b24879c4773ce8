"""`LawRegressor`: one law fitted to one table, in scikit-learn's conventions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import profiles, uncertainty
from analysis.inputs import NotFittedError, check_level, check_positive
from analysis.law import MAX_EXPONENT, Law, internal, log_axes, natural
from analysis.notes import (
    Note,
    NotIdentifiedError,
    curvature_notes,
    design_notes,
    fit_notes,
    require_identified,
)
from analysis.solving.objective import LINKS, LOSSES, Link, Loss, Objective, Rho
from analysis.solving.search import Problem, find_optimum

__all__ = ["LawRegressor", "NotFittedError", "NotIdentifiedError", "Note"]

BAND_DRAWS = 1000  # the ends of a 95 % band then lie among 25 draws each


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """A fitted table in canonical row order, ready for refits; `order` leads back to the given."""

    logx: dict[str, np.ndarray]
    y: np.ndarray
    target: np.ndarray
    weights: np.ndarray
    groups: np.ndarray
    order: np.ndarray


class LawRegressor:
    """Fit a law by a summed loss of linked residuals.

    Args:
        law: the form (`analysis.laws`).
        loss: "huber" (r^2/2 up to delta, delta (|r| - delta/2) beyond), "lad" (|r|), "ls" (r^2/2)
            or "binomial" (y a rate, weights the trials); always a sum, never a mean.
        delta: Huber's knee, on the link's scale.
        link: "log", "identity" or "logit": the scale of residuals.
        fixed: parameters held at a value.
        seed: of every random draw that this object makes unasked.

    After `fit`: `params_`, `cost_`, `converged_`, `n_starts_at_optimum_`, `n_starts_`, `sigma_`
    (residual standard deviation on the link's scale, n - p degrees of freedom), `df_`,
    `condition_number_` (of J'J in log amplitudes at x = 1 and exponents; it depends on units),
    `condition_number_centred_` (amplitudes at the centre of the data; it does not),
    `correlation_` (of the centred parameters), `notes_`.
    """

    def __init__(
        self,
        law: Law,
        *,
        loss: Loss = "huber",
        delta: float = 1e-3,
        link: Link = "log",
        fixed: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        self.law = law
        self.loss = loss
        self.delta = delta
        self.link = link
        self.fixed = fixed
        self.seed = seed

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor's arguments (scikit-learn's `clone` uses this)."""
        names = ("law", "loss", "delta", "link", "fixed", "seed")
        return {name: getattr(self, name) for name in names}

    def set_params(self, **params: Any) -> LawRegressor:
        """Set constructor arguments by name; raise ValueError for a name that is none."""
        for name, value in params.items():
            if name not in self.get_params():
                raise ValueError(f"no parameter {name!r}: choose from {list(self.get_params())}")
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn, which is loaded because it asks, that this is a regressor."""
        from sklearn.utils import RegressorTags, Tags, TargetTags

        target = TargetTags(required=True)
        return Tags(estimator_type="regressor", target_tags=target, regressor_tags=RegressorTags())

    def __repr__(self) -> str:
        shown = ", ".join(f"{k}={v!r}" for k, v in self.get_params().items())
        return f"LawRegressor({shown})"

    def fit(self, X: Any, y: Any, *, weights: Any = None, groups: Any = None) -> LawRegressor:
        """Fit the law.

        Args:
            X: table with one positive column an axis, n rows.
            y: errors [n], positive under a log link.
            weights: of the rows [n]; trials under the binomial loss.
            groups: run of each row [n]; resampling keeps a run together.

        Raises:
            ValueError: unusable options or values.
            NotIdentifiedError: fewer distinct cells than free parameters.
        """
        self._check_options()
        self.data_ = self._read(X, y, weights, groups)
        held = set(self.fixed or {})
        self._objective = self.objective(tuple(held))
        self._held = self._objective.to_centred(self._held_internal())
        num_free = int(np.isnan(self._held).sum())
        require_identified(self.law, self.data_.logx, num_free)
        self._solve()
        self._finish(num_free, held)
        return self

    def predict(
        self,
        X: Any,
        interval: str | None = None,
        level: float = 0.95,
        *,
        num_draws: int = BAND_DRAWS,
    ) -> np.ndarray | pd.DataFrame:
        """Predict y.

        Args:
            X: table with the law's axes, m rows.
            interval: None; "confidence" for the curve; "prediction" for one new run.
            level: of the interval.
            num_draws: refits behind the interval; the same ones serve every call.

        Returns:
            Array [m], or a table `mean, lower, upper` whose bands come from refits, so that
            skewed ones stay skewed.
        """
        self._require_fitted()
        if interval is not None:
            check_level(level)
        logx = log_axes(self.law, X)
        mean = np.exp(self._objective_at(logx).log_prediction(self._centred_at(logx)))[0]
        if interval is None:
            return mean
        if interval not in ("confidence", "prediction"):
            raise ValueError(f'interval={interval!r}: choose None, "confidence" or "prediction"')
        low, high = uncertainty.band(
            self, logx, level=level, new_run=interval == "prediction", num_draws=num_draws
        )
        return pd.DataFrame({"mean": mean, "lower": low, "upper": high})

    def bootstrap(
        self, n: int = 1000, seed: int | None = None, method: str = "auto"
    ) -> pd.DataFrame:
        """Refit to n resampled tables; return a table of parameters, one refit a row.

        `method` is "cluster" (runs resampled within their cells), "parametric" (new noise of the
        estimated size, itself uncertain) or "auto" (see `uncertainty.choose_method`).
        """
        self._require_fitted()
        theta = self.draws(n, self.seed if seed is None else seed, method)
        return pd.DataFrame(self.to_natural(theta), columns=list(self.law.param_names))

    def draws(self, n: int, seed: int, method: str = "auto") -> np.ndarray:
        """Return n refits as centred internal parameters [n, p], computed once for each request."""
        key = (n, seed, method)
        if key not in self._draws:
            self._draws[key] = uncertainty.draws(self, n, seed, method)
        return self._draws[key]

    def profile(self, name: str, level: float = 0.95) -> profiles.Profile:
        """Minimise the cost over everything but one parameter, along that parameter."""
        self._require_fitted()
        check_level(level)
        key = (name, level)
        if key not in self._profiles:
            self._profiles[key] = profiles.profile(self, name, level)
        return self._profiles[key]

    def score(self, X: Any, y: Any) -> float:
        """Return R^2 on the link's scale."""
        truth = self._linked(np.asarray(y, dtype=float))
        guess = self._linked(np.asarray(self.predict(X)))
        spread = float(((truth - truth.mean()) ** 2).sum())
        return 1.0 - float(((truth - guess) ** 2).sum()) / spread if spread > 0 else float("nan")

    @property
    def rho(self) -> Rho:
        """The loss as the solver takes it."""
        return Rho(loss=self.loss, delta=float(self.delta))

    @property
    def estimator(self) -> str:
        """Name the estimator, for every number that is printed."""
        if self.loss == "binomial":
            return "binomial likelihood"
        knee = f" (delta {self.delta:g})" if self.loss == "huber" else ""
        return f"{self.loss}{knee} on {self.link} residuals"

    def objective(self, held: tuple[str, ...] = ()) -> Objective:
        """Compile the law on the fitted table with some parameters held."""
        return Objective(self.law, self.data_.logx, link=self.link, held=held)

    def to_natural(self, theta: np.ndarray) -> np.ndarray:
        """Turn centred internal parameters [..., p] into natural units."""
        return natural(self.law, self._objective.from_centred(theta))

    def _check_options(self) -> None:
        if self.loss not in LOSSES or self.link not in LINKS:
            raise ValueError(f"loss={self.loss!r}, link={self.link!r}: choose {LOSSES}, {LINKS}")
        if not isinstance(self.law, Law):
            raise ValueError(f"law={self.law!r}: give a law of analysis.laws, such as Chinchilla()")
        check_positive("delta", self.delta)
        for name, value in (self.fixed or {}).items():
            if name not in self.law.param_names:
                raise ValueError(f"fixed has {name!r}: the law has {self.law.param_names}")
            least, most = (
                (0.0, np.inf) if name in self.law.positive else (-MAX_EXPONENT, MAX_EXPONENT)
            )
            if not (
                isinstance(value, int | float | np.number)
                and np.isfinite(value)
                and least <= value <= most
            ):
                raise ValueError(
                    f"fixed {name}={value!r}: give a finite number from {least:g} to {most:g}"
                )

    def _require_fitted(self) -> None:
        if not hasattr(self, "params_"):
            raise NotFittedError(f"{self!r} is not fitted: call fit(X, y) first")

    def _read(self, X: Any, y: Any, weights: Any, groups: Any) -> Data:
        y = np.asarray(y, dtype=float).reshape(-1)
        logx = log_axes(self.law, X) if self.law.axes else {"": np.zeros(len(y))}
        w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=float).reshape(-1)
        run = np.arange(len(y)) if groups is None else pd.factorize(np.asarray(groups))[0]
        if not len(y) == len(w) == len(run) == len(next(iter(logx.values()))) > 0:
            raise ValueError("X, y, weights and groups must have the same length, at least one row")
        if (run < 0).any():
            raise ValueError(f"groups has {int((run < 0).sum())} missing values: name every run")
        if not (np.isfinite(w).all() and (w >= 0).all() and w.sum() > 0):
            raise ValueError("weights must be finite, none negative, not all zero")
        # Canonical order: results must not depend on how the table happened to be sorted. Rows of
        # weight zero count for nothing, in degrees of freedom neither.
        order = np.lexsort((w, y, *logx.values()))
        order = order[w[order] > 0]
        y = y[order]
        return Data(
            logx={a: v[order] for a, v in logx.items()},
            y=y,
            target=self._linked(y),
            weights=w[order],
            groups=pd.factorize(run[order])[0],
            order=order,
        )

    def _linked(self, y: np.ndarray) -> np.ndarray:
        low = -np.inf if self.link == "identity" else 0.0
        high = 1.0 if self.link == "logit" else np.inf
        good = np.isfinite(y) & (y > low) & (y < high)
        if self.loss == "binomial":
            good = np.isfinite(y) & (y >= 0) & (y <= 1)
        if not good.all():
            raise ValueError(
                f"y has {int((~good).sum())} of {len(y)} values outside the {self.link} link's "
                "domain (or not finite): drop these rows, or choose another link"
            )
        if self.loss == "binomial":
            return y
        if self.link == "identity":
            if y.max(initial=-np.inf) <= 0:
                raise ValueError("no y is positive, and a law's terms are: turn its sign round")
            return y
        return np.log(y) if self.link == "log" else np.log(y) - np.log1p(-y)

    def _held_internal(self) -> np.ndarray:
        fixed = self.fixed or {}
        return internal(self.law, [fixed.get(name, np.nan) for name in self.law.param_names])

    def _solve(self) -> None:
        data = self.data_
        problem = Problem(
            objective=self._objective,
            y=data.y,
            target=data.target,
            weights=data.weights,
            rho=self.rho,
            held=self._held,
        )
        found = find_optimum(problem)
        self._theta, self.converged_ = found.theta, found.converged
        self.n_starts_, self.n_starts_at_optimum_ = found.num_starts, found.num_at_optimum

    def _finish(self, num_free: int, held: set[str]) -> None:
        data = self.data_
        values = self.to_natural(self._theta)
        self.params_ = dict(zip(self.law.param_names, (float(v) for v in values), strict=True))
        self.cost_ = float(
            self._objective.cost(self._theta[None], data.target, data.weights, self.rho)[0]
        )
        self.residuals_, jac = self._objective.linearise(self._theta, data.target)
        self._moving = np.isnan(self._held) & np.isfinite(self._theta)
        self.n_obs_, self.df_ = len(data.y), len(data.y) - num_free
        rss = float((data.weights * self.residuals_**2).sum() / data.weights.mean())
        self.sigma_ = float(np.sqrt(rss / self.df_)) if self.df_ > 0 else float("nan")
        self.condition_number_, _ = uncertainty.conditioning(
            self._uncentred_jacobian(jac), data.weights, self._moving
        )
        self.condition_number_centred_, self.correlation_ = uncertainty.conditioning(
            jac, data.weights, self._moving
        )
        self.notes_ = [
            *design_notes(self.law, data.logx, num_free),
            *fit_notes(
                self.law,
                self.params_,
                held=held,
                starts=(self.n_starts_at_optimum_, self.n_starts_),
                converged=self.converged_,
            ),
            *curvature_notes(self.law, self.condition_number_centred_, self.correlation_),
        ]
        self._draws: dict[tuple[int, int, str], np.ndarray] = {}
        self._profiles: dict[tuple[str, float], profiles.Profile] = {}

    def _uncentred_jacobian(self, jac: np.ndarray) -> np.ndarray:
        """Change the Jacobian [n, p] from amplitudes at the centre to amplitudes at x = 1."""
        moved = jac.copy()
        o = self._objective
        for k, (a, e) in enumerate(zip(o.amplitude, o.exponent, strict=True)):
            if e >= 0:
                moved[:, e] -= jac[:, a] * o.centre[k]
        return moved

    def _objective_at(self, logx: dict[str, np.ndarray]) -> Objective:
        return Objective(self.law, logx, link=self.link)

    def _centred_at(self, logx: dict[str, np.ndarray]) -> np.ndarray:
        uncentred = self._objective.from_centred(self._theta[None])
        return self._objective_at(logx).to_centred(uncentred)

    def band_draws(self, n: int = BAND_DRAWS) -> np.ndarray:
        """Return the refits behind every band, internal and uncentred [n, p]."""
        return self._objective.from_centred(self.draws(n, self.seed))
