"""How the laws of a study are fitted, and data in the shape that strict JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.fit import LawRegressor
from analysis.laws import Law
from analysis.solving.objective import Link, Loss


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """How every law of a study is fitted: named with every number that comes out.

    `sensitivity` adds refits by other estimators, without each level and without each run; `hold`
    names columns beside the usual ones that tell settings apart.
    """

    y: str = "val_l1"
    groups: str = "run_id"
    n_column: str = "num_params_total"
    loss: Loss = "huber"
    delta: float = 1e-3
    link: Link = "log"
    level: float = 0.95
    num_draws: int = 1000
    seed: int = 0
    sensitivity: bool = False
    hold: tuple[str, ...] = ()

    def regressor(self, law: Law) -> LawRegressor:
        """Return an unfitted regressor with these options."""
        return LawRegressor(law, loss=self.loss, delta=self.delta, link=self.link, seed=self.seed)


def jsonable(value: Any) -> Any:
    """Turn data into what strict JSON can hold: NaN and infinities (open ends) become null."""
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
