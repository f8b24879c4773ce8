"""Design settings and closed-loop success as data to draw: levels, intervals, rank correlation."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from analysis.document import ABSENT, Document
from analysis.estimator import FitOptions
from analysis.hover import Mark
from analysis.notes import Skipped
from analysis.ranking import ONE_TARGET
from analysis.success.correlation import Correlation, correlation_study
from analysis.success.rates import SUCCESSES, TRIALS, exact_interval
from analysis.table import axis_slice, published

# Settings drawn as curves, and what must be said of comparing errors across their levels.
SETTING_NOTES = {
    "prediction_window_s": "errors of different windows have different targets and cannot be "
    "ranked against each other (paper, Appendix C.4): compare success rates",
    "soft_prompt_length": "the target is the same at every length",
}
PAPER = "paper, not reproduced"


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingPoint(Document):
    """A run at a setting; rates are in percent, errors have no interval of their own."""

    x: float
    y: float
    lower: float | None = field(default=None, metadata=ABSENT)
    upper: float | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingCurve(Document):
    """Error or success (column `y`) against a setting (column `x`), beside the paper's numbers."""

    x: str
    y: str
    points: list[SettingPoint]
    published: list[SettingPoint]
    published_label: str
    marks: list[Mark]
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SuccessPoint(Document):
    """A run's error and its success rate with the exact interval, in shares."""

    error: float
    successes: int
    trials: int
    rate: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSuccess(Document):
    """An error and a success rate of the paper."""

    error: float
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SuccessCurve(Document):
    """Closed-loop success against the error, and whether their ranks go together."""

    points: list[SuccessPoint]
    correlation: Correlation
    published: list[PublishedSuccess]
    published_label: str
    marks: list[Mark]
    caption: str


def setting_data(clean: pd.DataFrame, how: FitOptions) -> dict[str, SettingCurve]:
    """Return the curves of settings that vary with all else equal, by column.

    Success rates are taken where the table has `successes` and `rollouts`, errors elsewhere.
    """
    found = {}
    for column, note in SETTING_NOTES.items():
        if column not in clean.columns or clean[column].nunique() < 2:
            continue
        rows = axis_slice(clean, column, n_column=how.n_column, hold=how.hold).rows.sort_values(
            column
        )
        if rows[column].nunique() < 2:
            continue
        y = "success_rate" if _has_success(rows) else how.y
        points = _rate_points(rows, column, how) if y == "success_rate" else [
            SettingPoint(x=x, y=v) for x, v in zip(rows[column], rows[how.y], strict=True)
        ]  # fmt: skip
        told = f"{y} has one target at every level" if y in ONE_TARGET else note
        found[column] = SettingCurve(
            x=column,
            y=y,
            points=points,
            published=_published_windows() if (column, y) == _WINDOWS else [],
            published_label=PAPER,
            marks=_marks(rows, how, [f"{column} {p.x:g}\n{y} {p.y:.4g}" for p in points]),
            caption=f"{column.replace('_', ' ')}, {len(rows)} runs, all else equal; {told}",
        )
    return found


_WINDOWS = ("prediction_window_s", "success_rate")


def _published_windows() -> list[SettingPoint]:
    table = published("table_7")
    return [
        SettingPoint(x=float(x), y=float(v))
        for x, v in zip(
            table["prediction_window_s"], table["simpler_widowx_success_percent"], strict=True
        )
    ]


def _has_success(rows: pd.DataFrame) -> bool:
    both = SUCCESSES in rows.columns and TRIALS in rows.columns
    return both and bool(rows[[SUCCESSES, TRIALS]].notna().all(axis=None))


def _rate_points(rows: pd.DataFrame, column: str, how: FitOptions) -> list[SettingPoint]:
    rate, low, high = _rates(rows, how.level)
    return [
        SettingPoint(x=float(x), y=100 * r, lower=100 * lo, upper=100 * hi)
        for x, r, lo, hi in zip(rows[column], rate, low, high, strict=True)
    ]


def _marks(rows: pd.DataFrame, how: FitOptions, texts: list[str]) -> list[Mark]:
    known = how.groups in rows.columns
    ids = [str(v) for v in rows[how.groups]] if known else [""] * len(rows)
    pairs = zip(ids, texts, strict=True)
    return [Mark(run=run, text=f"run {run}\n{text}") for run, text in pairs]


def success_data(clean: pd.DataFrame, how: FitOptions) -> SuccessCurve | Skipped | None:
    """Return error, success rate with interval and rank correlation, or why there is none.

    None where the table has no successes.
    """
    if SUCCESSES not in clean.columns or TRIALS not in clean.columns:
        return None
    rows = clean.dropna(subset=[SUCCESSES, TRIALS])
    if rows.empty:
        return None
    try:
        found = correlation_study(
            rows, x=how.y, successes=SUCCESSES, trials=TRIALS, groups=how.groups,
            alternative="less", level=how.level, seed=how.seed,
        )  # fmt: skip
    except ValueError as problem:
        return Skipped(refused=str(problem))
    rate, low, high = _rates(rows, how.level)
    points = [
        SuccessPoint(error=float(e), successes=int(s), trials=int(t), rate=r, lower=lo, upper=hi)
        for e, s, t, r, lo, hi in zip(
            rows[how.y], rows[SUCCESSES], rows[TRIALS], rate, low, high, strict=True
        )
    ]
    table = published("table_1").dropna(
        subset=["validation_error", "simpler_widowx_success_percent"]
    )
    texts = [f"{how.y} {p.error:.4g}\n{p.successes} of {p.trials} episodes" for p in points]
    return SuccessCurve(
        points=points,
        correlation=found,
        published=[
            PublishedSuccess(error=float(e), rate=s / 100)
            for e, s in zip(
                table["validation_error"], table["simpler_widowx_success_percent"], strict=True
            )
        ],
        published_label=f"{PAPER} (Table 1)",
        marks=_marks(rows, how, texts),
        caption=f"closed-loop success against {how.y}, {len(rows)} runs; bars are "
        f"{how.level:.0%} intervals of each rate",
    )


def _rates(rows: pd.DataFrame, level: float) -> tuple[list[float], list[float], list[float]]:
    """Return success rates with Clopper and Pearson's intervals, all in shares."""
    low, high = exact_interval(rows[SUCCESSES].to_numpy(), rows[TRIALS].to_numpy(), level)
    rate = rows[SUCCESSES].to_numpy(dtype=float) / rows[TRIALS].to_numpy(dtype=float)
    return rate.tolist(), low.tolist(), high.tolist()
