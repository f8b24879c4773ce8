"""Sections of the page beside the laws: search, failures, sensitivity, the paper, the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.pages import beside, page
from analysis.pages.words import level_text, search_texts, sensitivity_text, sentence, span
from analysis.success.failures import failure_texts

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


def search(found: Mapping[str, Any] | None) -> list[str]:
    """Show what a search chose against the default, every candidate, and its figures.

    Args:
        found: result.json of the search: `score`, `counts`, `default`, `candidates`, `best`,
            `answer`, `importance`, `figures` (paths by name); None where there was none.
    """
    if not found:
        return []
    best, score = found["best"], found["score"]
    kind = "falls" if best["verdict"] == "better" else ""
    answer, *lines = search_texts(found)
    hint = (
        f"{score}, smaller is better. The scores that chose a point do not judge it: every point "
        "was run again with new seeds; intervals are 95% over all comparisons (Welch's t)."
    )
    rows = [{"point": "default", **_point(found["default"], score)}]
    rows += [{"point": f"{place}.", **_point(row, score)}
             for place, row in enumerate(found["candidates"], start=1)]  # fmt: skip
    parts = [page.card(kind, answer, lines), page.hint(hint), page.table(rows)]
    return [page.section("Search", *parts, _pictures(found.get("figures") or {}))]


def _point(row: Mapping[str, Any], score: str) -> dict[str, Any]:
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


def _pictures(figures: Mapping[str, Any]) -> str:
    """Return the figures of a search that are on disk."""
    drawn = []
    for name, paths in figures.items():
        path = next((Path(p) for p in paths if str(p).endswith(".svg")), None)
        if path is not None and path.exists():
            text = path.read_text(encoding="utf-8")
            drawn.append(page.figure(text, FIGURES.get(name, name), narrow=True))
    return f'<div class="grid">{"".join(drawn)}</div>' if drawn else ""


def failures(document: Mapping[str, Any]) -> list[str]:
    """Show how often each setting fails in closed loop and the law of failure along each axis."""
    found = document.get("failures")
    if not found:
        return []
    told = (
        f"Rates pool the runs of a setting; intervals are Clopper and Pearson's, "
        f"{found['level']:.0%}; laws are fitted to the counts by the binomial likelihood."
    )
    first, *rest = failure_texts(found)
    parts = [page.card("", first, rest), page.hint(told), page.table(found["cells"], sortable=True)]
    return [page.section("Closed-loop failure", *parts)]


def sensitivity(document: Mapping[str, Any]) -> list[str]:
    """Show, folded away, how much each law owes to its loss, single levels and single runs."""
    laws = {r.get("label", a): r["law"] for a, r in document["axes"].items() if r.get("law")}
    if document["joint"].get("law"):
        laws["joint law"] = document["joint"]["law"]
    parts = []
    for label, law in laws.items():
        found = law.get("sensitivity")
        if found:
            parts.append(page.folded(f"{label}: {sensitivity_text(found)}", _refits(found)))
    told = "Each law fitted again by other losses and knees, without each level, without each run."
    return [page.section("Sensitivity of the fits", page.hint(told), *parts)] if parts else []


def _refits(found: Mapping[str, Any]) -> str:
    """Return three tables of refits."""
    tables = {
        "Other losses": [{"estimator": r["estimator"], **_moved(r)} for r in found["estimators"]],
        "Without one level": [
            {"axis": r["axis"], "level": level_text(r), "rows": r["num_left_out"], **_moved(r)}
            for r in found["levels"]
        ],
        "Without one run, the most influential first": [
            {"run_id": r.get("run"), **r["axes"], "error": r["y"], "residual": r["residual"],
             **_moved(r), "standard errors": r["standard_errors"]}
            for r in found["runs"]
        ],
    }  # fmt: skip
    shown = {title: rows for title, rows in tables.items() if rows}
    return "".join(f"<h3>{title}</h3>{page.table(rows)}" for title, rows in shown.items())


def _moved(row: Mapping[str, Any]) -> dict[str, Any]:
    params = {k: v for k, v in row["params"].items() if not k.startswith("A")}
    return {"prediction": row["prediction"], "shift (%)": 100 * row["shift"], **params}


def published(document: Mapping[str, Any], clean: pd.DataFrame) -> list[str]:
    """Show the paper's tables: errors and windows beside ours, the rest folded away."""
    told = (
        "X-VLA's tables as printed: other data, other robots, real Florence-2. They stand here to "
        "be compared in shape, not in size; none of them was reproduced."
    )
    parts = [page.hint(told), "<h3>Validation error</h3>", page.table(beside.error_rows(document))]
    parts += ["<h3>Prediction window</h3>", page.table(beside.setting_rows(clean))]
    for which in beside.numbers():
        title = f"Table {which} ({beside.PUBLISHED}): {beside.TITLES[which]}"
        parts.append(page.folded(title, page.table(beside.rows_of(which))))
    return [page.section("The paper's numbers", *parts)]


def ledger(book: Mapping[str, Any] | None) -> list[str]:
    """End the page with what became of the hours: useful, replayed, failed, queued.

    Args:
        book: `text` (one line), `unit`, hours by account, `total` and `runs`; None without one.
    """
    if not book:
        return []
    unit, total = book["unit"], book["total"]
    rows = [
        {"account": name, unit: book[name],
         "share (%)": 100 * book[name] / total if total and name != "queued" else None,
         "what": words}
        for name, words in ACCOUNTS.items()
    ]  # fmt: skip
    runs = page.folded("by run", page.table(book["runs"], sortable=True)) if book["runs"] else ""
    text = f"<p>{page.escape(sentence(book['text']))}</p>"
    return [page.section("Ledger of hours", text, page.table(rows), runs)]
