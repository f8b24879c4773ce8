"""Verbs on a study and its runs: plan, submit, status, logs, cancel, retry, train, sync."""

import os
import sys
import time
from argparse import Namespace
from collections import Counter
from typing import Any

from scaling.commands.common import as_json, expand, publish, runs_folder, show, tracking_uri


def plan(arguments: Namespace) -> int:
    """Print a row a run and the totals."""
    from jobs.resources import plan as make_plan
    from jobs.resources import render_plan
    from scaling.describe import describe

    document = make_plan(expand(arguments), runs_folder(arguments), describe)
    show(arguments, document, render_plan)
    return 0


def submit(arguments: Namespace) -> int:
    """Run what is not done, then publish to MLflow."""
    if arguments.on != "local":
        raise ValueError(f"--on {arguments.on!r} is not a known cluster; allowed: local")
    specs, folder = expand(arguments), runs_folder(arguments)
    parallel = arguments.parallel or os.cpu_count() or 1
    if arguments.detach:
        from jobs.detach import submit_detached

        # The background process is this command without --detach, so that it publishes too.
        words = ["submit", arguments.study, *arguments.overrides, f"--parallel={parallel}"]
        command = [sys.executable, "-m", "scaling", *words, f"--runs={folder}"]
        summary = submit_detached(specs, folder, parallel=parallel, command=command)
        show(arguments, summary, _render_submitted)
        return 0
    from jobs.local import submit as run_here

    summary = run_here(specs, folder, parallel=parallel, progress=not arguments.json)
    publish(specs, folder, quiet=arguments.json)
    show(arguments, summary, _render_submitted)
    return 1 if summary["interrupted"] or summary["done"] < summary["submitted"] else 0


def status(arguments: Namespace) -> int:
    """Print the state of every run of a study."""
    from jobs.control import select
    from jobs.status import render_status, study_status

    specs, folder = expand(arguments), runs_folder(arguments)
    while True:
        document = study_status(specs, folder)
        document["runs"] = select(document["runs"], arguments.select, specs)
        document["counts"] = dict(Counter(row["state"] for row in document["runs"]))
        active = any(row["state"] in ("queued", "running") for row in document["runs"])
        again = arguments.watch and active
        if not (again and arguments.json):  # stdout is one document
            show(arguments, document, render_status)
        if not again:
            return 0
        time.sleep(2)


def cancel(arguments: Namespace) -> int:
    """Stop running and queued runs."""
    from jobs.control import cancel as stop

    show(arguments, stop(expand(arguments), runs_folder(arguments)), as_json)
    return 0


def retry(arguments: Namespace) -> int:
    """Clear failures."""
    from jobs.control import retry as clear

    show(arguments, clear(expand(arguments), runs_folder(arguments)), as_json)
    return 0


def logs(arguments: Namespace) -> int:
    """Print a run's log."""
    from jobs.control import logs as print_log

    print_log(arguments.run_id, runs_folder(arguments), follow=arguments.follow)
    return 0


def train(arguments: Namespace) -> int:
    """Advance one run; 85 when stopped on a signal and resumable."""
    from scaling.train import main

    return main([arguments.run_yaml, *arguments.overrides])


def sync(arguments: Namespace) -> int:
    """Publish a study to MLflow."""
    from scaling.describe import describe
    from scaling.tracking import publish as send

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
    show(arguments, document, as_json)
    return 0


def _render_submitted(summary: dict[str, Any]) -> str:
    names = ("submitted", "done", "skipped_done", "failed", "preempted")
    counts = ", ".join(f"{summary[name]} {name}" for name in names if summary.get(name) is not None)
    return f"{summary['study']}: {counts}"
