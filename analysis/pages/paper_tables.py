"""The paper's tables printed beside ours, always marked as published and not reproduced."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources

import pandas as pd

from analysis.document import Scalar
from analysis.study import StudyFit
from analysis.table import published

PUBLISHED = "published, not reproduced"
TITLES = {
    1: "Ablation path: validation error and success rate",
    2: "Simulation benchmarks, all methods",
    3: "Parameter-efficient finetuning",
    4: "Backbones by validation error",
    6: "Finetuning on few demonstrations",
    7: "Prediction window",
    8: "Finetuning methods by trainable parameters",
    9: "Hyperparameters of pretraining",
    10: "Sampling weights of the data sources",
    13: "NAVSIM",
    14: "Simpler",
    15: "Libero",
    16: "Calvin",
    17: "VLABench",
    18: "RoboTwin-2.0",
}


def numbers() -> list[int]:
    """List the paper's tables that are here."""
    folder = resources.files("analysis.published")
    names = [path.name for path in folder.iterdir() if path.name.endswith(".csv")]
    return sorted(int(name.removeprefix("table_").removesuffix(".csv")) for name in names)


def rows_of(number: int) -> list[dict[str, Scalar]]:
    """Return one of the paper's tables as rows, its source left to the title."""
    table = published(f"table_{number}").drop(columns="source").dropna(axis=1, how="all")
    table = table.astype(object).where(table.notna(), None)
    return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]


def error_rows(study: StudyFit, references: Mapping[str, float]) -> list[dict[str, Scalar]]:
    """Set our errors beside the validation errors that the paper prints (Tables 1 and 4).

    Ours: the best and the worst setting, and the trivial predictors.
    """
    y = study.y
    rows: list[dict[str, Scalar]] = []
    if study.ranking:
        by_error = sorted(study.ranking, key=lambda setting: setting.error)
        for words, setting in (("best", by_error[0]), ("worst", by_error[-1])):
            seeds = f"{setting.num_seeds} seeds"
            if "prediction_window_s" in setting.values:
                seeds += f", window {setting.values['prediction_window_s']:g} s"
            rows.append({"what": f"this study, {words} setting ({seeds})", y: setting.error})
    for name, value in references.items():
        rows.append({"what": f"this study, {name.replace('_', ' ')}", y: value})
    steps = published("table_1").dropna(subset=["validation_error"])
    for row in steps.to_dict("records"):
        rows.append({"what": f"Table 1: {row['improvement']}", PUBLISHED: row["validation_error"]})
    for row in published("table_4").to_dict("records"):
        what = f"Table 4: {row['backbone']} backbone"
        rows.append({"what": what, PUBLISHED: row["validation_error"]})
    return [{"what": r["what"], y: r.get(y), PUBLISHED: r.get(PUBLISHED)} for r in rows]


def setting_rows(
    clean: pd.DataFrame, column: str = "prediction_window_s"
) -> list[dict[str, Scalar]]:
    """Set our success rates by prediction window beside the paper's (Table 7), in percent."""
    paper = published("table_7").set_index("prediction_window_s")["simpler_widowx_success_percent"]
    ours = pd.Series(dtype=float)
    if {"successes", "rollouts", column} <= set(clean.columns):
        sums = clean.groupby(column)[["successes", "rollouts"]].sum()
        ours = 100 * sums["successes"] / sums["rollouts"]
    levels = sorted({*map(float, paper.index), *map(float, ours.index)})
    return [
        {column: level, "success here (%)": ours.get(level), f"{PUBLISHED} (%)": paper.get(level)}
        for level in levels
    ]
