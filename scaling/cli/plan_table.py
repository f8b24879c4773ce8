"""The plan of a study as tables for the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table

from analysis.figures.grid import label
from scaling.memory import UNCALIBRATED

if TYPE_CHECKING:
    from jobs.plan import Plan, PlannedRun, Shared, Totals
    from scaling.memory import GpuMemory


def render_plan(plan: "Plan", *, max_rows: int = 200) -> Group:
    """Return what `scaling plan` prints: the runs and, for GPUs, the memory of each size."""
    tables: list[Table | str] = [_render_runs(plan, max_rows)]
    if plan.totals.saving:
        tables.append(saving_line(plan.totals, plan.totals.saving))
    if plan.memory_by_gpus:
        tables.append(_render_memory(plan.memory_by_gpus))
    return Group(*tables)


def saving_line(totals: "Totals", found: "Shared") -> str:
    """Return what branches save in one line."""
    hours = ""
    if found.gpu_hours_alone is not None:
        hours = f" ({totals.gpu_hours:,.0f} instead of {found.gpu_hours_alone:,.0f} GPU-hours)"
    return (
        f"{found.num_branches} of {totals.num_runs} runs branch off a longer one: "
        f"{label(found.samples_shared)} samples to train instead of "
        f"{label(found.samples_alone)}, {found.saving_percent:.1f} % less{hours}; "
        "FLOPs are those of whole runs"
    )


def _render_memory(rows: "Sequence[GpuMemory]") -> Table:
    """Return a row a size, a column a number of GPUs, GiB in between."""
    counts = sorted({row.gpus for row in rows})
    table = Table(title="GiB a GPU by number of GPUs, by the memory model", caption=UNCALIBRATED)
    table.add_column("size")
    table.add_column("micro-batch", justify="right")
    for count in counts:
        table.add_column(str(count), justify="right")
    for size in dict.fromkeys(row.size for row in rows):
        found = {row.gpus: row for row in rows if row.size == size}
        micro = str(found[counts[0]].micro_batch)
        table.add_row(size, micro, *(f"{found[count].total:.1f}" for count in counts))
    return table


def _render_runs(plan: "Plan", max_rows: int) -> Table:
    """Return the table that `scaling plan` prints, its last line the totals."""
    totals, rows = plan.totals, plan.runs
    table = Table(title=f"{plan.study} at scale {plan.scale}", show_footer=True)
    table.add_column("run", footer=f"{totals.num_runs} runs", no_wrap=True)
    table.add_column("axes", footer=f"on disk {totals.disk_gib:.1f} GiB")
    for name, footer in (
        ("seed", ""),
        ("params", ""),
        ("samples", ""),
        ("episodes", ""),
        ("FLOPs", f"{totals.compute_flops:.2e}"),
        ("GPUs", ""),
        ("GiB/GPU", ""),
        ("GPU-hours", _hours(totals)),
    ):
        table.add_column(name, footer=footer, justify="right", no_wrap=True)
    table.add_column("state", footer=_wall(totals), no_wrap=True)
    for row in rows[:max_rows]:
        table.add_row(
            row.run_id,
            " ".join(f"{key}={value}" for key, value in row.axes.items()),
            str(row.seed),
            label(row.num_params_total),
            label(row.num_samples_seen),
            label(row.num_unique_episodes),
            f"{row.compute_flops:.2e}",
            str(row.num_gpus or "-"),
            "-" if row.memory_gib_per_gpu is None else f"{row.memory_gib_per_gpu:.1f}",
            _hours(row),
            row.state,
        )
    if len(rows) > max_rows:
        table.caption = f"{len(rows) - max_rows} more runs; --json has them all"
    return table


def _hours(row: "PlannedRun | Totals") -> str:
    if row.gpu_hours is None:
        return "-"
    return f"{row.gpu_hours:,.0f} ({row.gpu_hours_low:,.0f}-{row.gpu_hours_high:,.0f})"


def _wall(totals: "Totals") -> str:
    return "" if totals.wall_hours is None else f"wall {totals.wall_hours:,.0f} h"
