"""Figures: functions `(ax, result) -> ax` on the plain data that the analyses return."""

from analysis.figures.diagnostics import backtest, frontier, isoflop, profile
from analysis.figures.laws import (
    axis_fit,
    learning_curves,
    legend,
    math_formula,
    residuals,
    three_axes,
)
from analysis.figures.outcomes import (
    error_against_success,
    failure_rate,
    setting_curve,
    soft_prompts,
)
from analysis.figures.style import column_label, save, short_number, style

__all__ = [
    "axis_fit",
    "backtest",
    "column_label",
    "error_against_success",
    "failure_rate",
    "frontier",
    "isoflop",
    "learning_curves",
    "legend",
    "math_formula",
    "profile",
    "residuals",
    "save",
    "setting_curve",
    "short_number",
    "soft_prompts",
    "style",
    "three_axes",
]
