"""A fitted law: parameters with both intervals, and all that belongs to every number of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from analysis.document import ABSENT, Document
from analysis.estimator import FitOptions
from analysis.fit import LawRegressor
from analysis.notes import Note
from analysis.profiles import Profile
from analysis.sensitivity import Sensitivity, sensitivity
from analysis.uncertainty import ends

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Param(Document):
    """A parameter; its intervals are None where none was made."""

    value: float
    bootstrap: Interval | None = None
    profile: Interval | None = None

    @property
    def is_bounded(self) -> bool:
        """Whether the profile closes at one end at least."""
        return self.profile is not None and bool(np.isfinite(self.profile).any())


@dataclass(frozen=True, slots=True, kw_only=True)
class LawFit(Document):
    """A law fitted to a table; `sigma` is the residual standard deviation on the link's scale.

    `profiles` holds the cost along each parameter that a profile says something about.
    """

    form: str
    formula: str
    estimator: str
    params: dict[str, Param]
    cost: float
    sigma: float
    df: int
    converged: bool
    n_starts: int
    n_starts_at_optimum: int
    condition_number: float
    notes: tuple[Note, ...]
    profiles: dict[str, Profile]
    sensitivity: Sensitivity | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class LawCurve(Document):
    """A fitted curve with the band of the law, from the first level to twice the last, `x_last`."""

    x: list[float]
    x_last: float
    mean: list[float]
    lower: list[float]
    upper: list[float]

    def at(self, x: Any) -> np.ndarray:
        """Return the fit at x [n] inside the curve: straight between its points in logarithms."""
        return np.exp(np.interp(np.log(x), np.log(self.x), np.log(self.mean)))


def describe_fit(reg: LawRegressor, how: FitOptions, runs: np.ndarray) -> LawFit:
    """Return a fitted regressor with its intervals; `runs`: whose each fitted row is [n]."""
    profiles: dict[str, Profile] = {}
    return LawFit(
        form=reg.law.describe(),
        formula=reg.law.describe(reg.params_),
        estimator=reg.estimator,
        params=_params(reg, how, profiles),
        cost=reg.cost_,
        sigma=reg.sigma_,
        df=reg.df_,
        converged=reg.converged_,
        n_starts=reg.n_starts_,
        n_starts_at_optimum=reg.n_starts_at_optimum_,
        condition_number=reg.condition_number_,
        notes=tuple(reg.notes_),
        profiles=profiles,
        sensitivity=_named_sensitivity(reg, how, runs) if how.sensitivity else None,
    )


def _named_sensitivity(reg: LawRegressor, how: FitOptions, runs: np.ndarray) -> Sensitivity:
    """Return `sensitivity` with influential rows under the names of their runs."""
    found = sensitivity(reg, num_draws=how.num_draws)
    names = runs.tolist()
    return replace(found, runs=tuple(replace(r, run=names[r.rows[0]]) for r in found.runs))


def _params(reg: LawRegressor, how: FitOptions, profiles: dict[str, Profile]) -> dict[str, Param]:
    """Return value and intervals of each parameter; put the profiles drawn into `profiles`."""
    draws = reg.bootstrap(how.num_draws, how.seed) if reg.df_ > 0 else None
    params = {}
    for name, value in reg.params_.items():
        if draws is None or name in (reg.fixed or {}):
            params[name] = Param(value=value)
            continue
        low, high = ends(draws[name].to_numpy(), how.level).tolist()
        # An amplitude belongs to x = 1, far from the data: its profile says little.
        if name == "E" or name not in reg.law.positive:
            profiles[name] = reg.profile(name, how.level)
        profile = profiles[name].interval if name in profiles else None
        params[name] = Param(value=value, bootstrap=(low, high), profile=profile)
    return params
