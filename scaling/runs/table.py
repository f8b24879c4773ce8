"""From a folder of runs to two tables: runs.parquet (one row a run) and curves.parquet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from scaling.document import Document, optional
from scaling.runs.attempts import total_gpu_hours
from scaling.runs.curves import metric_lines, numbers
from scaling.runs.files import DamagedFileError
from scaling.runs.folder import Run
from scaling.runs.rollouts import COLUMNS as COUNT_COLUMNS
from scaling.runs.rollouts import success_counts
from scaling.runs.state import Hold, RunStatus, run_status

Cell = bool | int | float | str | None
Row = Mapping[str, Cell]  # of the run table, by column
RUN_COLUMNS = (
    "run_id",
    "study",
    "stage",
    "state",
    "seed",
    "size",
    "num_params_total",
    "num_params_policy",
    "num_params_trainable",
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
    "code_digest",
    "parent_checkpoint",
)
CURVE_COLUMNS = ("run_id", "step", "num_samples_seen", "metric", "value")
TEXT_COLUMNS = ("run_id", "study", "stage", "state", "size", "code_digest", "parent_checkpoint")
FINAL_PREFIXES = ("val_", "test_", "baseline_")
# Short names of the trivial predictors' validation error on the anchor domain.
SHORT_NAMES = {
    "baseline_mean_chunk_val_l1": "baseline_mean_chunk_l1",
    "baseline_hold_val_l1": "baseline_hold_l1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported(Document):
    """The two tables' paths, and what is in them.

    `problems`, where there are damaged files: what is wrong with each, and what to do.
    """

    runs: str
    curves: str
    num_runs: int
    num_done: int
    states: dict[str, int]
    problems: list[str] | None = optional()


def export_study(
    rows: Sequence[Row],
    runs_dir: str | Path,
    out_dir: str | Path,
    *,
    held: Mapping[str, Hold] | None = None,
) -> Exported:
    """Write runs.parquet and curves.parquet of a study.

    Beside the contract's columns: final metrics, axes, and `successes` of `rollouts` where there
    are any (`scaling.runs.rollouts`).

    Args:
        rows: what is known of each run without looking (run_id, study, seed, sizes, counts,
            FLOPs, further columns such as axis values); unfinished runs stay in the table with
            their state.
        runs_dir: folder that holds `<run_id>/`.
        out_dir: gets the two files (`exports/<study>`).
        held: what executors have of the runs, by run id.

    Raises:
        ValueError: no rows, a row without run_id, or a run id given twice.
    """
    ids = [row.get("run_id") for row in rows]
    if not rows or not all(ids):
        raise ValueError(f"{len(rows)} rows, {ids.count(None)} without run_id: nothing to export")
    if len(set(ids)) < len(ids):
        raise ValueError("a run_id is given more than once: export each run of a study once")
    folders = [Run.of(runs_dir, str(run_id)) for run_id in ids]
    counts = success_counts(runs_dir)
    held = held or {}
    stand = [run_status(run, held.get(run.run_id)) for run in folders]
    problems = [status.reason or "" for status in stand if status.damaged]
    found = [
        read_run(row, run, status) for row, run, status in zip(rows, folders, stand, strict=True)
    ]
    runs = run_table([row | counts.get(str(row["run_id"]), {}) for row in found])
    curves = curve_table(folders)
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    paths = {"runs": out / "runs.parquet", "curves": out / "curves.parquet"}
    _write(runs, paths["runs"])
    _write(curves, paths["curves"])
    states = {str(k): int(v) for k, v in runs["state"].value_counts().items()}
    return Exported(
        runs=str(paths["runs"]),
        curves=str(paths["curves"]),
        num_runs=len(runs),
        num_done=states.get("done", 0),
        states=states,
        problems=problems or None,
    )


def _write(table: pd.DataFrame, path: Path) -> None:
    """Write a parquet file whole or not at all."""
    part = path.with_suffix(".part")
    table.to_parquet(part, index=False)
    part.replace(path)


def read_run(row: Row, run: Run, status: RunStatus) -> dict[str, Cell]:
    """Add to a row what the run's folder tells: state, hours, digest, parent, final metrics."""
    final = final_metrics(run, status.state)
    metrics = {plain_name(k): v for k, v in final.items()}
    kept = {k: v for k, v in metrics.items() if k.startswith(FINAL_PREFIXES)}
    kept |= {short: kept[long] for long, short in SHORT_NAMES.items() if long in kept}
    return {
        **dict.fromkeys((*RUN_COLUMNS, *COUNT_COLUMNS)),
        **kept,
        **dict(row),
        "state": status.state,
        "gpu_hours": total_gpu_hours(run),
        "code_digest": run.environment().code_digest,
        "parent_checkpoint": row.get("parent_checkpoint")
        or (None if run.damage() else run.labels().checkpoint or None),
    }


