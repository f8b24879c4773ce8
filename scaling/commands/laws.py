"""Verbs on results: export, fit, report."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.commands.common import as_json, expand, runs_folder, show, tracking_uri
from scaling.spec import RunSpec

if TYPE_CHECKING:
    import pandas as pd

TABLE_SUFFIXES = (".csv", ".parquet", ".jsonl")


def export(arguments: Namespace) -> int:
    """Write runs.parquet and curves.parquet of a study."""
    show(arguments, export_study(expand(arguments), runs_folder(arguments)), as_json)
    return 0


def fit(arguments: Namespace) -> int:
    """Fit the laws of a study or a table and print them with intervals."""
    from analysis.report import fit_study, render_fit

    runs = _table(arguments)
    document = fit_study(runs, study=arguments.study, y=arguments.y, n_column=arguments.n_column)
    show(arguments, document, render_fit)
    return 0


def report(arguments: Namespace) -> int:
    """Fit, draw and write the report of a study or a table; print it in short."""
    import pandas as pd

    from analysis.report import build_report

    is_table = arguments.study.endswith(TABLE_SUFFIXES)
    specs = [] if is_table else expand(arguments)
    folder = runs_folder(arguments)
    curves, extra = None, {}
    if is_table:
        runs = _read_table(Path(arguments.study))
    else:
        paths = export_study(specs, folder)
        runs, curves = pd.read_parquet(paths["runs"]), pd.read_parquet(paths["curves"])
        extra = _extra(specs, folder)
    name = Path(arguments.study).stem if is_table else arguments.study
    document = build_report(
        runs,
        curves,
        study=name,
        out_dir=folder.parent / "reports" / name,
        y=arguments.y,
        n_column=arguments.n_column,
        extra=extra,
    )
    show(arguments, document | extra, lambda shown: render_report(shown, runs))
    return 0


def export_study(specs: list[RunSpec], folder: Path) -> dict[str, Any]:
    """Write the tables of a study beside the folder of runs; return their paths and row counts."""
    from analysis.export import export_study as write
    from scaling.describe import export_row

    rows = [export_row(spec) for spec in specs]
    return write(rows, folder, folder.parent / "exports" / specs[0].study)


def render_report(document: dict[str, Any], runs: "pd.DataFrame") -> str:
    """Return the report in short: laws, runs, best checkpoint, finetuning, where things are."""
    from analysis.report import render_fit

    parts = [render_fit(document), _render_runs(runs)]
    if document.get("best"):
        best = document["best"]
        parts.append(
            f"best run {best['run_id']}: val l1 {best['val_l1']:.4f} +- {best['val_l1_sem']:.4f}\n"
            f"  {best['checkpoint']}"
        )
    parts += [_render_finetuned(item) for item in document.get("finetuned", [])]
    paths = {
        "report": document.get("report"),
        "figures": document.get("figures"),
        "MLflow database": document.get("mlflow"),
        "MLflow's page": document.get("mlflow_page"),
    }
    parts.append("\n".join(f"{name}: {value}" for name, value in paths.items() if value))
    return "\n\n".join(parts)


def _table(arguments: Namespace) -> "pd.DataFrame":
    import pandas as pd

    if arguments.study.endswith(TABLE_SUFFIXES):
        return _read_table(Path(arguments.study))
    return pd.read_parquet(export_study(expand(arguments), runs_folder(arguments))["runs"])


def _read_table(path: Path) -> "pd.DataFrame":
    import pandas as pd

    if not path.exists():
        raise ValueError(f"no table at {path}; give a .csv, .parquet or .jsonl file or a study")
    readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet,
               ".jsonl": lambda file: pd.read_json(file, lines=True)}  # fmt: skip
    return readers[path.suffix](path)


def _extra(specs: list[RunSpec], folder: Path) -> dict[str, Any]:
    """Return what a report shows beside the laws: best run, finetuning, whether it is simulated."""
    from scaling.adapt import finetune_result, finetuned_from
    from scaling.best import best
    from scaling.tracking import ui_command

    uri = tracking_uri(folder)
    extra: dict[str, Any] = {
        "simulated": all(
            entry.name.startswith("sim_") for spec in specs for entry in spec.data.mixture
        ),
        "mlflow": uri.removeprefix("sqlite:///"),
        "mlflow_page": ui_command(uri),
    }
    if any((folder / spec.run_id / "DONE").exists() for spec in specs):
        extra["best"] = best(specs, folder)
        parents = {spec.run_id for spec in specs}
        extra["finetuned"] = [
            finetune_result(spec, run_dir, parent=_parent(spec))
            for spec, run_dir in finetuned_from(folder, parents)
        ]
    return extra


def _parent(spec: RunSpec) -> str:
    return Path(spec.init.checkpoint).parent.parent.name


def _render_runs(runs: "pd.DataFrame") -> str:
    columns = ["run_id", "size", "num_params_policy", "num_unique_episodes", "num_domains", "seed",
               "blind", "val_l1", "val_l1_sem", "val_l1_position_m", "state"]  # fmt: skip
    shown = runs[[column for column in columns if column in runs]]
    return shown.sort_values("val_l1").to_string(index=False, float_format="{:.4f}".format)


def _render_finetuned(item: dict[str, Any]) -> str:
    after = item["metrics_after"]
    return (
        f"finetuned on {item['domain']} from run {item['parent']}: "
        f"val l1 {item['val_l1_before']:.4f} before, {item['val_l1_after']:.4f} +- "
        f"{item['val_l1_sem_after']:.4f} after; holding the pose "
        f"{after['baseline_hold_val_l1']:.4f}, mean chunk "
        f"{after['baseline_mean_chunk_val_l1']:.4f}\n  {item['checkpoint']}"
    )
