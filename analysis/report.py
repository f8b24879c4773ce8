"""Write the report of a study: one HTML page, figures as PNG and SVG, a record to refit from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from analysis.document import FLAT, Document, Scalar, jsonable
from analysis.estimator import FitOptions
from analysis.figures.gallery import Drawn, draw_all
from analysis.findings import Findings, find_all, reference_errors
from analysis.pages import page, sections
from analysis.pages.terminal import render_fit
from analysis.pages.verdict import (
    details,
    headline,
    joint_lines,
    n_text,
    noise_text,
    ranking_text,
    success_text,
    summary_rows,
)
from analysis.ranking import setting_of
from analysis.study import StudyFit, fit_study, suited
from analysis.table import clean_runs, plain_scalar

__all__ = ["FitOptions", "Report", "build_report", "fit_study", "render_fit"]

# Of the run table (`scaling export`), what the page shows; runs.parquet has the rest.
SHOWN = (
    "run_id", "stage", "state", "seed", "size", "num_params_total", "num_params_policy",
    "num_samples_seen", "num_unique_episodes", "num_domains", "soft_prompt_length",
    "prediction_window_s", "compute_flops", "gpu_hours", "val_l1", "val_l1_sem", "val_l1_all",
    "blind", "val_l1_position_m", "val_l1_rotation_deg", "test_l1", "successes", "rollouts",
)  # fmt: skip
BLOCKS = {
    "blind": "What the images are worth: blind against sighted runs",
    "finetune": "Reuse: a robot never seen, before and after finetuning",
    "best": "Best checkpoint",
    "next_runs": "Which runs to buy next",
}
# Keys of `extra` that are no blocks of their own: they have their places on the page.
PLACED = ("simulated", "search", "ledger")
SENSITIVITY_RUNS = 200  # with more runs the refits would take seconds: `fit --sensitivity` has them
SIMULATED = (
    "These runs learned from simulated data; nothing here is a claim about real robots or about "
    "the paper's numbers."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths(Document):
    """Where a report lies; figures as PNG and SVG."""

    report: str
    record: str
    figures: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report(Document):
    """A written report: all that was found, and where it lies."""

    findings: Findings = field(metadata=FLAT)
    paths: Paths


def build_report(
    runs: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    *,
    study: str,
    out_dir: str | Path,
    axes: Sequence[str] | Literal["auto"] = "auto",
    baselines: Mapping[str, float] | None = None,
    extra: Mapping[str, Any] | None = None,
    options: FitOptions | None = None,
    **changes: Any,
) -> Report:
    """Fit, draw and write `report.html`, `figures/*.{png,svg}` and `record.json`.

    Args:
        runs: runs.parquet; columns `successes` and `rollouts` add closed-loop success.
        curves: curves.parquet; adds the validation curves where given.
        study: its name.
        out_dir: gets the files (`reports/<study>`).
        axes: axes to fit, or "auto".
        baselines: errors of trivial predictors by name ("mean_chunk", "hold", "blind"); by
            default what the table's `baseline_*` columns and blind runs say.
        extra: `simulated` (bool), `soft_prompts` (a `PromptMap`, drawn), `search` and `ledger`
            (`analysis.pages.documents`), and blocks shown under their titles: `blind`,
            `finetune`, `best`, `next_runs` (text, a mapping, or a list of mappings); any other
            key is a block under its own name.
        options: see `FitOptions` (y, n_column, loss, delta, level, seed, ...); single fields may
            be given as keywords instead.

    """
    how = _with_sensitivity(options or FitOptions(**changes), len(runs))
    fit = fit_study(runs, study=study, axes=axes, options=how)
    clean, _ = clean_runs(runs, how.y, how.groups)
    found = find_all(
        clean,
        fit,
        suited(how, clean, list(fit.axes)),
        references=reference_errors(runs, fit) if baselines is None else baselines,
        soft_prompts=(extra or {}).get("soft_prompts"),
    )
    blocks = {name: block for name, block in (extra or {}).items() if name != "soft_prompts"}
    out = Path(out_dir)
    figures = draw_all(found, out / "figures", curves=curves)
    paths = Paths(
        report=str(out / "report.html"),
        record=str(out / "record.json"),
        figures=[path for drawn in figures for path in drawn.paths.values()],
    )
    text = _page(found, (runs, clean), figures, blocks)
    out.mkdir(parents=True, exist_ok=True)  # a study without figures has not made it yet
    (out / "report.html").write_text(text, encoding="utf-8")
    report = Report(findings=found, paths=paths)
    record = jsonable(report.to_dict() | {"extra": blocks})
    Path(paths.record).write_text(json.dumps(record, indent=1, default=str) + "\n", "utf-8")
    return report


def _with_sensitivity(how: FitOptions, num_runs: int) -> FitOptions:
    """Ask for refits without each level and run where they are cheap."""
    return replace(how, sensitivity=how.sensitivity or num_runs <= SENSITIVITY_RUNS)


def run_rows(runs: pd.DataFrame, fit: StudyFit) -> list[dict[str, Scalar]]:
    """Return the run table: each run with the seeds of its setting and its distance from the best.

    `delta_over_sigma` compares the run's setting with the best one, as in the ranking.
    """
    columns = [c for c in _shown(runs, fit) if c in runs.columns and runs[c].notna().any()]
    table = runs.astype(object).where(runs.notna(), None)
    rows = []
    for whole in table.to_dict("records"):
        usable = whole.get("state", "done") == "done" and not whole.get("blind")
        setting = setting_of(whole, fit.ranking) if usable else None
        rows.append(
            {c: plain_scalar(whole[c]) for c in columns}
            | {
                "delta_over_sigma": setting and setting.delta_over_sigma,
                "num_seeds": setting and setting.num_seeds,
            }
        )
    return rows


def _shown(runs: pd.DataFrame, fit: StudyFit) -> list[str]:
    """List the columns of the run table that are shown: of a table that is not ours, all."""
    if "run_id" not in runs.columns:
        return list(runs.columns)
    fitted = [axis.data.column for axis in fit.axes.values() if axis.data]
    labels = [c for c in runs.columns if str(c).startswith("axis_")]
    return list(dict.fromkeys([*SHOWN, *fitted, fit.y, *labels]))


def _without_constants(
    rows: list[dict[str, Scalar]],
) -> tuple[list[dict[str, Scalar]], str]:
    """Return rows without the columns that never vary, and those columns in words."""
    if len(rows) < 2:
        return rows, ""
    first = rows[0]
    same = [k for k in first if k != "run_id" and all(row[k] == first[k] for row in rows)]
    words = ", ".join(f"{k} {first[k]}" for k in same if first[k] is not None)
    return [{k: v for k, v in row.items() if k not in same} for row in rows], words


def _page(
    found: Findings,
    tables: tuple[pd.DataFrame, pd.DataFrame],
    figures: Sequence[Drawn],
    extra: Mapping[str, Any],
) -> str:
    (runs, clean), fit = tables, found.fit
    simulated = bool(extra.get("simulated", False))
    data = (
        "" if "simulated" not in extra else ", simulated data" if simulated else ", recorded data"
    )
    subtitle = (
        f"{fit.num_runs} runs fitted of {len(runs)} in the study{data}; "
        f"estimator: {fit.estimator}{n_text(fit)}"
    )
    parts = [page.section("Verdict", *_verdict(found, simulated))]
    parts += sections.search(extra.get("search"))
    parts += [*_figures(figures), *sections.failures(found.failures), *sections.sensitivity(fit)]
    for name, value in extra.items():
        if name not in PLACED and value:
            parts.append(page.section(BLOCKS.get(name, name.replace("_", " ")), page.block(value)))
    ranking = page.table([setting.to_row() for setting in fit.ranking], sortable=True)
    parts.append(page.section("Settings compared", page.hint(ranking_text(fit)), ranking))
    rows, same = _without_constants(run_rows(runs, fit))
    told = "Click a heading to sort, a point in a figure to bring its run to the top."
    common = f" The same for all: {same}." if same else ""
    parts.append(page.section("Runs", page.hint(told + common), page.table(rows, sortable=True)))
    parts += sections.published(fit, found.references, clean)
    told = "<p>Everything needed to refit: record.json beside this page holds the same data.</p>"
    parts.append(page.section("Record", told, page.json_block("record", jsonable(found))))
    parts += sections.ledger(extra.get("ledger"))
    return page.page(f"Scaling study {fit.study}", subtitle, parts)


def _figures(figures: Sequence[Drawn]) -> list[str]:
    """Return one section for each group of figures, in the order of drawing."""
    groups: dict[str, list[str]] = {}
    for drawn in figures:
        svg = Path(drawn.paths["svg"]).read_text(encoding="utf-8")
        groups.setdefault(drawn.section, []).append(
            page.figure(svg, drawn.caption, narrow=not drawn.wide, hover=drawn.hover)
        )
    sections = []
    for title, shown in groups.items():
        inner = shown[0] if len(shown) == 1 else f'<div class="grid">{"".join(shown)}</div>'
        sections.append(page.section(title, inner))
    return sections


def _verdict(found: Findings, simulated: bool) -> list[str]:
    fit = found.fit
    parts = [f'<p class="banner">{page.escape(SIMULATED)}</p>'] if simulated else []
    if fit.axes:
        told = (
            f"Intervals are {fit.level:.0%}: exponent and floor by profile likelihood, the gain by "
            f"bootstrap; {fit.estimator}."
        )
        parts += [page.table(summary_rows(fit)), page.hint(told)]
    for axis in fit.axes.values():
        kind = axis.trend.verdict.split()[0] if axis.trend else "refused"
        parts.append(page.card(kind, headline(axis), details(axis, fit)))
    if not fit.axes:
        parts.append(page.card("refused", "No axis varies with all else equal: no law.", []))
    general = [*joint_lines(fit), noise_text(fit), success_text(found.success)]
    general += [_trivial_text(found), *(note.message for note in fit.notes)]
    parts.append(page.card("", "The study as a whole", [text for text in general if text]))
    return parts


def _trivial_text(found: Findings) -> str:
    """Say whether every run beats the trivial predictors."""
    best, losers = found.best_trivial, found.not_beating
    if best is None:
        return "No trivial predictor is on record for this metric."
    if not losers:
        return f"Every fitted run beats both trivial predictors (the better one: {best:.3g})."
    return (
        f"{len(losers)} of {found.fit.num_runs} runs do NOT beat the better trivial predictor "
        f"({best:.3g}): {', '.join(losers[:12])}{' ...' if len(losers) > 12 else ''}."
    )
