"""Verbs on results: export, fit, report."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.cli.arguments import Asked, as_json, publish, store_of
from scaling.cli.fit_arguments import Fitting, export_study, numbers, pairs, read_runs
from scaling.cli.report_blocks import (
    BlindRow,
    FinetuneRow,
    ReportBlocks,
    beside_the_laws,
    is_simulated,
)
from scaling.spec import RunSpec

if TYPE_CHECKING:
    import pandas as pd

    from analysis.estimator import FitOptions
    from analysis.study import StudyFit

WINDOW = "prediction_window_s"


def export(asked: Asked) -> int:
    """Write runs.parquet and curves.parquet of a study."""
    asked.show(export_study(asked.expand(), asked.folder), as_json)
    return 0


def fit(
    asked: Asked,
    *,
    law: str | None,
    fixed: Sequence[str] | None,
    weights: str | None,
    **how: Any,
) -> int:
    """Fit the laws of a study or a table and print them with intervals."""
    fitting = Fitting(**how)
    if law:
        return _fit_one(asked, fitting, law, fixed=fixed or (), weights=weights)
    for name, value in (("fixed", fixed), ("weights", weights)):
        if value:
            raise ValueError(f"--{name} belongs to one law: name it with --law")
    from analysis.document import jsonable
    from analysis.pages.terminal import render_fit
    from analysis.study import fit_study

    runs = read_runs(asked)
    found = fit_study(
        runs,
        study=asked.study,
        axes=fitting.axis_names or "auto",
        options=_options(asked, fitting, runs),
    )
    asked.show(jsonable(found), lambda _: render_fit(found))
    return 0


def _options(asked: Asked, fitting: Fitting, runs: "pd.DataFrame") -> "FitOptions":
    """Return how to fit; the error of a table may have a usual name, such as `loss`."""
    from dataclasses import replace

    from analysis.one_law import choose_y

    how = fitting.options()
    return replace(how, y=choose_y(runs, how.y)) if asked.is_table else how


def _fit_one(
    asked: Asked, fitting: Fitting, name: str, *, fixed: Sequence[str], weights: str | None
) -> int:
    """Fit one named law to all rows; overrides name columns, as N="Model Size"."""
    from analysis.document import jsonable
    from analysis.one_law import fit_table, make_law
    from analysis.pages.terminal import render_law

    law = make_law(name, fitting.axis_names)
    columns = pairs(asked.overrides, "columns as AXIS=COLUMN") if asked.is_table else {}
    found = fit_table(
        read_runs(asked, has_columns=True),
        law,
        columns=columns,
        weights=weights,
        fixed=numbers(pairs(fixed, "--fixed NAME=NUMBER")),
        options=fitting.options(),
    )
    document = jsonable({"table": asked.study} | found.to_dict())
    asked.show(document, lambda _: render_law(found))
    return 0


def report(asked: Asked, **how: Any) -> int:
    """Fit, draw and write the report of a study or a table; print it in short."""
    import pandas as pd

    from analysis.document import jsonable
    from analysis.report import build_report

    fitting, folder = Fitting(**how), asked.folder
    curves, specs = None, []
    blocks: ReportBlocks | None = None
    if asked.is_table:
        runs = read_runs(asked)
    else:
        specs = asked.expand()
        paths = export_study(specs, folder)
        runs, curves = pd.read_parquet(paths.runs), pd.read_parquet(paths.curves)
        blocks = _beside(specs, folder)
    extra = blocks.named() if blocks else {}
    name = Path(asked.study).stem if asked.is_table else asked.study
    found = build_report(
        runs,
        curves,
        study=name,
        out_dir=folder.parent / "reports" / name,
        axes=fitting.axis_names or "auto",
        extra=extra,
        options=_options(asked, fitting, runs),
    )
    where = {"report": found.paths.report}
    if specs:
        where |= _mlflow_addresses(specs, folder)
    document = jsonable(found.to_dict() | extra)
    asked.show(document, lambda _: render_report(found.findings.fit, blocks, runs, where))
    return 0


def _beside(specs: list[RunSpec], folder: Path) -> ReportBlocks:
    """Return what stands beside the laws; a lost checkpoint or file costs that, not the laws."""
    try:
        return beside_the_laws(specs, folder)
    except (ValueError, OSError) as problem:
        print(f"warning: only the laws are reported: {problem}", file=sys.stderr)
        told = f"The best run, blind runs, finetuning and hours are not shown: {problem}"
        return ReportBlocks(simulated=is_simulated(specs), not_shown=told)


def render_report(
    fit: "StudyFit", blocks: ReportBlocks | None, runs: "pd.DataFrame", where: dict[str, str]
) -> str:
    """Return the report in short: laws, runs, best checkpoint, finetuning, where things are."""
    from analysis.pages.sentences import search_texts
    from analysis.pages.terminal import render_fit

    parts = [render_fit(fit), _render_runs(fit, runs)]
    if blocks and blocks.best:
        best = blocks.best
        parts.append(
            f"Best run {best.run_id}: val l1 {best.val_l1:.4f} +- {best.val_l1_sem:.4f}\n"
            f"  {best.checkpoint}"
        )
    parts.append(_render_over_all_domains(runs))
    if blocks:
        parts += [_render_blind(row) for row in blocks.blind]
        parts += [_render_finetuned(row) for row in blocks.finetune]
    places = {"report": where["report"], "figures": f"{Path(where['report']).parent}/figures/"}
    if blocks and blocks.search:
        parts.append("\n".join(["Search:", *search_texts(blocks.search)]))
    parts.append("\n".join(f"{name}: {value}" for name, value in (places | where).items()))
    if blocks and blocks.ledger:
        parts.append(blocks.ledger["text"])
    return "\n\n".join(parts)


def _mlflow_addresses(specs: list[RunSpec], folder: Path) -> dict[str, str]:
    from scaling.tracking.publish import ui_command

    uri = store_of(folder)
    published = publish(specs, folder, quiet=True)
    pages = published.pages if published else {}
    return {
        "MLflow database": uri.removeprefix("sqlite:///"),
        "open MLflow with": ui_command(uri),
        "then look at": pages.get(specs[0].study, "the experiment named after the study"),
    }


def _render_blind(row: BlindRow) -> str:
    found = row.paired
    unit = 100 if found.metric == "l1_position_m" else 1
    name = "position error, cm" if unit == 100 else "l1"
    return (
        f"Images zeroed, {row.domains} domains, {name}: blind {found.other * unit:.3f}, "
        f"sighted {found.reference * unit:.3f}, difference {found.difference * unit:.3f} +- "
        f"{found.sem * unit:.3f} ({found.standard_errors:.1f} standard errors, "
        f"{found.num_episodes} test episodes, {row.seeds} seeds)"
    )


def _render_runs(fit: "StudyFit", runs: "pd.DataFrame") -> str:
    """Return the run table; in order of error only where seeds say what a difference is worth."""
    import pandas as pd

    from analysis.pages.verdict import ranking_text
    from analysis.report import run_rows

    columns = (
        "run_id", "size", "num_params_policy", "num_unique_episodes", "num_domains", "seed",
        "blind", "val_l1", "val_l1_sem", "val_l1_position_m", "test_l1", "delta_over_sigma",
        "num_seeds", "state",
    )  # fmt: skip
    shown = pd.DataFrame(run_rows(runs, fit))
    windows = [WINDOW] if any(WINDOW in setting.values for setting in fit.ranking) else []
    fitted = [axis.data.column for axis in fit.axes.values() if axis.data]
    if "run_id" in shown:  # of a table that is not ours, all columns are shown
        wanted = dict.fromkeys((*windows, *columns, *fitted, fit.y))
        shown = shown[[column for column in wanted if column in shown]]
    for column in ("num_params_policy", "num_domains", "num_seeds"):
        if column in shown:
            shown[column] = pd.to_numeric(shown[column]).astype("Int64")
    if fit.noise_floor and fit.y in shown:
        # errors of different windows have different targets: ordered within a window only
        shown = shown.sort_values([c for c in (WINDOW, fit.y) if c in shown])
    table = shown.to_string(index=False, float_format="{:.4f}".format, na_rep="-")
    return f"{table}\n{ranking_text(fit)}"


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


def _render_finetuned(row: FinetuneRow) -> str:
    return (
        f"Finetuned on {row.domain} from run {row.parent}: test l1 "
        f"{row.test_l1_before:.4f} before, {row.test_l1_after:.4f} after; holding the pose "
        f"{row.test_l1_hold:.4f}, mean chunk {row.test_l1_mean_chunk:.4f}\n"
        f"  {row.checkpoint}"
    )
