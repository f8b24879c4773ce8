"""Write the report of a study: one HTML page, figures as PNG and SVG, a record to refit from."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy

from analysis.options import FitOptions, jsonable
from analysis.pages import page, sections
from analysis.pages.gallery import Drawn, draw_all
from analysis.pages.verdict import (
    details,
    headline,
    joint_lines,
    n_text,
    noise_text,
    not_beating,
    ranking_text,
    render_fit,
    success_text,
    summary_rows,
)
from analysis.ranking import settings_of
from analysis.study import fit_study, suited
from analysis.success.failures import failure_study
from analysis.success.points import setting_data, success_data
from analysis.table import clean_runs

__all__ = ["FitOptions", "build_report", "fit_study", "render_fit"]

# Of the run table (`scaling export`), what the page shows; runs.parquet has the rest.
SHOWN = (
    "run_id",
    "stage",
    "state",
    "seed",
    "size",
    "num_params_total",
    "num_params_policy",
    "num_samples_seen",
    "num_unique_episodes",
    "num_domains",
    "soft_prompt_length",
    "prediction_window_s",
    "compute_flops",
    "gpu_hours",
    "val_l1",
    "val_l1_sem",
    "val_l1_all",
    "blind",
    "val_l1_position_m",
    "val_l1_rotation_deg",
    "test_l1",
    "successes",
    "rollouts",
)
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
) -> dict[str, Any]:
    """Fit, draw and write `report.html`, `figures/*.{png,svg}` and `record.json`.

    Args:
        runs: runs.parquet; columns `successes` and `rollouts` add closed-loop success.
        curves: curves.parquet; adds the validation curves where given.
        study: its name.
        out_dir: gets the files (`reports/<study>`).
        axes: axes to fit, or "auto".
        baselines: errors of trivial predictors by name ("mean_chunk", "hold", "blind"); by
            default what the table's `baseline_*` columns and blind runs say.
        extra: `simulated` (bool), `soft_prompts` (`PromptMap.to_dict()`, drawn), `search` (the
            result of a search, with its figures), `ledger` (hours by account: ends the page), and
            blocks shown under their titles: `blind`, `finetune`, `best`, `next_runs` (text, a
            mapping, or a list of mappings); any other key is a block under its own name.
        options: see `FitOptions` (y, n_column, loss, delta, level, seed, ...); single fields may
            be given as keywords instead.

    Returns:
        The document of `fit_study` with `paths` (`report`, `record`, `figures`), `references`
        and `not_beating` (runs that do not beat every trivial predictor).
    """
    how = _with_sensitivity(options or FitOptions(**changes), len(runs))
    document = fit_study(runs, study=study, axes=axes, options=how)
    clean, _ = clean_runs(runs, how.y, how.groups)
    how = suited(how, clean, list(document["axes"]))
    references = dict(baselines) if baselines is not None else _references(runs, document)
    document |= _beside_the_laws(clean, list(document["axes"]), references, how)
    out, facts = Path(out_dir), dict(extra or {})
    document["soft_prompts"] = facts.pop("soft_prompts", None)
    figures = draw_all(document, out / "figures", curves=curves)
    document["paths"] = {
        "report": str(out / "report.html"),
        "record": str(out / "record.json"),
        "figures": [path for drawn in figures for path in drawn.paths.values()],
    }
    text = _page(document, (runs, clean), figures, facts)
    out.mkdir(parents=True, exist_ok=True)  # a study without figures has not made it yet
    (out / "report.html").write_text(text, encoding="utf-8")
    _write_record(document | {"extra": facts}, out / "record.json")
    return document


def _with_sensitivity(how: FitOptions, num_runs: int) -> FitOptions:
    """Ask for refits without each level and run where they are cheap."""
    return replace(how, sensitivity=how.sensitivity or num_runs <= SENSITIVITY_RUNS)


def _write_record(document: Mapping[str, Any], path: Path) -> None:
    text = json.dumps(jsonable(document), indent=1, default=str)
    path.write_text(text + "\n", encoding="utf-8")


def _beside_the_laws(
    clean: pd.DataFrame,
    axes: Sequence[str],
    references: Mapping[str, float],
    how: FitOptions,
) -> dict[str, Any]:
    """Return what a report tells of the runs beyond their laws."""
    best = _best_trivial(references)
    return {
        "references": {k: float(v) for k, v in references.items()},
        "not_beating": not_beating(clean.to_dict("records"), best, how.y),
        "settings": jsonable(setting_data(clean, how)),
        "success": jsonable(success_data(clean, how)),
        "failures": failure_study(clean, axes, how),
        "software": _software(),
    }


def _software() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "pandas": pd.__version__,
    }


def _references(runs: pd.DataFrame, document: Mapping[str, Any]) -> dict[str, float]:
    """Return horizontal lines: trivial predictors, and the blind runs where there are some."""
    found = dict(document["baselines"]) if document["y"] == "val_l1" else {}
    if "blind" in runs.columns:
        blind = runs[runs["blind"].astype("boolean").fillna(False).astype(bool)]
        values = pd.to_numeric(blind.get(document["y"], pd.Series(dtype=float)), errors="coerce")
        if values.notna().any():
            found["blind"] = float(values.median())
    return found


def _best_trivial(references: Mapping[str, float]) -> float | None:
    trivial = [v for k, v in references.items() if k != "blind"]
    return min(trivial) if trivial else None


def run_rows(runs: pd.DataFrame, document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the run table: each run with the seeds of its setting and its distance from the best.

    `delta_over_sigma` compares the run's setting with the best one, as in the ranking.
    """
    columns = [c for c in _shown(runs, document) if c in runs.columns and runs[c].notna().any()]
    table = runs.astype(object).where(runs.notna(), None)
    rows = []
    for whole in table.to_dict("records"):
        row = {c: _plain(whole[c]) for c in columns}
        usable = whole.get("state", "done") == "done" and not whole.get("blind")
        cell = settings_of(whole, document["ranking"], document["y"]) if usable else None
        rows.append(
            row
            | {
                "delta_over_sigma": cell and cell["delta_over_sigma"],
                "num_seeds": cell and cell["num_seeds"],
            }
        )
    return rows


