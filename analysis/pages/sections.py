"""Sections of the page beside the laws: search, failures, sensitivity, the paper, the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from analysis.document import Scalar
from analysis.pages import page, paper_tables
from analysis.pages.documents import Candidate, Ledger, SearchResult
from analysis.pages.sentences import (
    failure_texts,
    level_text,
    search_texts,
    sensitivity_text,
    sentence,
    span,
)
from analysis.sensitivity import Refit, Sensitivity
from analysis.study import JointLaw, StudyFit
from analysis.success.failures import FailureStudy

FIGURES = {
    "history": "Score by trial, smaller is better; the line is the best so far",
    "contour": "Score over the space as the trials saw it; dots are complete trials",
    "importance": "Importance of each parameter, 1 in all (PED-ANOVA, Optuna's default)",
}
ACCOUNTS = {
    "useful": "on steps that stand",
    "replayed": "on steps that a later attempt repeated, or attempts without a step",
    "failed": "all attempts of runs that failed or were cancelled",
    "queued": "waited for, behind arrays of its own too, times the devices; not in the total",
}


def search(found: SearchResult | None) -> list[str]:
    """Show what a search chose against the default, every candidate, and its figures."""
    if not found:
        return []
    best, score = found["best"], found["score"]
    kind = "falls" if best["verdict"] == "better" else ""
    answer, *lines = search_texts(found)
    hint = (
        f"{score}, smaller is better. The scores that chose a point do not judge it: every point "
        "was run again with new seeds; intervals are 95% over all comparisons (Welch's t)."
    )
    rows: list[dict[str, Scalar]] = [{"point": "default", **_point(found["default"], score)}]
    rows += [{"point": f"{place}.", **_point(row, score)}
             for place, row in enumerate(found["candidates"], start=1)]  # fmt: skip
    parts = [page.card(kind, answer, lines), page.hint(hint), page.table(rows)]
    return [page.section("Search", *parts, _pictures(found.get("figures") or {}))]


def _point(row: Candidate, score: str) -> dict[str, Scalar]:
    """Return one candidate as a row."""
    known = row["low"] is not None
    return {
        **row["params"],
        "in the search": row["search_value"],
        f"{score}, new seeds": row["mean"],
        "seeds": len(row["repeats"]),
        "minus default": row["delta"],
        "interval": span([row["low"], row["high"]]) if known else "-",
        "verdict": row["verdict"],
        "run_id": row["run_id"],
    }


def _pictures(figures: Mapping[str, Sequence[str]]) -> str:
    """Return the figures of a search that are on disk."""
    drawn = []
    for name, paths in figures.items():
        path = next((Path(p) for p in paths if str(p).endswith(".svg")), None)
        if path is not None and path.exists():
            text = path.read_text(encoding="utf-8")
            drawn.append(page.figure(text, FIGURES.get(name, name), narrow=True))
    return f'<div class="grid">{"".join(drawn)}</div>' if drawn else ""


def failures(found: FailureStudy | None) -> list[str]:
    """Show how often each setting fails in closed loop and the law of failure along each axis."""
    if not found:
        return []
    told = (
        f"Rates pool the runs of a setting; intervals are Clopper and Pearson's, "
        f"{found.level:.0%}; laws are fitted to the counts by the binomial likelihood."
    )
    first, *rest = failure_texts(found)
    cells = [cell.to_dict() for cell in found.cells]
    parts = [page.card("", first, rest), page.hint(told), page.table(cells, sortable=True)]
    return [page.section("Closed-loop failure", *parts)]


def sensitivity(study: StudyFit) -> list[str]:
    """Show, folded away, how much each law owes to its loss, single levels and single runs."""
    laws = {axis.label: axis.fitted.law for axis in study.axes.values() if axis.fitted}
    if isinstance(study.joint, JointLaw):
        laws["joint law"] = study.joint.law
    parts = [
        page.folded(f"{label}: {sensitivity_text(law.sensitivity)}", _refits(law.sensitivity))
        for label, law in laws.items()
        if law.sensitivity
    ]
    told = "Each law fitted again by other losses and knees, without each level, without each run."
    return [page.section("Sensitivity of the fits", page.hint(told), *parts)] if parts else []


def _refits(found: Sensitivity) -> str:
    """Return three tables of refits."""
    tables: dict[str, list[dict[str, Scalar]]] = {
        "Other losses": [
            {"estimator": r.estimator, **_moved(r.refit)} for r in found.estimators
        ],
        "Without one level": [
            {"axis": r.axis, "level": level_text(r), "rows": r.num_left_out, **_moved(r.refit)}
            for r in found.levels
        ],
        "Without one run, the most influential first": [
            {"run_id": r.run, **r.axes, "error": r.y, "residual": r.residual, **_moved(r.refit),
             "standard errors": r.standard_errors}
            for r in found.runs
        ],
    }  # fmt: skip
    shown = {title: rows for title, rows in tables.items() if rows}
    return "".join(f"<h3>{title}</h3>{page.table(rows)}" for title, rows in shown.items())


def _moved(refit: Refit) -> dict[str, float]:
    params = {k: v for k, v in refit.params.items() if not k.startswith("A")}
    return {"prediction": refit.prediction, "shift (%)": 100 * refit.shift, **params}


def published(study: StudyFit, references: Mapping[str, float], clean: pd.DataFrame) -> list[str]:
    """Show the paper's tables: errors and windows beside ours, the rest folded away."""
    told = (
        "X-VLA's tables as printed: other data, other robots, real Florence-2. They stand here to "
        "be compared in shape, not in size; none of them was reproduced."
    )
    errors = paper_tables.error_rows(study, references)
    parts = [page.hint(told), "<h3>Validation error</h3>", page.table(errors)]
    parts += ["<h3>Prediction window</h3>", page.table(paper_tables.setting_rows(clean))]
    for which in paper_tables.numbers():
        title = f"Table {which} ({paper_tables.PUBLISHED}): {paper_tables.TITLES[which]}"
        parts.append(page.folded(title, page.table(paper_tables.rows_of(which))))
    return [page.section("The paper's numbers", *parts)]


def ledger(book: Ledger | None) -> list[str]:
    """End the page with what became of the hours: useful, replayed, failed, queued."""
    if not book:
        return []
    unit, total = book["unit"], book["total"]
    hours = {"useful": book["useful"], "replayed": book["replayed"], "failed": book["failed"],
             "queued": book["queued"]}  # fmt: skip
    rows: list[dict[str, Scalar]] = [
        {"account": name, unit: spent,
         "share (%)": 100 * spent / total if total and name != "queued" else None,
         "what": ACCOUNTS[name]}
        for name, spent in hours.items()
    ]  # fmt: skip
    runs = page.folded("by run", page.table(book["runs"], sortable=True)) if book["runs"] else ""
    text = f"<p>{page.escape(sentence(book['text']))}</p>"
    return [page.section("Ledger of hours", text, page.table(rows), runs)]
