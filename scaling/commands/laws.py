"""Verbs on results: export, fit, report."""

from argparse import Namespace

from scaling.commands.common import as_json, expand, runs_folder, show, tracking_uri


def export(arguments: Namespace) -> int:
    """Write runs.parquet and curves.parquet of a study."""
    from scaling.analysis_glue import export_study

    document = export_study(expand(arguments), runs_folder(arguments))
    show(arguments, document, as_json)
    return 0


def fit(arguments: Namespace) -> int:
    """Fit the laws of a study or a table and print them with intervals."""
    from analysis.report import render_fit
    from scaling.analysis_glue import fit_table

    document = fit_table(arguments, lambda: expand(arguments), runs_folder(arguments))
    show(arguments, document, render_fit)
    return 0


def report(arguments: Namespace) -> int:
    """Fit, draw and write the report of a study; print it in short."""
    from scaling.analysis_glue import build_study_report, render_report

    specs, folder = expand(arguments), runs_folder(arguments)
    document = build_study_report(
        specs, folder, y=arguments.y, n_column=arguments.n_column, uri=tracking_uri(folder)
    )
    show(arguments, document, render_report)
    return 0
