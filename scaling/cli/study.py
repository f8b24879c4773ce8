"""Verbs on a study and its runs: submit, status, logs, cancel, retry, prune, sync."""

import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from scaling.cli.arguments import (
    as_json,
    declared,
    expand,
    option,
    print_news,
    progress_bar,
    progress_of,
    publish,
    runs_folder,
    show,
    tracking_uri,
    untracked,
    warn,
)
from scaling.spec import RunSpec

if TYPE_CHECKING:
    from rich.console import Group

    from jobs.cluster import Cluster
    from jobs.executor import HandedOver, Order, Submitted
    from jobs.status import StudyStatus

WATCH_EVERY_S = 2.0
STUDY_VERBS = ("sync", "export", "fit", "report", "best")  # what --then may chain


def submit(arguments: Namespace) -> int:
    """Run what is not done: here, then publish to MLflow; or hand it to a cluster."""
    from jobs.cluster import load_cluster
    from jobs.executor import Worked, executor_of

    specs, folder = declared(arguments), runs_folder(arguments)
    cluster = load_cluster(arguments.on)
    order = _order(arguments, folder, cluster)
    if not order.dry_run:
        _warn_of_other_code(specs, folder)
    found = executor_of(cluster).submit(specs, folder, cluster, order)
    if isinstance(found, Worked):
        publish(specs, folder, quiet=arguments.json)
    show(arguments, found, _render_submitted)
    return 1 if isinstance(found, Worked) and not found.is_through else 0


def _order(arguments: Namespace, folder: Path, cluster: "Cluster") -> "Order":
    """Return what the words ask for beside the runs; raise ValueError for a word of --then."""
    from jobs.executor import Order
    from scaling.cli.publisher import published_live

    parallel = arguments.parallel
    # The background process is this command without --detach, so that it publishes too.
    words = ["submit", arguments.study, *arguments.overrides, f"--runs={folder}"]
    words += [f"--parallel={parallel or os.cpu_count() or 1}"]
    return Order(
        parallel=parallel,
        price=_pricer(folder, cluster),
        max_gpu_hours=option(arguments, "max_gpu_hours"),
        then=_chained(arguments, folder),
        dry_run=bool(option(arguments, "dry_run")),
        progress=progress_of(arguments),
        background=[sys.executable, "-m", "scaling", *words] if arguments.detach else None,
        meanwhile=lambda: published_live(arguments.study, arguments.overrides, folder),
    )


def _chained(arguments: Namespace, folder: Path) -> list[list[str]]:
    """Return the commands that --then chains behind the study."""
    from xvla.domains import domain_id

    shared = [*arguments.overrides, f"--runs={folder}"]
    then = chain_commands(option(arguments, "then") or "", arguments.study, shared)
    for words in then:
        if "--domain" in words:
            domain_id(words[words.index("--domain") + 1])  # refuses an unknown one
    return then


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


def status(arguments: Namespace) -> int:
    """Print the state of every run of a study; with --watch until nothing runs or waits."""
    specs, folder = expand(arguments), runs_folder(arguments)
    found = _status(specs, folder, arguments.select)
    if not found.runs and arguments.select:
        _refuse_selector(arguments.select, specs, folder)
    if arguments.watch:
        found = _watch(specs, folder, arguments.select, quiet=arguments.json)
    if arguments.json or not arguments.watch:
        show(arguments, found, lambda shown: _render_status(shown, folder))
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


def cancel(arguments: Namespace) -> int:
    """Stop running and queued runs."""
    from jobs.control import cancel as stop

    show(arguments, stop(_selected(arguments), runs_folder(arguments)), as_json)
    return 0


def retry(arguments: Namespace) -> int:
    """Clear failures."""
    from jobs.control import retry as clear

    show(arguments, clear(_selected(arguments), runs_folder(arguments)), as_json)
    return 0


def prune(arguments: Namespace) -> int:
    """Delete checkpoints that nothing will ask for again; only list them without --yes."""
    from jobs.prune import prune as thin
    from jobs.prune import render_pruned

    document = thin(_selected(arguments), runs_folder(arguments), really=arguments.yes)
    show(arguments, document, render_pruned)
    return 0


def logs(arguments: Namespace) -> int:
    """Print a run's log; with --json as one document, at its end if it is followed."""
    from jobs.control import find_run
    from scaling.cli.run_log import print_log

    run = find_run(arguments.run_id, runs_folder(arguments))
    if not option(arguments, "json"):
        print_log(run, sys.stdout, follow=arguments.follow)
        return 0
    stream = StringIO()
    print_log(run, stream, follow=arguments.follow)
    lines = stream.getvalue().splitlines()
    show(arguments, {"run_id": run.run_id, "log": str(run.log_file), "lines": lines}, str)
    return 0


def sync(arguments: Namespace) -> int:
    """Publish a study to MLflow."""
    from scaling.tracking.publish import publish as send

    specs, folder = expand(arguments), runs_folder(arguments)
    uri = arguments.tracking_uri or tracking_uri(folder)
    summary = send(
        specs,
        folder,
        tracking_uri=uri,
        track=untracked if arguments.json else progress_bar,
        say=print_news,
        follow=arguments.follow,
    )
    warn(summary.problems)
    show(arguments, summary.to_dict(), as_json)
    return 0


def _render_submitted(found: "Submitted") -> str:
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


def _selected(arguments: Namespace) -> list[RunSpec]:
    """Return the runs of the study that match --select; raise ValueError when none does."""
    specs, folder = expand(arguments), runs_folder(arguments)
    selector = option(arguments, "select") or ""
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
            made_by = run.environment().get("code_digest", now)
            if not same_runs(made_by, now, precision=spec.precision):
                others.append(f"{spec.run_id} ({made_by})")
    if others:
        print(
            f"warning: {len(others)} done runs were made by other code than {now}: "
            f"{', '.join(others[:5])}; they are kept, delete their folders to run them again",
            file=sys.stderr,
        )
