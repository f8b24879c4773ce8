"""Verbs on results: export, fit, report."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.cli.arguments import as_json, expand, publish, runs_folder, show, tracking_uri
from scaling.cli.fit_arguments import (
    axes_of,
    export_study,
    fit_options,
    given,
    is_table,
    numbers,
    pairs,
    read_runs,
)
from scaling.cli.report_blocks import beside_the_laws
from scaling.spec import RunSpec

if TYPE_CHECKING:
    import pandas as pd

    from analysis.options import FitOptions

WINDOW = "prediction_window_s"


def export(arguments: Namespace) -> int:
    """Write runs.parquet and curves.parquet of a study."""
    show(arguments, export_study(expand(arguments), runs_folder(arguments)), as_json)
    return 0


def fit(arguments: Namespace) -> int:
    """Fit the laws of a study or a table and print them with intervals."""
    if given(arguments, "law"):
        return _fit_one(arguments)
    for name in ("fixed", "weights"):
        if given(arguments, name):
            raise ValueError(f"--{name} belongs to one law: name it with --law")
    from analysis.report import fit_study, render_fit

    runs = read_runs(arguments)
    document = fit_study(
        runs,
        study=arguments.study,
        axes=axes_of(arguments) or "auto",
        options=_options(arguments, runs),
    )
    show(arguments, document, render_fit)
    return 0


def _options(arguments: Namespace, runs: "pd.DataFrame") -> "FitOptions":
    """Return how to fit; the error of a table may have a usual name, such as `loss`."""
    from dataclasses import replace

    from analysis.one_law import choose_y

    how = fit_options(arguments)
    return replace(how, y=choose_y(runs, how.y)) if is_table(arguments) else how


def _fit_one(arguments: Namespace) -> int:
    """Fit one named law to all rows; overrides name columns, as N="Model Size"."""
    from analysis.one_law import fit_table, make_law, render_law

    law = make_law(arguments.law, axes_of(arguments))
    columns = {}
    if is_table(arguments):
        columns = pairs(arguments.overrides, "columns as AXIS=COLUMN")
    document = fit_table(
        read_runs(arguments, has_columns=True),
        law,
        columns=columns,
        weights=given(arguments, "weights"),
        fixed=numbers(pairs(given(arguments, "fixed") or [], "--fixed NAME=NUMBER")),
        options=fit_options(arguments),
    )
    show(arguments, {"table": arguments.study} | document, render_law)
    return 0


def report(arguments: Namespace) -> int:
    """Fit, draw and write the report of a study or a table; print it in short."""
    import pandas as pd

    from analysis.report import build_report

    folder = runs_folder(arguments)
    curves, extra, specs = None, {}, []
    if is_table(arguments):
        runs = read_runs(arguments)
    else:
        specs = expand(arguments)
        paths = export_study(specs, folder)
        runs, curves = pd.read_parquet(paths["runs"]), pd.read_parquet(paths["curves"])
        extra = _beside(specs, folder)
    name = Path(arguments.study).stem if is_table(arguments) else arguments.study
    document = build_report(
        runs,
        curves,
        study=name,
        out_dir=folder.parent / "reports" / name,
        axes=axes_of(arguments) or "auto",
        extra=extra,
        options=_options(arguments, runs),
    )
    where = {"report": document["paths"]["report"]}
    if specs:
        where |= _mlflow_addresses(specs, folder)
    show(arguments, document | extra, lambda shown: render_report(shown, runs, where))
    return 0


def _beside(specs: list[RunSpec], folder: Path) -> dict[str, Any]:
    """Return what stands beside the laws; a lost checkpoint or file costs that, not the laws."""
    try:
        return beside_the_laws(specs, folder)
    except (ValueError, OSError) as problem:
        print(f"warning: only the laws are reported: {problem}", file=sys.stderr)
        names = {entry.name for spec in specs for entry in spec.data.mixture}
        simulated = all(name.startswith("sim_") for name in names)
        told = f"The best run, blind runs, finetuning and hours are not shown: {problem}"
        return {"simulated": simulated, "not shown": told}


def render_report(document: dict[str, Any], runs: "pd.DataFrame", where: dict[str, str]) -> str:
    """Return the report in short: laws, runs, best checkpoint, finetuning, where things are."""
    from analysis.pages.words import search_texts
    from analysis.report import render_fit

    parts = [render_fit(document), _render_runs(document, runs)]
    if document.get("best"):
        best = document["best"]
        parts.append(
            f"Best run {best['run_id']}: val l1 {best['val_l1']:.4f} +- {best['val_l1_sem']:.4f}\n"
            f"  {best['checkpoint']}"
        )
    parts.append(_render_over_all_domains(runs))
    parts += [_render_blind(item) for item in document.get("blind", [])]
    parts += [_render_finetuned(item) for item in document.get("finetune", [])]
    places = {"report": where["report"], "figures": f"{Path(where['report']).parent}/figures/"}
    if document.get("search"):
        parts.append("\n".join(["Search:", *search_texts(document["search"])]))
    parts.append("\n".join(f"{name}: {value}" for name, value in (places | where).items()))
    if document.get("ledger"):
        parts.append(document["ledger"]["text"])
    return "\n\n".join(parts)


def _mlflow_addresses(specs: list[RunSpec], folder: Path) -> dict[str, str]:
    from scaling.tracking.publish import ui_command

    uri = tracking_uri(folder)
    published = publish(specs, folder, quiet=True)
    pages = published.pages if published else {}
    return {
        "MLflow database": uri.removeprefix("sqlite:///"),
        "open MLflow with": ui_command(uri),
        "then look at": pages.get(specs[0].study, "the experiment named after the study"),
    }


def _render_blind(row: dict[str, Any]) -> str:
    unit = 100 if row["metric"] == "l1_position_m" else 1
    name = "position error, cm" if unit == 100 else "l1"
    return (
        f"Images zeroed, {row['domains']} domains, {name}: blind {row['other'] * unit:.3f}, "
        f"sighted {row['reference'] * unit:.3f}, difference {row['difference'] * unit:.3f} +- "
        f"{row['sem'] * unit:.3f} ({row['standard_errors']:.1f} standard errors, "
        f"{row['num_episodes']} test episodes, {row['seeds']} seeds)"
    )


def _render_runs(document: dict[str, Any], runs: "pd.DataFrame") -> str:
    """Return the run table; in order of error only where seeds say what a difference is worth."""
    import pandas as pd

    from analysis.pages.verdict import ranking_text
    from analysis.report import run_rows

    columns = (
        "run_id", "size", "num_params_policy", "num_unique_episodes", "num_domains", "seed",
        "blind", "val_l1", "val_l1_sem", "val_l1_position_m", "test_l1", "delta_over_sigma",
        "num_seeds", "state",
    )  # fmt: skip
    shown = pd.DataFrame(run_rows(runs, document))
    windows = [WINDOW] if any(WINDOW in row for row in document["ranking"]) else []
    fitted = [axis["column"] for axis in document["axes"].values() if "column" in axis]
    if "run_id" in shown:  # of a table that is not ours, all columns are shown
        wanted = dict.fromkeys((*windows, *columns, *fitted, document["y"]))
        shown = shown[[column for column in wanted if column in shown]]
    for column in ("num_params_policy", "num_domains", "num_seeds"):
        if column in shown:
            shown[column] = pd.to_numeric(shown[column]).astype("Int64")
    if document["noise_floor"] and document["y"] in shown:
        # errors of different windows have different targets: ordered within a window only
        shown = shown.sort_values([c for c in (WINDOW, document["y"]) if c in shown])
    table = shown.to_string(index=False, float_format="{:.4f}".format, na_rep="-")
    return f"{table}\n{ranking_text(document)}"


def _render_over_all_domains(runs: "pd.DataFrame") -> str:
    """Name the sighted runs that do not beat holding the pose on the mean of their domains."""
    if "baseline_hold_val_l1_all" not in runs or "blind" not in runs:
        return "No trivial predictors over all domains in this table."
    sighted = runs[~runs["blind"].astype(bool) & runs["val_l1_all"].notna()]
    losers = sighted[sighted["val_l1_all"] >= sighted["baseline_hold_val_l1_all"]]
    if losers.empty:
        return "Over all domains (val_l1_all) every run beats holding the pose."
    names = ", ".join(
        f"{row.run_id} ({row.val_l1_all:.4f} against {row.baseline_hold_val_l1_all:.4f})"
        for row in losers.itertuples()
    )
    return f"Over all domains (val_l1_all) these do not beat holding the pose: {names}."


def _render_finetuned(row: dict[str, Any]) -> str:
    return (
        f"Finetuned on {row['domain']} from run {row['parent']}: test l1 "
        f"{row['test_l1_before']:.4f} before, {row['test_l1_after']:.4f} after; holding the pose "
        f"{row['test_l1_hold']:.4f}, mean chunk {row['test_l1_mean_chunk']:.4f}\n"
        f"  {row['checkpoint']}"
    )
