"""What a study says beyond its laws: trivial predictors, settings, closed loop, soft prompts."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import scipy

from analysis.document import FLAT, Document
from analysis.estimator import FitOptions
from analysis.notes import Skipped
from analysis.prompts import PromptMap
from analysis.study import StudyFit
from analysis.success.failures import FailureStudy, failure_study
from analysis.success.points import SettingCurve, SuccessCurve, setting_data, success_data


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings(Document):
    """A fitted study and all that a report shows beside its laws.

    `references` are errors of trivial predictors and of blind runs, by name; `not_beating` names
    the runs that do not beat every trivial predictor.
    """

    fit: StudyFit = field(metadata=FLAT)
    references: dict[str, float]
    not_beating: list[str]
    settings: dict[str, SettingCurve]
    success: SuccessCurve | Skipped | None
    failures: FailureStudy | None
    software: dict[str, str]
    soft_prompts: PromptMap | None

    @property
    def best_trivial(self) -> float | None:
        """The least error of a trivial predictor; None without one."""
        return best_trivial(self.references)


def find_all(
    clean: pd.DataFrame,
    fit: StudyFit,
    how: FitOptions,
    *,
    references: Mapping[str, float],
    soft_prompts: PromptMap | None = None,
) -> Findings:
    """Return what the clean runs of a fitted study say beyond its laws."""
    return Findings(
        fit=fit,
        references={name: float(value) for name, value in references.items()},
        not_beating=_not_beating(clean, best_trivial(references), how.y),
        settings=setting_data(clean, how),
        success=success_data(clean, how),
        failures=failure_study(clean, list(fit.axes), how),
        software={
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "pandas": pd.__version__,
        },
        soft_prompts=soft_prompts,
    )


def reference_errors(runs: pd.DataFrame, fit: StudyFit) -> dict[str, float]:
    """Return horizontal lines: trivial predictors, and the blind runs where there are some."""
    found = dict(fit.baselines) if fit.y == "val_l1" else {}
    if "blind" in runs.columns:
        blind = runs[runs["blind"].astype("boolean").fillna(False).astype(bool)]
        values = pd.to_numeric(blind.get(fit.y, pd.Series(dtype=float)), errors="coerce")
        if values.notna().any():
            found["blind"] = float(values.median())
    return found


def best_trivial(references: Mapping[str, float]) -> float | None:
    """Return the least error of a trivial predictor; a blind run is none, it has learned."""
    return min((v for k, v in references.items() if k != "blind"), default=None)


def _not_beating(clean: pd.DataFrame, best: float | None, y: str) -> list[str]:
    """List the runs whose error is not below the best trivial predictor."""
    if best is None:
        return []
    losers = clean[clean[y] >= best]
    return [str(name) for name in losers["run_id"]] if "run_id" in losers else ["?"] * len(losers)
