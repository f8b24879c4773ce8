"""Publishes studies to MLflow from their run folders: the only writer there, safe to run again."""

import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.mlflow_client import (
    TrackingError,
    connect,
    database_path,
    get_experiment,
    locked,
    page,
    shown,
    store_errors,
)
from scaling.records import file_state
from scaling.spec import RunSpec
from scaling.tracking_ledger import Ledger
from scaling.tracking_run import ENDED, Describe, Sweep, mirror_status, publish_run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def publish(
    specs: Iterable[RunSpec],
    runs_dir: str | Path,
    *,
    tracking_uri: str,
    describe: Describe | None = None,
    progress: bool = False,
    follow: bool = False,
    poll_s: float = 5.0,
) -> dict[str, Any]:
    """Bring MLflow up to date with the run folders; doing it twice changes nothing.

    Experiment = study, a parent run for the sweep, a child run (tag `run_key` = run id) for each
    folder that exists. `describe(spec)` gives parameter counts and FLOPs; without it a later call
    adds them. `follow` goes on until every run has ended. Returns {"tracking_uri", "runs",
    "new_runs", "values", "planned", "unfinished", "pages": {study: address of its run table (for a
    database: while the line of `ui_command` runs)}}. Raises TrackingError when the store is away
    (while following: in the first round only, then it warns and tries again).
    """
    runs = list(specs)
    folder = Path(runs_dir)
    total = _publish_once(runs, folder, tracking_uri, describe=describe, progress=progress)
    away = False
    while follow and total["unfinished"] + total["planned"]:
        time.sleep(poll_s)
        try:
            now = _publish_once(runs, folder, tracking_uri, describe=describe, progress=False)
        except TrackingError as error:
            if not away:
                print(f"warning: {error}", file=sys.stderr, flush=True)
            away = True
            continue
        away = False
        total = {**now, **{key: total[key] + now[key] for key in ("new_runs", "values")}}
    return total


def find_run(client: "MlflowClient", spec: RunSpec) -> "Run":
    """Return the published child run of a spec; publish it first.

    Raises LookupError when it is not there.
    """
    experiment = client.get_experiment_by_name(spec.study)
    query = f"tags.run_key = '{spec.run_id}'"
    order = ["attributes.start_time ASC"]
    found = (
        client.search_runs([experiment.experiment_id], query, order_by=order) if experiment else []
    )
    if not found:
        raise LookupError(f"run {spec.run_id} is not in MLflow's experiment {spec.study}")
    return found[0]


def ui_command(tracking_uri: str) -> str:
    """Return the line to type for MLflow's page, or the server's address to open."""
    path = database_path(tracking_uri)
    if path is None:
        return shown(tracking_uri)
    program = _from_here(Path(sys.executable).with_name("mlflow"))
    store = f"sqlite:///{_from_here(path)}"
    line = shlex.join([program, "ui", "--workers", "1", "--backend-store-uri", store])
    # Seven helper processes (1.6 GB) of MLflow's pages for language models stay out.
    return f"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false {line}"


def _publish_once(
    specs: Sequence[RunSpec],
    runs_dir: Path,
    tracking_uri: str,
    *,
    describe: Describe | None,
    progress: bool,
) -> dict[str, Any]:
    ids = {spec.run_id: spec for spec in specs}
    started = {key: spec for key, spec in ids.items() if file_state(runs_dir / key) != "planned"}
    total: dict[str, Any] = {
        "tracking_uri": shown(tracking_uri),
        "runs": len(started),
        "new_runs": 0,
        "values": 0,
        "planned": len(ids) - len(started),
        "unfinished": 0,
        "pages": {},
    }
    if not started:
        return total
    ledger = Ledger(runs_dir, tracking_uri, described=describe is not None)
    prints = {key: ledger.fingerprint(spec, key) for key, spec in started.items()}
    experiments = ledger.experiments({spec.study for spec in started.values()})
    known = {} if experiments is None else ledger.statuses(prints)
    total["unfinished"] = sum(status not in ENDED for status in known.values())
    if experiments is not None and len(known) == len(prints):
        # Nothing to do: MLflow is not even imported.
        total["pages"] = {name: page(key, tracking_uri) for name, key in experiments.items()}
        return total
    client = connect(tracking_uri)
    by_study = sorted(started.items(), key=lambda item: item[1].study)
    with store_errors(tracking_uri), locked(runs_dir / ".publish.lock"):
        for study, group in groupby(by_study, key=lambda item: item[1].study):
            sweep = _open_sweep(client, study, tracking_uri)
            total["pages"][study] = page(sweep.experiment_id, tracking_uri)
            statuses = {key: run.info.status for key, run in sweep.children.items()}
            runs = dict(group)
            todo = [key for key in runs if key not in known]
            for key in _with_progress(todo, f"MLflow {study}", progress):
                outcome = publish_run(sweep, runs[key], runs_dir / key, describe=describe)
                statuses[key] = outcome.status
                total["values"] += outcome.num_values
                total["new_runs"] += outcome.new
                total["unfinished"] += outcome.status not in ENDED
            mirror_status(client, sweep.parent, _sweep_status(statuses.values()))
            ledger.remember({key: (prints[key], statuses[key]) for key in runs}, [study])
    return total


def _open_sweep(client: "MlflowClient", study: str, tracking_uri: str) -> Sweep:
    experiment_id = get_experiment(client, study, tracking_uri)
    children: dict[str, Run] = {}
    parent = None
    for run in _all_runs(client, experiment_id):
        tags = run.data.tags
        if "run_key" in tags:
            children.setdefault(tags["run_key"], run)
        elif tags.get("sweep") == study:
            parent = parent or run
    if parent is None:
        tags = {"sweep": study, "study": study}
        parent = client.create_run(experiment_id, run_name=f"sweep {study}", tags=tags)
    return Sweep(client=client, experiment_id=experiment_id, parent=parent, children=children)


def _all_runs(client: "MlflowClient", experiment_id: str) -> list["Run"]:
    """Return the runs of an experiment, oldest first."""
    found: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment_id], order_by=["attributes.start_time ASC"], page_token=token
        )
        found.extend(page)
        token = page.token
        if not token:
            return found


def _sweep_status(statuses: Iterable[str]) -> str:
    seen = set(statuses)
    if not seen <= set(ENDED):
        return "RUNNING"
    return "FINISHED" if seen == {"FINISHED"} else "FAILED"


def _with_progress(run_ids: list[str], label: str, wanted: bool) -> Iterable[str]:
    if not wanted:
        return run_ids
    from rich.console import Console
    from rich.progress import track

    return track(run_ids, description=label, console=Console(stderr=True))


def _from_here(path: Path) -> str:
    """Return a path relative to the current directory where it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