def _shown(runs: pd.DataFrame, document: Mapping[str, Any]) -> list[str]:
    """List the columns of the run table that are shown: of a table that is not ours, all."""
    if "run_id" not in runs.columns:
        return list(runs.columns)
    fitted = [axis["column"] for axis in document["axes"].values() if "column" in axis]
    labels = [c for c in runs.columns if str(c).startswith("axis_")]
    return list(dict.fromkeys([*SHOWN, *fitted, document["y"], *labels]))


def _without_constants(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], str]:
    """Return rows without the columns that never vary, and those columns in words."""
    if len(rows) < 2:
        return rows, ""
    first = rows[0]
    same = [k for k in first if k != "run_id" and all(row[k] == first[k] for row in rows)]
    words = ", ".join(f"{k} {first[k]}" for k in same if first[k] is not None)
    return [{k: v for k, v in row.items() if k not in same} for row in rows], words


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _page(
    document: Mapping[str, Any],
    tables: tuple[pd.DataFrame, pd.DataFrame],
    figures: Sequence[Drawn],
    extra: Mapping[str, Any],
) -> str:
    runs, clean = tables
    simulated = bool(extra.get("simulated", False))
    data = (
        "" if "simulated" not in extra else ", simulated data" if simulated else ", recorded data"
    )
    subtitle = (
        f"{document['num_runs']} runs fitted of {len(runs)} in the study{data}; "
        f"estimator: {document['estimator']}{n_text(document)}"
    )
    found = [page.section("Verdict", *_verdict(document, simulated))]
    found += sections.search(extra.get("search"))
    found += [*_figures(figures), *sections.failures(document), *sections.sensitivity(document)]
    for name, value in extra.items():
        if name not in PLACED and value:
            found.append(page.section(BLOCKS.get(name, name.replace("_", " ")), page.block(value)))
    ranking = page.table(document["ranking"], sortable=True)
    found.append(page.section("Settings compared", page.hint(ranking_text(document)), ranking))
    rows, same = _without_constants(run_rows(runs, document))
    told = "Click a heading to sort, a point in a figure to bring its run to the top."
    common = f" The same for all: {same}." if same else ""
    found.append(page.section("Runs", page.hint(told + common), page.table(rows, sortable=True)))
    found += sections.published(document, clean)
    told = "<p>Everything needed to refit: record.json beside this page holds the same data.</p>"
    record = {k: v for k, v in document.items() if k != "paths"}
    found.append(page.section("Record", told, page.json_block("record", jsonable(record))))
    found += sections.ledger(extra.get("ledger"))
    return page.page(f"Scaling study {document['study']}", subtitle, found)


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


def _verdict(document: Mapping[str, Any], simulated: bool) -> list[str]:
    parts = [f'<p class="banner">{page.escape(SIMULATED)}</p>'] if simulated else []
    if document["axes"]:
        level = f"{document['level']:.0%}"
        told = (
            f"Intervals are {level}: exponent and floor by profile likelihood, the gain by "
            f"bootstrap; {document['estimator']}."
        )
        parts += [page.table(summary_rows(document)), page.hint(told)]
    for result in document["axes"].values():
        kind = result.get("trend", {}).get("verdict", "refused").split()[0]
        parts.append(page.card(kind, headline(result), details(result, document)))
    if not document["axes"]:
        parts.append(page.card("refused", "No axis varies with all else equal: no law.", []))
    general = [*joint_lines(document), noise_text(document), success_text(document)]
    general.append(_trivial_text(document))
    general += [n["message"] for n in document["notes"]]
    parts.append(page.card("", "The study as a whole", [t for t in general if t]))
    return parts


def _trivial_text(document: Mapping[str, Any]) -> str:
    """Say whether every run beats the trivial predictors."""
    best = _best_trivial(document["references"])
    if best is None:
        return "No trivial predictor is on record for this metric."
    losers = document["not_beating"]
    if not losers:
        return f"Every fitted run beats both trivial predictors (the better one: {best:.3g})."
    return (
        f"{len(losers)} of {document['num_runs']} runs do NOT beat the better trivial predictor "
        f"({best:.3g}): {', '.join(losers[:12])}{' ...' if len(losers) > 12 else ''}."
    )