def final_metrics(run: Run, state: str) -> dict[str, float]:
    """Return the final metrics of a done run, the last validation of another."""
    done = run.done() if state == "done" else None
    if done is not None:
        return _finite(done.metrics)
    last: dict[str, float] = {}
    for line in metric_lines(run):
        values = _finite(line.values)
        if any(name.startswith(("val/", "test/")) for name in values):
            last |= values
    return last


def run_table(rows: Sequence[Row]) -> pd.DataFrame:
    """Return rows as a table, the contract's columns first and typed, the rest by name."""
    table = pd.DataFrame([dict(row) for row in rows])
    extra = sorted(set(table.columns) - set(RUN_COLUMNS))
    table = table[[*RUN_COLUMNS, *extra]]
    for name in (*RUN_COLUMNS, *(c for c in COUNT_COLUMNS if c in table.columns)):
        if name in TEXT_COLUMNS:
            table[name] = table[name].astype("string")
        else:
            table[name] = pd.to_numeric(table[name]).astype("float64")
    for name in ("seed", "num_params_total", "num_samples_seen", "num_unique_episodes"):
        if table[name].notna().all():
            table[name] = table[name].astype("int64")
    return table


def curve_table(runs: Iterable[Run]) -> pd.DataFrame:
    """Return every metric line of every run in long form; of a replayed step the last line wins."""
    records: list[tuple[Any, ...]] = []
    for run in runs:
        latest: dict[tuple[int, str], tuple[Any, ...]] = {}
        for line in metric_lines(run):
            for name, value in _finite(line.values).items():
                metric = plain_name(name)
                row = (run.run_id, line.step, line.num_samples_seen, metric, value)
                latest[line.step, metric] = row
        records.extend(latest[key] for key in sorted(latest))
    table = pd.DataFrame(records, columns=list(CURVE_COLUMNS))
    return table.astype(
        {
            "run_id": "string",
            "step": "int64",
            "num_samples_seen": "float64",
            "metric": "string",
            "value": "float64",
        }
    )


def plain_name(metric: str) -> str:
    """Return a metric's name as a column: a slash becomes an underscore."""
    return metric.replace("/", "_")


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in numbers(metrics).items() if math.isfinite(value)}


def read_final_episodes(run: Run, split: str) -> pd.DataFrame:
    """Return the per-episode errors of a run's last evaluation of a split."""
    table = read_episodes(run)
    table = table[table["split"] == split]
    return table[table["step"] == table["step"].max()]


def read_episodes(run: Run) -> pd.DataFrame:
    """Return val_episodes.parquet; raises ValueError where it is absent or damaged."""
    try:
        return pd.read_parquet(run.episodes_file)
    except FileNotFoundError:
        raise ValueError(
            f"{run.episodes_file} is missing: the run was not evaluated yet"
        ) from None
    except (ValueError, OSError) as error:  # pyarrow's are ValueErrors
        raise DamagedFileError(
            f"{run.episodes_file} is damaged ({error}); delete it and submit again: the run goes "
            "on from its last checkpoint, the errors by episode of earlier steps are lost"
        ) from None
