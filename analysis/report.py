"""Write the report of a study: one HTML page, figures as PNG and SVG, a record to refit from."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy

from analysis import page, plots
from analysis.study import FitOptions, fit_study, jsonable
from analysis.verdict import details, headline, joint_text, noise_text, not_beating, render_fit

__all__ = ["FitOptions", "build_report", "fit_study", "render_fit"]

# Columns of the run table on the page; the rest is in runs.parquet.
SHOWN = (
    "run_id",
    "stage",
    "state",
    "size",
    "seed",
    "blind",
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
    "val_l1_position_m",
    "val_l1_rotation_deg",
    "test_l1",
)
BLOCKS = {
    "blind": "What the images are worth: blind against sighted runs",
    "finetune": "Reuse: a robot never seen, before and after finetuning",
    "best": "Best checkpoint",
    "next_runs": "Which runs to buy next",
}


def build_report(
    runs: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    *,
    study: str,
    out_dir: str | Path,
    axes: Sequence[str] | Literal["auto"] = "auto",
    y: str = "val_l1",
    n_column: str = "num_params_total",
    baselines: Mapping[str, float] | None = None,
    extra: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Fit, draw and write `report.html`, `figures/*.{png,svg}` and `record.json`.

    Args:
        runs: runs.parquet.
        curves: curves.parquet; adds the validation curves where given.
        study: its name.
        out_dir: gets the files (`reports/<study>`).
        axes: axes to fit, or "auto".
        y: the error's column.
        n_column: the column behind N.
        baselines: errors of trivial predictors by name ("mean_chunk", "hold", "blind"); by
            default what the table's `baseline_*` columns and blind runs say.
        extra: `simulated` (bool), and blocks shown under their titles: `blind`, `finetune`,
            `best`, `next_runs` (text, a mapping, or a list of mappings); any other key is a block
            under its own name.
        options: further fields of `FitOptions` (loss, delta, level, seed, ...).

    Returns:
        The document of `fit_study` with `paths` (`report`, `record`, `figures`), `references`
        and `not_beating` (runs that do not beat every trivial predictor).
    """
    document = fit_study(runs, study=study, axes=axes, y=y, n_column=n_column, **options)
    references = dict(baselines) if baselines is not None else _references(runs, document)
    document["references"] = {k: float(v) for k, v in references.items()}
    table = _run_rows(runs)
    document["not_beating"] = not_beating(_sighted(runs, y), _best_trivial(references), y)
    out = Path(out_dir)
    figures = draw_figures(document, out / "figures", curves=curves)
    document["paths"] = {
        "report": str(out / "report.html"),
        "record": str(out / "record.json"),
        "figures": [path for pair in figures.values() for path in pair.values()],
    }
    document["software"] = _software()
    facts = dict(extra or {})
    (out / "report.html").write_text(_page(document, table, figures, facts), encoding="utf-8")
    record = json.dumps(jsonable({**document, "extra": facts}), indent=1, default=str)
    (out / "record.json").write_text(record + "\n", encoding="utf-8")
    return document


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


def _sighted(runs: pd.DataFrame, y: str) -> list[dict[str, Any]]:
    from analysis.table import clean_runs

    clean, _ = clean_runs(runs, y)
    return [{"run_id": r.get("run_id"), y: r[y]} for r in clean.to_dict("records")]


def _run_rows(runs: pd.DataFrame) -> list[dict[str, Any]]:
    columns = [c for c in SHOWN if c in runs.columns and runs[c].notna().any()]
    columns += [c for c in runs.columns if c.startswith("axis_")]
    table = runs[columns or list(runs.columns)].astype(object)
    table = table.where(table.notna(), None)
    return [
        {str(k): v.item() if hasattr(v, "item") else v for k, v in row.items()}
        for row in table.to_dict("records")
    ]


