"""How the laws of a study are fitted."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.fit import LawRegressor
from analysis.law import Law
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
