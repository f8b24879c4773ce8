"""The verb that prices a study before it starts: its head, its table, and a page that draws it."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from scaling.cli.arguments import Asked
from scaling.config import write_atomic
from scaling.cost import flops_per_step
from scaling.document import plain
from scaling.spec import RunSpec

if TYPE_CHECKING:
    from rich.console import Group

    from jobs.plan import Plan, Totals
    from scaling.study import Study


def plan(asked: Asked, *, on: str | None, html: str | None, memory: bool) -> int:
    """Print what a study is, a row a run and the totals; with --html, draw its grid as well.

    With --on, wall hours under a cluster's GPU ceiling; with --memory, GiB by number of GPUs in the
    JSON too, whose keys are fixed otherwise.
    """
    from jobs.cluster import load_cluster
    from jobs.plan import plan as make_plan
    from scaling.study import load_study

    page, asked = _page(html, asked)
    specs, folder = asked.declared(), asked.folder
    cluster = load_cluster(on or "local")
    made = make_plan(
        specs, folder, max_gpus=cluster.max_gpus or None, peak_tflops=cluster.peak_tflops
    )
    lines = head(load_study(asked.study), specs, made.totals)
    lines += _wall(made, cluster.max_gpus)
    if page is not None:
        from analysis.pages.plan import plan_page

        usual = folder.parent / "reports" / made.study / f"plan-{made.scale}.html"
        page = page or str(usual)
        write_atomic(page, plan_page(made, lines))
    # The document's keys are fixed; the memory comes when it is asked for, under its own name.
    document = replace(made, memory_by_gpus=None).to_dict()
    if memory:
        document["memory"] = plain(made.memory_by_gpus)
    asked.show(document, lambda _: _render(made, lines))
    if page is not None:
        print(f"page: {page}", file=sys.stderr if asked.json else sys.stdout)
    return 0


def head(study: "Study", specs: Sequence[RunSpec], totals: "Totals") -> list[tuple[str, str]]:
    """Return what a study says of itself, as (name, text): what varies, what does not, seeds."""
    lines = [
        ("study", study.description),
        ("varies", "; ".join(_levels(specs)) or "nothing"),
        ("holds fixed", study.holds_fixed),
        ("seeds", _seeds(specs)),
        ("compared by", ", ".join(study.scores)),
        ("in all", _in_all(specs, totals)),
    ]
    theirs = study.paper_gpu_hours
    if theirs and totals.gpu_hours:
        from jobs.pricing import PEAK_FLOPS

        peak, ours = PEAK_FLOPS[specs[0].precision], totals.gpu_hours
        running = sum(spec.num_steps * flops_per_step(spec) for spec in specs)
        lines.append(
            (
                "the paper's run",
                f"{theirs:,.0f} GPU-hours ({_mfu(totals.compute_flops, theirs, peak)} MFU of an "
                f"A100 by the released code's FLOPs); our estimate {ours:,.0f} "
                f"({_mfu(running, ours, peak)} by those that run here), "
                f"{totals.gpu_hours_low:,.0f} to {totals.gpu_hours_high:,.0f}",
            )
        )
    return lines


def _wall(plan: "Plan", max_gpus: int) -> list[tuple[str, str]]:
    """Return the wall hours with the number of GPUs that they take at once."""
    hours = plan.totals.wall_hours
    if hours is None:
        return []
    if max_gpus:
        return [("wall clock", f"{hours:,.3g} hours on {max_gpus} GPUs")]
    gpus = sum(row.num_gpus for row in plan.runs)
    text = (
        f"{hours:,.3g} hours with all runs at once, {gpus:,} GPUs; --on CLUSTER counts what it has"
    )
    return [("wall clock", text)]


def _in_all(specs: Sequence[RunSpec], totals: "Totals") -> str:
    samples = sum(spec.num_samples_seen for spec in specs)
    seen = f"{samples / 1e6:,.1f}M" if samples >= 1e6 else f"{samples:,}"
    runs = "1 run" if len(specs) == 1 else f"{len(specs):,} runs"
    return f"{runs}, {seen} samples seen, {totals.compute_flops:.3g} FLOPs as released"


def _mfu(flops: float, hours: float, peak: float) -> str:
    """Return the share of a GPU's peak at which the FLOPs that run take `hours`."""
    return f"{flops / (hours * 3600 * peak):.0%}"


def _render(plan: "Plan", lines: Sequence[tuple[str, str]]) -> "Group":
    from rich.console import Group
    from rich.table import Table

    from scaling.cli.plan_table import render_plan

    grid = Table.grid(padding=(0, 2))
    for name, text in lines:
        grid.add_row(name, text)
    return Group(grid, render_plan(plan))


def _levels(specs: Sequence[RunSpec]) -> list[str]:
    """Return each axis that has several values, with them."""
    from analysis.figures.grid import label, levels

    found = levels([spec.axes for spec in specs])
    return [
        f"{name} {', '.join(label(value) for value in values[:12])}"
        + (f", ... ({len(values)})" if len(values) > 12 else "")
        for name, values in found.items()
        if len(values) > 1
    ]


def _seeds(specs: Sequence[RunSpec]) -> str:
    """Return the seeds of initialisation, data order and evaluation, those alike named once."""
    from analysis.figures.grid import label

    triples = [(spec.seeds.init, spec.seeds.data, spec.seeds.eval) for spec in specs]
    together = all(init == data for init, data, _ in triples)
    columns = {
        "initialisation": [init for init, _, _ in triples],
        "data order": [data for _, data, _ in triples],
        "evaluation": [evaluation for _, _, evaluation in triples],
    }
    if together:
        columns["initialisation and data order"] = columns.pop("initialisation")
        del columns["data order"]
    shown = {name: sorted(set(values)) for name, values in columns.items()}
    return "; ".join(
        f"{name} {', '.join(label(v) for v in values[:8])}" + (", ..." if len(values) > 8 else "")
        for name, values in sorted(shown.items(), key=lambda item: item[0] == "evaluation")
    )


def _page(given: str | None, asked: Asked) -> tuple[str | None, Asked]:
    """Return where --html goes (None without it, "" for the usual place) and what was asked.

    An override behind a bare --html is argparse's value of it: it goes where it belongs.
    """
    if not given or given.endswith((".html", ".htm")):
        return given, asked
    if "=" in given:
        return "", replace(asked, overrides=[*asked.overrides, given])
    raise ValueError(f"--html {given!r}: give a file name that ends in .html, or none")
