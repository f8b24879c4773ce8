"""Verbs on a study and its runs: submit, status, logs, cancel, retry, prune, sync."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from scaling.cli.arguments import (
    Asked,
    as_json,
    print_news,
    progress_bar,
    publish,
    store_of,
    untracked,
    warn,
)
from scaling.spec import RunSpec
from xvla.config import DataConfig, DomainEntry

if TYPE_CHECKING:
    from rich.console import Group

    from jobs.cluster import Cluster
    from jobs.executor import HandedOver, Submitted
    from jobs.status import StudyStatus

WATCH_EVERY_S = 2.0
STUDY_VERBS = ("sync", "export", "fit", "report", "best")  # what --then may chain


def submit(
    asked: Asked,
    *,
    on: str,
    parallel: int,
    detach: bool = False,
    max_gpu_hours: float | None = None,
    dry_run: bool = False,
    then: str | None = None,
) -> int:
    """Run what is not done: here, then publish to MLflow; or hand it to a cluster."""
    from jobs.cluster import load_cluster
    from jobs.executor import Order, Worked, executor_of
    from scaling.cli.publisher import published_live

    specs, folder = asked.declared(), asked.folder
    cluster = load_cluster(on)
    order = Order(
        parallel=parallel,
        price=_pricer(folder, cluster),
        max_gpu_hours=max_gpu_hours,
        then=_chained(asked, then or "", specs[0].data),
        dry_run=dry_run,
        progress=asked.progress,
        background=_background(asked, parallel) if detach else None,
        meanwhile=lambda: published_live(asked.study, asked.overrides, folder),
    )
    if not dry_run:
        _warn_of_other_code(specs, folder)
    found = executor_of(cluster).submit(specs, folder, cluster, order)
    if isinstance(found, Worked):
        publish(specs, folder, quiet=asked.json)
    asked.show(found, render_submitted)
    return 1 if isinstance(found, Worked) and not found.is_through else 0


def _background(asked: Asked, parallel: int) -> list[str]:
    """Return this command without --detach: the background process publishes too."""
    words = ["submit", asked.study, *asked.overrides, f"--runs={asked.folder}"]
    words += [f"--parallel={parallel or os.cpu_count() or 1}"]
    return [sys.executable, "-m", "scaling", *words]


def _chained(asked: Asked, then: str, data: DataConfig) -> list[list[str]]:
    """Return the commands that --then chains behind the study; ValueError for a wrong word."""
    from xvla.domains import check_folders

    commands = chain_commands(then, asked.study, [*asked.overrides, f"--runs={asked.folder}"])
    for words in commands:
        if "--domain" in words:
            entry = DomainEntry(name=words[words.index("--domain") + 1])
            check_folders(replace(data, mixture=[entry]))
    return commands


def chain_commands(then: str, study: str, shared: Sequence[str]) -> list[list[str]]:
    """Return the `scaling` commands of e.g. "sync,fit,report,finetune:sim_xarm7".

    `shared`: overrides and options that every command on the study gets; finetune gets the options,
    and starts from the best checkpoint of the study with these overrides. Raises ValueError for
    another word.
    """
    commands = []
    for word in filter(None, (part.strip() for part in then.split(","))):
        verb, _, domain = word.partition(":")
        if verb == "finetune" and domain:
            options = [item for item in shared if item.startswith("--")]
            words = [item for item in shared if not item.startswith("--")]
            source = ",".join([f"best:{study}", *words])
            commands.append([verb, "--from", source, "--domain", domain, *options])
        elif verb in STUDY_VERBS and not domain:
            commands.append([verb, study, *shared])
        else:
            raise ValueError(
                f"--then {word!r} cannot be chained; allowed: {', '.join(STUDY_VERBS)} and "
                "finetune:DOMAIN, separated by commas"
            )
    return commands


def _pricer(folder: Path, cluster: "Cluster") -> Callable[[list[RunSpec]], float | None]:
    """Return what gives the GPU-hours of runs as `scaling plan` has them, None on CPU."""
    from jobs.plan import plan as make_plan

    def price(todo: list[RunSpec]) -> float | None:
        return make_plan(todo, folder, peak_tflops=cluster.peak_tflops).totals.gpu_hours

    return price


def status(asked: Asked, *, select: str, watch: bool) -> int:
    """Print the state of every run of a study; with --watch until nothing runs or waits."""
    specs, folder = asked.expand(), asked.folder
    found = _status(specs, folder, select)
    if not found.runs and select:
        _refuse_selector(select, specs, folder)
    if watch:
        found = _watch(specs, folder, select, quiet=asked.json)
    if asked.json or not watch:
        asked.show(found, lambda shown: _render_status(shown, folder))
    return 0


def _render_status(status: "StudyStatus", folder: Path, max_rows: int | None = None) -> "Group":
    """Return the table of the runs, and below it what waits behind the study."""
    from rich.console import Group
    from rich.text import Text

    from jobs.status import study_links
    from scaling.cli.status_table import render_links, render_status

    links = study_links(folder, status.study)
    table = render_status(status, max_rows=max_rows)
    return Group(table, *(Text(line) for line in render_links(links)))


def _status(specs: list[RunSpec], folder: Path, selector: str) -> "StudyStatus":
    """Return the status of the runs that match."""
    from jobs.control import select
    from jobs.status import study_status, with_rows

    found = study_status(specs, folder)
    return with_rows(found.study, select(found.runs, selector, specs))


def _watch(specs: list[RunSpec], folder: Path, selector: str, *, quiet: bool) -> "StudyStatus":
    """Ask until nothing runs or waits, showing each answer in place; return the last one."""
    from rich.console import Console
    from rich.live import Live

    # Piped output gets the tables one below another, and has no width of its own.
    console = Console(width=None if sys.stdout.isatty() else 140, quiet=quiet)
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None
    with live or nullcontext():
        while True:
            found = _status(specs, folder, selector)
            if live:
                rows = max(5, console.height - 8)
                live.update(_render_status(found, folder, max_rows=rows), refresh=True)
            else:
                console.print(_render_status(found, folder))
            if not any(row.state in ("queued", "running") for row in found.runs):
                return found
            time.sleep(WATCH_EVERY_S)


def cancel(asked: Asked, *, select: str) -> int:
    """Stop running and queued runs."""
    from jobs.control import cancel as stop

    asked.show(stop(_selected(asked, select), asked.folder), as_json)
    return 0


def retry(asked: Asked, *, select: str) -> int:
    """Clear failures."""
    from jobs.control import retry as clear

    asked.show(clear(_selected(asked, select), asked.folder), as_json)
    return 0


def prune(asked: Asked, *, select: str, yes: bool) -> int:
    """Delete checkpoints that nothing will ask for again; only list them without --yes."""
    from jobs.prune import prune as thin
    from jobs.prune import render_pruned

    asked.show(thin(_selected(asked, select), asked.folder, really=yes), render_pruned)
    return 0


def logs(asked: Asked, *, run_id: str, follow: bool) -> int:
    """Print a run's log; with --json as one document, at its end if it is followed."""
    from jobs.control import find_run
    from scaling.cli.run_log import print_log

    run = find_run(run_id, asked.folder)
    if not asked.json:
        print_log(run, sys.stdout, follow=follow)
        return 0
    stream = StringIO()
    print_log(run, stream, follow=follow)
    lines = stream.getvalue().splitlines()
    asked.show({"run_id": run.run_id, "log": str(run.log_file), "lines": lines}, str)
    return 0


