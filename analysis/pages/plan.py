"""The plan of a study as one self-contained page: what it is, its grid, totals, a row a run."""

import io
from collections.abc import Sequence
from typing import Protocol

from analysis.document import Scalar
from analysis.figures.grid import Grid, Hours, PlannedRun, label, make_grids
from analysis.figures.plan import draw_grid
from analysis.figures.style import style
from analysis.hover import Hover
from analysis.pages.page import escape, figure, hint, page, section, table

MOST_ROWS = 1000
MOST_FIGURES, FEW_RUNS = 4, 4  # a smaller grid beside the first is told in words


class Run(PlannedRun, Protocol):
    """What the table says of a run beside what its grid does."""

    @property
    def num_params_total(self) -> int: ...
    @property
    def num_samples_seen(self) -> int: ...
    @property
    def num_unique_episodes(self) -> int: ...
    @property
    def num_domains(self) -> int: ...
    @property
    def num_gpus(self) -> int: ...
    @property
    def memory_gib_per_gpu(self) -> float | None: ...


class Totals(Hours, Protocol):
    """The sums of a plan."""

    @property
    def num_runs(self) -> int: ...
    @property
    def disk_gib(self) -> float: ...


class Memory(Protocol):
    """GiB on each of a number of GPUs."""

    @property
    def size(self) -> str: ...
    @property
    def gpus(self) -> int: ...
    @property
    def micro_batch(self) -> int: ...
    @property
    def total(self) -> float: ...


class Plan(Protocol):
    """A study before it starts."""

    @property
    def study(self) -> str: ...
    @property
    def scale(self) -> str: ...
    @property
    def runs(self) -> Sequence[Run]: ...
    @property
    def totals(self) -> Totals: ...
    @property
    def memory_by_gpus(self) -> Sequence[Memory] | None: ...


def plan_page(plan: Plan, head: Sequence[tuple[str, str]]) -> str:
    """Return the HTML of `scaling plan --html`; `head`: what the study says, as (name, text)."""
    count = plan.totals.num_runs
    grids = make_grids(plan.runs)
    parts = [
        section("What it is", _two_columns([*head, *_totals(plan.totals)])),
        section("The grid", *_figures(grids)),
        section("1 run" if count == 1 else f"{count:,} runs", *_runs(plan.runs)),
    ]
    if plan.memory_by_gpus:
        parts.append(
            section(
                "GiB a GPU by number of GPUs (activations by formula, not calibrated on a GPU)",
                table(_memory(plan.memory_by_gpus)),
            )
        )
    scale = plan.scale
    subtitle = f"The plan at scale {scale}, as of scaling plan {plan.study} scale={scale}."
    return page(plan.study, subtitle, parts)


def _two_columns(rows: Sequence[tuple[str, str]]) -> str:
    """Return (name, text) as a table without a head."""
    body = "".join(
        f'<tr><td class="text">{escape(name)}</td><td class="text">{escape(text)}</td></tr>'
        for name, text in rows
    )
    return f"<table><tbody>{body}</tbody></table>"


def _figures(grids: Sequence[Grid]) -> list[str]:
    """Return a figure of each grid and a line on each of those too small or too many to draw."""
    large = [grid for grid in grids[1:MOST_FIGURES] if grid.num_runs >= FEW_RUNS]
    drawn = [_figure(grid, index) for index, grid in enumerate([*grids[:1], *large])]
    rest = [grid for grid in grids[1:] if grid not in large]
    return drawn + [hint(_in_words(grid)) for grid in rest]


def _figure(grid: Grid, index: int) -> str:
    with style():
        drawn, marks = draw_grid(grid, prefix=f"grid{index}")
        stream = io.StringIO()
        drawn.savefig(stream, format="svg", metadata={"Date": None})
    narrow = drawn.get_figwidth() < 8
    return figure(stream.getvalue(), _caption(grid), narrow=narrow, hover=Hover(marks=marks))


def _in_words(grid: Grid) -> str:
    axes = [f"{name} {value}" for name, value in grid.fixed.items()]
    axes += [f"{axis.name} {', '.join(axis.labels)}" for axis in grid.axes]
    return f"Beside this grid: {grid.num_runs:,} runs at {'; '.join(dict.fromkeys(axes))}."


def _caption(grid: Grid) -> str:
    """Say what the marks are."""
    counts = sorted({len(cell.run_ids) for cell in grid.cells})
    if counts == [1]:
        first = "Each mark is one run"
    elif len(counts) == 1:
        first = f"Each mark is {counts[0]} runs (seeds)"
    else:
        first = f"A mark is one run, or the number beside it (up to {counts[-1]:,})"
    if len(grid.axes) > 3:
        first = "Each line is one point of the grid, drawn a little beside its level"
    costs = [cell.mean_cost for cell in grid.cells]
    alike = max(costs) <= 1.001 * min(costs)
    each = f"every run costs {costs[0]:,.4g} {grid.unit}" if alike else f"colour: {grid.unit}"
    shape = "; shape: state" if len(grid.axes) < 4 else ""
    text = f"{first}{shape}; {each}."
    if grid.unit == "GPU-hours" and len(grid.axes) < 3:
        text += " Whiskers: the interval of the estimate."
    if grid.fixed:
        text += f" Fixed: {', '.join(f'{k} {v}' for k, v in grid.fixed.items())}."
    return text


def _totals(totals: Totals) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    if totals.gpu_hours is not None:
        low, high = totals.gpu_hours_low, totals.gpu_hours_high
        hours = f"{totals.gpu_hours:,.0f} ({low:,.0f} to {high:,.0f})"
        rows += [("GPU-hours", hours)]
    return [*rows, ("checkpoints and features kept", f"{totals.disk_gib:,.1f} GiB")]


def _runs(rows: Sequence[Run]) -> list[str]:
    """Return the table of runs and a line on those that it leaves out."""
    on_gpu = any(row.gpu_hours is not None for row in rows)
    shown = [_run(row, on_gpu=on_gpu) for row in rows[:MOST_ROWS]]
    left = len(rows) - MOST_ROWS
    more = [hint(f"{left:,} more; scaling plan --json has them all.")] if left > 0 else []
    return [*more, table(shown, sortable=True)]


def _run(row: Run, *, on_gpu: bool) -> dict[str, Scalar]:
    found: dict[str, Scalar] = {
        "run_id": row.run_id,
        "state": row.state,
        **{name: label(v) if isinstance(v, list | dict) else v for name, v in row.axes.items()},
        "seed": row.seed,
        "parameters": row.num_params_total,
        "samples": row.num_samples_seen,
        "episodes": row.num_unique_episodes,
        "sources": row.num_domains,
        "FLOPs": row.compute_flops,
    }
    if on_gpu:
        found |= {
            "GPUs": row.num_gpus,
            "GiB/GPU": row.memory_gib_per_gpu,
            "GPU-hours": row.gpu_hours,
            "low": row.gpu_hours_low,
            "high": row.gpu_hours_high,
        }
    return found


def _memory(rows: Sequence[Memory]) -> list[dict[str, Scalar]]:
    """Return a row a size, a column a number of GPUs."""
    found: dict[str, dict[str, Scalar]] = {}
    for row in rows:
        first: dict[str, Scalar] = {"size": row.size, "micro-batch": row.micro_batch}
        found.setdefault(row.size, first)[str(row.gpus)] = round(row.total, 1)
    return list(found.values())
