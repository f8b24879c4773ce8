"""Verbs on a study and its runs: plan, submit, status, logs, cancel, retry, train, sync."""

import os
import sys
import time
from argparse import Namespace
from collections import Counter
from typing import Any

from scaling.commands.common import as_json, expand, publish, runs_folder, show, tracking_uri


def plan(arguments: Namespace) -> int:
    """Print a row a run and the totals; with --on, wall hours under a cluster's GPU ceiling."""
    from jobs.cluster import load_cluster
    from jobs.resources import plan as make_plan
    from jobs.resources import render_plan
    from scaling.describe import describe

    cluster = load_cluster(_option(arguments, "on") or "local")
    document = make_plan(
        expand(arguments),
        runs_folder(arguments),
        describe,
        max_gpus=cluster.max_gpus or None,
        peak_tflops=cluster.peak_tflops,
    )
    if arguments.json:  # its keys are fixed; the table over GPU counts is for people
        document.pop("memory_by_gpus")
    show(arguments, document, render_plan)
    return 0


def submit(arguments: Namespace) -> int:
    """Run what is not done: here, then publish to MLflow; or hand it to a cluster."""
    from jobs.cluster import load_cluster

    specs, folder = _some(arguments), runs_folder(arguments)
    cluster = load_cluster(arguments.on)
    if cluster.backend == "slurm":
        return _submit_to_slurm(arguments, specs, cluster)
    given = [name for name in ("max_gpu_hours", "dry_run", "then") if _option(arguments, name)]
    if given:
        raise ValueError(f"--{given[0].replace('_', '-')} needs a Slurm cluster; give --on CLUSTER")
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
    from scaling.commands.live import published_live

    with published_live(arguments.study, arguments.overrides, folder):
        summary = run_here(specs, folder, parallel=parallel, progress=not arguments.json)
    publish(specs, folder, quiet=arguments.json)
    show(arguments, summary, _render_submitted)
    return 1 if summary["interrupted"] or summary["done"] < summary["submitted"] else 0


def _submit_to_slurm(arguments: Namespace, specs: list[Any], cluster: Any) -> int:
    from jobs.chain import chain_commands
    from jobs.resources import plan as make_plan
    from jobs.slurm import submit as hand_over
    from scaling.describe import describe

    folder = runs_folder(arguments)
    shared = [*arguments.overrides, f"--runs={folder}"]
    then = chain_commands(_option(arguments, "then") or "", arguments.study, shared)

    def price(todo: list[Any]) -> float | None:
        document = make_plan(todo, folder, describe, peak_tflops=cluster.peak_tflops)
        return document["totals"]["gpu_hours"]

    summary = hand_over(
        specs,
        folder,
        cluster,
        parallel=arguments.parallel,
        price=price,
        max_gpu_hours=_option(arguments, "max_gpu_hours"),
        then=then,
        dry_run=bool(_option(arguments, "dry_run")),
    )
    _warn_of_other_code(specs, folder)
    show(arguments, summary, _render_handed_over)
    return 0


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


def _some(arguments: Namespace) -> list[Any]:
    """Return the runs of the study; raise ValueError when it has none."""
    specs = expand(arguments)
    if not specs:
        raise ValueError(
            f"study {arguments.study} declares no runs with {' '.join(arguments.overrides) or 'it'}"
            "; nothing to submit"
        )
    return specs


def _selected(arguments: Namespace) -> list[Any]:
    """Return the runs of the study that match --select."""
    from jobs.control import select
    from jobs.status import study_status

    specs = expand(arguments)
    selector = _option(arguments, "select") or ""
    if not selector:
        return specs
    rows = study_status(specs, runs_folder(arguments))["runs"]
    chosen = {row["run_id"] for row in select(rows, selector, specs)}
    return [spec for spec in specs if spec.run_id in chosen]


def _warn_of_other_code(specs: list[Any], folder: Any) -> None:
    """Say which finished runs were made by other sources than these; they are kept."""
    from jobs.folder import DONE, read_json, run_folder
    from scaling.code_digest import code_digest

    now, others = code_digest(), []
    for spec in specs:
        run_dir = run_folder(folder, spec.run_id)
        if (run_dir / DONE).exists():
            made_by = (read_json(run_dir / "env.json") or {}).get("code_digest", now)
            others += [f"{spec.run_id} ({made_by})"] if made_by != now else []
    if others:
        print(
            f"warning: {len(others)} done runs were made by other code than {now}: "
            f"{', '.join(others[:5])}; they are kept, delete their folders to run them again",
            file=sys.stderr,
        )


def _option(arguments: Namespace, name: str) -> Any:
    return getattr(arguments, name, None)