def sync(asked: Asked, *, tracking_uri: str | None, follow: bool) -> int:
    """Publish a study to MLflow."""
    from scaling.tracking.publish import publish as send

    summary = send(
        asked.expand(),
        asked.folder,
        tracking_uri=tracking_uri or store_of(asked.folder),
        track=untracked if asked.json else progress_bar,
        say=print_news,
        follow=follow,
    )
    warn(summary.problems or ())
    asked.show(summary, as_json)
    return 0


def render_submitted(found: "Submitted") -> str:
    """Return one line of what became of a submission, and one for each job of a queue."""
    from jobs.executor import HandedOver, Worked

    if isinstance(found, HandedOver):
        return _render_handed_over(found)
    counts = {"submitted": found.submitted}
    if isinstance(found, Worked):
        counts["done"] = found.done
    counts["skipped_done"] = found.skipped_done
    if isinstance(found, Worked):
        counts |= {"failed": found.failed, "preempted": found.preempted}
    return f"{found.study}: {', '.join(f'{count} {name}' for name, count in counts.items())}"


def _render_handed_over(found: "HandedOver") -> str:
    verb = "would submit" if found.dry_run else "submitted"
    lines = [
        f"{found.study}: {verb} {found.submitted} runs to {found.cluster}, "
        f"{found.skipped_done} done, {found.skipped_running} queued or running"
    ]
    if found.gpu_hours:
        lines.append(f"about {found.gpu_hours:,.0f} GPU-hours")
    for array in found.arrays:
        shape = f"{array.nodes} node(s) x {array.gpus_per_node} GPUs"
        limit = f", {array.limit} at once" if array.limit else ""
        job = f"job {array.job_id}: " if array.job_id else ""
        lines.append(f"  {job}{array.name}, {array.runs} runs, {shape}{limit}")
        lines += [array.script] if array.script else []
    lines += [f"  job {link.job_id}: then {link.command}" for link in found.chain]
    return "\n".join(lines)


def _selected(asked: Asked, selector: str) -> list[RunSpec]:
    """Return the runs of the study that match --select; raise ValueError when none does."""
    specs, folder = asked.expand(), asked.folder
    if not selector:
        return specs
    chosen = {row.run_id for row in _status(specs, folder, selector).runs}
    if not chosen:
        _refuse_selector(selector, specs, folder)
    return [spec for spec in specs if spec.run_id in chosen]


def _refuse_selector(selector: str, specs: list[RunSpec], folder: Path) -> NoReturn:
    """Raise ValueError for a selector that matches nothing: what there is, and the keys."""
    from jobs.control import selector_keys

    found = _status(specs, folder, "")
    states = ", ".join(f"{count} {state}" for state, count in found.counts.items())
    raise ValueError(
        f"--select {selector!r} matches none of {len(found.runs)} runs ({states or 'none at all'});"
        f" keys: {', '.join(selector_keys(found.runs))}"
    )


def _warn_of_other_code(specs: list[RunSpec], folder: Any) -> None:
    """Say which finished runs were made by other sources than these; they are kept."""
    from scaling.code_digest import code_digest, same_runs
    from scaling.runs.folder import Run

    now, others = code_digest(), []
    for spec in specs:
        run = Run.of(folder, spec.run_id)
        if run.done_file.exists():
            made_by = run.environment().code_digest or now
            if not same_runs(made_by, now, precision=spec.precision):
                others.append(f"{spec.run_id} ({made_by})")
    if others:
        print(
            f"warning: {len(others)} done runs were made by other code than {now}: "
            f"{', '.join(others[:5])}; they are kept, delete their folders to run them again",
            file=sys.stderr,
        )