def draw_figures(
    document: Mapping[str, Any], folder: Path, *, curves: pd.DataFrame | None = None
) -> dict[str, dict[str, str]]:
    """Draw all figures of a fitted study; return {name: {"png": path, "svg": path}}."""
    drawn: dict[str, dict[str, str]] = {}
    shown = {a: r for a, r in document["axes"].items() if r.get("points")}
    references = document["references"]
    with plots.style():
        from matplotlib.figure import Figure

        if shown:
            wide = Figure(figsize=(3.7 * max(len(shown), 1) + 0.4, 3.7), layout="constrained")
            plots.three_axes(wide, document, references=references)
            plots.legend(wide, document["level"])
            drawn["axes"] = plots.save(wide, folder, "axes")
        for axis, result in shown.items():
            if result["status"] != "fitted":
                continue
            tall = Figure(figsize=(5.4, 5.0), layout="constrained")
            top, bottom = tall.subplots(2, 1, height_ratios=[3, 1.3], sharex=True)
            plots.axis_fit(top, result, y=document["y"], references=references)
            plots.residuals(bottom, result, y=document["y"])
            top.set_xlabel("")
            plots.legend(tall, document["level"])
            drawn[axis] = plots.save(tall, folder, f"axis_{axis}")
        if curves is not None and len(curves):
            figure = Figure(figsize=(6.4, 3.8), layout="constrained")
            if plots.learning_curves(figure.subplots(), curves, metric=document["y"]):
                drawn["curves"] = plots.save(figure, folder, "curves")
    return drawn


def _page(
    document: Mapping[str, Any],
    rows: list[dict[str, Any]],
    figures: Mapping[str, Mapping[str, str]],
    extra: Mapping[str, Any],
) -> str:
    simulated = bool(extra.get("simulated", False))
    data = "simulated data" if simulated else "recorded data"
    subtitle = (
        f"{document['num_runs']} runs fitted of {len(rows)} in the study, {data}; "
        f"estimator: {document['estimator']}; N is {document['n_column']}"
    )
    sections = [page.section("Verdict", *_verdict(document, simulated))]
    pictures = {name: Path(paths["svg"]).read_text() for name, paths in figures.items()}
    if "axes" in pictures:
        caption = (
            f"{document['y']} against each axis, all else held at the centre; circles are runs, "
            f"bars join the seeds of a level; {document['estimator']}"
        )
        sections.append(page.section("Three axes", page.figure(pictures.pop("axes"), caption)))
    if pictures:
        drawn = [page.figure(svg, _caption(name, document)) for name, svg in pictures.items()]
        sections.append(page.section("Details", f'<div class="grid">{"".join(drawn)}</div>'))
    for name, value in extra.items():
        if name == "simulated" or not value:
            continue
        sections.append(page.section(BLOCKS.get(name, name.replace("_", " ")), page.block(value)))
    sections.append(page.section("Runs", page.table(rows, sortable=True)))
    hint = "<p>Everything needed to refit: record.json beside this page holds the same data.</p>"
    record = {k: v for k, v in document.items() if k != "paths"}
    sections.append(page.section("Record", hint, page.json_block("record", jsonable(record))))
    return page.page(f"Scaling study {document['study']}", subtitle, sections)


def _verdict(document: Mapping[str, Any], simulated: bool) -> list[str]:
    parts = []
    if simulated:
        parts.append('<p class="banner">These runs learned from simulated data; nothing here is '
                     "a claim about real robots or about the paper's numbers.</p>")  # fmt: skip
    for result in document["axes"].values():
        kind = result.get("trend", {}).get("verdict", "refused").split()[0]
        parts.append(page.card(kind, headline(result), details(result, document)))
    if not document["axes"]:
        parts.append(page.card("refused", "No axis varies with all else equal: no law.", []))
    general = [joint_text(document), noise_text(document), _trivial_text(document)]
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


def _caption(name: str, document: Mapping[str, Any]) -> str:
    if name == "curves":
        return f"{document['y']} during training, one line a run"
    result = document["axes"][name]
    held = ", ".join(f"{k} = {v}" for k, v in result["held"].items())
    return f"{result['label']}: fit and residuals. Held: {held or 'nothing else varies'}"
