"""Verbs on a study and its runs: submit, status, logs, cancel, retry, prune, sync."""

import os
import sys
import time
from argparse import Namespace
from collections import Counter
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
    publish,
    runs_folder,
    show,
    tracking_uri,
    warn,
)

if TYPE_CHECKING:
    from rich.console import Group

    from jobs.cluster import Cluster
    from jobs.executor import Order

WATCH_EVERY_S = 2.0
STUDY_VERBS = ("sync", "export", "fit", "report", "best")  # what --then may chain


def submit(arguments: Namespace) -> int:
    """Run what is not done: here, then publish to MLflow; or hand it to a cluster."""
    from jobs.cluster import load_cluster
    from jobs.executor import executor_of

    specs, folder = declared(arguments), runs_folder(arguments)
    cluster = load_cluster(arguments.on)
    order = _order(arguments, folder, cluster)
    if not order.dry_run:
        _warn_of_other_code(specs, folder)
    summary = executor_of(cluster).submit(specs, folder, cluster, order)
    worked_here = "interrupted" in summary
    if worked_here:
        publish(specs, folder, quiet=arguments.json)
    show(arguments, summary, _render_handed_over if "arrays" in summary else _render_submitted)
    unfinished = worked_here and summary["done"] < summary["submitted"]
    return 1 if unfinished or summary.get("interrupted") else 0


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
        progress=not arguments.json,
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


def _pricer(folder: Path, cluster: "Cluster") -> Callable[[list[Any]], float | None]:
    """Return what gives the GPU-hours of runs as `scaling plan` has them, None on CPU."""
    from jobs.plan import plan as make_plan
    from scaling.cost import describe

    def price(todo: list[Any]) -> float | None:
        document = make_plan(todo, folder, describe, peak_tflops=cluster.peak_tflops)
        return document["totals"]["gpu_hours"]

    return price


def status(arguments: Namespace) -> int:
    """Print the state of every run of a study; with --watch until nothing runs or waits."""
    specs, folder = expand(arguments), runs_folder(arguments)
    document = _look(specs, folder, arguments.select)
    if not document["runs"] and arguments.select:
        _refuse_selector(arguments.select, specs, folder)
    if arguments.watch:
        document = _watch(lambda: _look(specs, folder, arguments.select), quiet=arguments.json)
    if arguments.json:
        document.pop("chain", None)  # the document's keys are fixed
    if arguments.json or not arguments.watch:
        show(arguments, document, _render_status)
    return 0


def _render_status(document: dict[str, Any], max_rows: int | None = None) -> "Group":
    from rich.console import Group
    from rich.text import Text

    from jobs.status import render_links, render_status

    table = render_status(document, max_rows=max_rows)
    return Group(table, *(Text(line) for line in render_links(document.get("chain", []))))


def _look(specs: list[Any], folder: Path, selector: str) -> dict[str, Any]:
    """Return the status of the runs that match; under "chain" what waits behind the study."""
    from jobs.control import select
    from jobs.status import study_links, study_status

    document = study_status(specs, folder)
    document["runs"] = select(document["runs"], selector, specs)
    document["counts"] = dict(Counter(row["state"] for row in document["runs"]))
    if chain := study_links(folder, document["study"]):
        document["chain"] = chain
    return document


def _watch(look: Callable[[], dict[str, Any]], *, quiet: bool) -> dict[str, Any]:
    """Look until nothing runs or waits, showing each look in place; return the last one."""
    from rich.console import Console
    from rich.live import Live

    # Piped output gets the tables one below another, and has no width of its own.
    console = Console(width=None if sys.stdout.isatty() else 140, quiet=quiet)
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None
    with live or nullcontext():
        while True:
            document = look()
            if live:
                rows = max(5, console.height - 8)
                live.update(_render_status(document, max_rows=rows), refresh=True)
            else:
                console.print(_render_status(document))
            if not any(row["state"] in ("queued", "running") for row in document["runs"]):
                return document
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
    from jobs.control import logs as print_log

    folder, as_document = runs_folder(arguments), option(arguments, "json")
    stream = StringIO() if as_document else None
    print_log(arguments.run_id, folder, follow=arguments.follow, stream=stream)
    if stream:
        run = find_run(arguments.run_id, folder)
        place = {"run_id": run.run_id, "log": str(run.log_file)}
        show(arguments, {**place, "lines": stream.getvalue().splitlines()}, str)
    return 0


def sync(arguments: Namespace) -> int:
    """Publish a study to MLflow."""
    from scaling.cost import describe
    from scaling.tracking.publish import publish as send

    specs, folder = expand(arguments), runs_folder(arguments)
    uri = arguments.tracking_uri or tracking_uri(folder)
    document = send(
        specs,
        folder,
        tracking_uri=uri,
        describe=describe,
        progress=not arguments.json,
        follow=arguments.follow,
    )
    warn(document.get("problems", ()))
    show(arguments, document, as_json)
    return 0


def _render_submitted(summary: dict[str, Any]) -> str:
    names = ("submitted", "done", "skipped_done", "failed", "preempted")
    counts = ", ".join(f"{summary[name]} {name}" for name in names if summary.get(name) is not None)
    return f"{summary['study']}: {counts}"


def _render_handed_over(summary: dict[str, Any]) -> str:
    verb = "would submit" if summary["dry_run"] else "submitted"
    lines = [
        f"{summary['study']}: {verb} {summary['submitted']} runs to {summary['cluster']}, "
        f"{summary['skipped_done']} done, {summary['skipped_running']} queued or running"
    ]
    if summary["gpu_hours"]:
        lines.append(f"about {summary['gpu_hours']:,.0f} GPU-hours")
    for array in summary["arrays"]:
        shape = f"{array['nodes']} node(s) x {array['gpus_per_node']} GPUs"
        limit = f", {array['limit']} at once" if array["limit"] else ""
        job = f"job {array['job_id']}: " if array["job_id"] else ""
        lines.append(f"  {job}{array['name']}, {array['runs']} runs, {shape}{limit}")
        lines += [array["script"]] if "script" in array else []
    lines += [f"  job {link['job_id']}: then {link['command']}" for link in summary["chain"]]
    return "\n".join(lines)


def _selected(arguments: Namespace) -> list[Any]:
    """Return the runs of the study that match --select; raise ValueError when none does."""
    specs, folder = expand(arguments), runs_folder(arguments)
    selector = option(arguments, "select") or ""
    if not selector:
        return specs
    chosen = {row["run_id"] for row in _look(specs, folder, selector)["runs"]}
    if not chosen:
        _refuse_selector(selector, specs, folder)
    return [spec for spec in specs if spec.run_id in chosen]


def _refuse_selector(selector: str, specs: list[Any], folder: Path) -> NoReturn:
    """Raise ValueError for a selector that matches nothing: what there is, and the keys."""
    from jobs.control import LABELS

    document = _look(specs, folder, "")
    rows = document["runs"]
    keys = sorted({*LABELS, *(name for row in rows for name in (*row, *row["axes"]))} - {"axes"})
    states = ", ".join(f"{count} {state}" for state, count in document["counts"].items())
    raise ValueError(
        f"--select {selector!r} matches none of {len(rows)} runs ({states or 'none at all'}); "
        f"keys: {', '.join(keys)}"
    )


def _warn_of_other_code(specs: list[Any], folder: Any) -> None:
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
