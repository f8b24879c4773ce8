"""Design settings and closed-loop success as data to draw: levels, intervals, rank correlation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri

from analysis.options import FitOptions
from analysis.table import axis_slice, published

SUCCESSES, TRIALS = "successes", "trials"
# Settings drawn as curves, and what must be said of comparing errors across their levels.
SETTING_NOTES = {
    "prediction_window_s": "errors of different windows have different targets and cannot be "
    "ranked against each other (paper, Appendix C.4): compare success rates",
    "soft_prompt_length": "the target is the same at every length",
}
PAPER = "paper, not reproduced"


def setting_data(clean: pd.DataFrame, how: FitOptions) -> dict[str, dict[str, Any]]:
    """Return the curves of settings that vary with all else equal, by column.

    Success rates are taken where the table has `successes` and `trials`, errors elsewhere.
    """
    found = {}
    for column, note in SETTING_NOTES.items():
        if column not in clean.columns or clean[column].nunique() < 2:
            continue
        rows = axis_slice(clean, column, n_column=how.n_column).rows.sort_values(column)
        if rows[column].nunique() < 2:
            continue
        y = "success_rate" if _has_success(rows) else how.y
        points = _rate_points(rows, column, how) if y == "success_rate" else [
            {"x": x, "y": v} for x, v in zip(rows[column], rows[how.y], strict=True)
        ]  # fmt: skip
        found[column] = {
            "x": column,
            "y": y,
            "points": points,
            "published": _published_windows() if (column, y) == _WINDOWS else [],
            "published_label": PAPER,
            "marks": _marks(rows, how, [f"{column} {p['x']:g}\n{y} {p['y']:.4g}" for p in points]),
            "caption": f"{column.replace('_', ' ')}, {len(rows)} runs, all else equal; {note}",
        }
    return found


_WINDOWS = ("prediction_window_s", "success_rate")


def _published_windows() -> list[dict[str, float]]:
    table = published("table_7")
    return [
        {"x": float(x), "y": float(v)}
        for x, v in zip(
            table["prediction_window_s"], table["simpler_widowx_success_percent"], strict=True
        )
    ]


def _has_success(rows: pd.DataFrame) -> bool:
    both = SUCCESSES in rows.columns and TRIALS in rows.columns
    return both and bool(rows[[SUCCESSES, TRIALS]].notna().all(axis=None))


def _rate_points(rows: pd.DataFrame, column: str, how: FitOptions) -> list[dict[str, float]]:
    rate, low, high = wilson(rows[SUCCESSES], rows[TRIALS], level=how.level)
    return [
        {"x": float(x), "y": 100 * r, "lower": 100 * lo, "upper": 100 * hi}
        for x, r, lo, hi in zip(rows[column], rate, low, high, strict=True)
    ]


def _marks(rows: pd.DataFrame, how: FitOptions, texts: list[str]) -> list[dict[str, str]]:
    known = how.groups in rows.columns
    ids = [str(v) for v in rows[how.groups]] if known else [""] * len(rows)
    pairs = zip(ids, texts, strict=True)
    return [{"run": run, "text": f"run {run}\n{text}"} for run, text in pairs]


def success_data(clean: pd.DataFrame, how: FitOptions) -> dict[str, Any] | None:
    """Return error, success rate with interval and rank correlation; None under four runs."""
    if SUCCESSES not in clean.columns or TRIALS not in clean.columns:
        return None
    rows = clean.dropna(subset=[SUCCESSES, TRIALS])
    if len(rows) < 4:
        return None
    rate, low, high = wilson(rows[SUCCESSES], rows[TRIALS], level=how.level)
    points = [
        {"error": float(e), "successes": int(s), "trials": int(t), "rate": r, "lower": lo,
         "upper": hi}
        for e, s, t, r, lo, hi in zip(
            rows[how.y], rows[SUCCESSES], rows[TRIALS], rate, low, high, strict=True
        )
    ]  # fmt: skip
    table = published("table_1").dropna(
        subset=["validation_error", "simpler_widowx_success_percent"]
    )
    texts = [
        f"{how.y} {p['error']:.4g}\n{p['successes']} of {p['trials']} episodes" for p in points
    ]
    return {
        "points": points,
        "correlation": rank_correlation(rows[how.y], rate, level=how.level),
        "published": [
            {"error": float(e), "rate": s / 100}
            for e, s in zip(
                table["validation_error"], table["simpler_widowx_success_percent"], strict=True
            )
        ],
        "published_label": f"{PAPER} (Table 1)",
        "marks": _marks(rows, how, texts),
        "caption": f"closed-loop success against {how.y}, {len(rows)} runs; bars are "
        f"{how.level:.0%} intervals of each rate",
    }


def wilson(
    successes: Any, trials: Any, *, level: float = 0.95
) -> tuple[list[float], list[float], list[float]]:
    """Return rates and Wilson's score intervals of k successes in n trials.

    Raises:
        ValueError: no trials, or more successes than trials.
    """
    k, n = np.asarray(successes, dtype=float), np.asarray(trials, dtype=float)
    if (n <= 0).any() or (k < 0).any() or (k > n).any():
        raise ValueError("successes must lie between 0 and trials, and trials above 0")
    z = float(ndtri(0.5 + level / 2))
    rate = k / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return rate.tolist(), np.maximum(centre - half, 0).tolist(), (centre + half).tolist()


def rank_correlation(a: Any, b: Any, *, level: float = 0.95) -> Mapping[str, Any]:
    """Return Spearman's rho with the interval of Bonett and Wright (2000); open below 4 runs."""
    ranks = [pd.Series(np.asarray(v, dtype=float)).rank() for v in (a, b)]
    rho = float(ranks[0].corr(ranks[1]))
    n = len(ranks[0])
    interval: list[float | None] = [None, None]
    if n > 3 and np.isfinite(rho):
        half = float(ndtri(0.5 + level / 2)) * np.sqrt((1 + rho * rho / 2) / (n - 3))
        z = np.arctanh(np.clip(rho, -1 + 1e-12, 1 - 1e-12))
        interval = [float(np.tanh(z - half)), float(np.tanh(z + half))]
    return {"rho": rho, "interval": interval, "level": level, "num_runs": n}
