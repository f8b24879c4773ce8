"""Publishes studies to MLflow from their run folders: the only writer there, safe to run again."""

import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.runs.folder import Run
from scaling.spec import RunSpec
from scaling.tracking.ledger import Ledger
from scaling.tracking.run import ENDED, Describe, mirror_status, publish_run
from scaling.tracking.sqlite import database_path, locked, many_writes
from scaling.tracking.store import connect, page, store_errors, without_password
from scaling.tracking.sweep import log_report, open_sweep, report_mark

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    """What one look at the run folders works on; `total` is counted up and returned."""

    runs_dir: Path
    tracking_uri: str
    describe: Describe | None
    progress: bool
    ledger: Ledger
    total: dict[str, Any]


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
    adds them. A report beside the runs goes to the parent run. `follow` goes on until every run has
    ended. Returns {"tracking_uri", "runs", "new_runs", "values", "planned", "unfinished", "pages":
    {study: address of its run table (for a database: while the line of `ui_command` runs)}} and,
    where files of runs just published are damaged, "problems": a line each. Raises TrackingError
    when the store is away (while following: in the first round only).
    """
    runs, folder = list(specs), Path(runs_dir)
    total = _publish_once(runs, folder, tracking_uri, describe=describe, progress=progress)
    if not (follow and _is_open(total)):
        return total

    def going_on() -> bool:
        time.sleep(poll_s)
        return True

    rest = publish_while(going_on, runs, folder, tracking_uri=tracking_uri, describe=describe)
    return {**rest, **{key: total[key] + rest[key] for key in ("new_runs", "values")}}


def publish_while(
    going_on: Callable[[], bool],
    specs: Iterable[RunSpec],
    runs_dir: str | Path,
    *,
    tracking_uri: str,
    describe: Describe | None = None,
) -> dict[str, Any]:
    """Publish round after round until every run has ended; return what `publish` does.

    `going_on` waits before each round and tells whether there is one. A round that fails, MLflow
    being away or a file half written, is tried again; of such rounds in a row the first warns.
    Without any round that went well the result is empty.
    """
    runs, folder, failed = list(specs), Path(runs_dir), False
    total: dict[str, Any] = {}
    while going_on():
        try:
            now = _publish_once(runs, folder, tracking_uri, describe=describe, progress=False)
        except (RuntimeError, OSError, ValueError) as error:
            if not failed:
                text = f"warning: not published while it runs: {error}; trying again"
                print(text, file=sys.stderr, flush=True)
            failed = True
            continue
        failed = False
        total = now | {key: total.get(key, 0) + now[key] for key in ("new_runs", "values")}
        if not _is_open(now):
            break
    return total


def find_run(client: "MlflowClient", spec: RunSpec) -> "MlflowRun":
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
        return without_password(tracking_uri)
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
    wanted = {(spec.study, spec.run_id): spec for spec in specs}  # studies share runs
    studies: dict[str, dict[str, RunSpec]] = {}
    for (study, run_id), spec in wanted.items():
        if _has_started(Run.of(runs_dir, run_id)):
            studies.setdefault(study, {})[run_id] = spec
    started = [Run.of(runs_dir, run_id) for runs in studies.values() for run_id in runs]
    total: dict[str, Any] = {
        "tracking_uri": without_password(tracking_uri),
        "runs": len(started),
        "new_runs": 0,
        "values": 0,
        "planned": len(wanted) - len(started),
        "unfinished": 0,
        "pages": {},
    }
    if not studies:
        return total
    ledger = Ledger(runs_dir, tracking_uri, described=describe is not None)
    this = _Round(
        runs_dir=runs_dir,
        tracking_uri=tracking_uri,
        describe=describe,
        progress=progress,
        ledger=ledger,
        total=total,
    )
    if all(_is_published(this, study, runs) for study, runs in studies.items()):
        return total  # MLflow is not even imported
    client = connect(tracking_uri)
    waiting = f"another program is publishing {runs_dir}; waiting for it"
    with (
        store_errors(tracking_uri),
        locked(runs_dir / ".publish.lock", waiting=waiting),
        many_writes(tracking_uri),
    ):
        ledger.read_again()
        total["unfinished"] = 0
        for study, runs in studies.items():
            _publish_study(client, study, runs, this)
    return total


def _has_started(run: Run) -> bool:
    """Return whether a run is there for others to see: prepared, or further."""
    return run.is_prepared() or run.has_marker() or run.metrics_file.exists()


def _is_published(this: _Round, study: str, runs: Mapping[str, RunSpec]) -> bool:
    """Return whether the ledger vouches for all runs of a study; then count them."""
    experiment_id = this.ledger.experiment(study)
    prints = {key: this.ledger.fingerprint(spec, key) for key, spec in runs.items()}
    known = this.ledger.published(study, prints)
    if experiment_id is None or len(known) < len(runs):
        return False
    if this.ledger.report(study) != report_mark(this.runs_dir, study):
        return False
    this.total["unfinished"] += sum(status not in ENDED for status in known.values())
    this.total["pages"][study] = page(experiment_id, this.tracking_uri)
    return True


def _publish_study(
    client: "MlflowClient", study: str, runs: Mapping[str, RunSpec], this: _Round
) -> None:
    """Publish what the ledger does not vouch for, and remember it."""
    ledger, total = this.ledger, this.total
    prints = {key: ledger.fingerprint(spec, key) for key, spec in runs.items()}
    if ledger.experiment(study) is None:
        ledger.forget(study)
    known = ledger.published(study, prints)
    todo = [key for key in runs if key not in known]
    sweep = open_sweep(client, study, todo=todo, ledger=ledger, tracking_uri=this.tracking_uri)
    total["pages"][study] = page(sweep.experiment_id, this.tracking_uri)
    published, here = {}, dict(known)
    for key in _with_progress(todo, f"MLflow {study}", this.progress):
        outcome = publish_run(sweep, runs[key], Run.of(this.runs_dir, key), describe=this.describe)
        published[key] = {"print": prints[key], "mlflow_id": outcome.mlflow_id}
        here[key] = outcome.status
        total["values"] += outcome.num_values
        total["new_runs"] += outcome.new
        if outcome.problem:
            total.setdefault("problems", []).append(outcome.problem)
    total["unfinished"] += sum(status not in ENDED for status in here.values())
    statuses = {**sweep.statuses, **here}
    mirror_status(client, sweep.parent, _sweep_status(statuses.values()))
    report = log_report(sweep, this.runs_dir, study)
    parent_id = sweep.parent.info.run_id
    ledger.remember(study, parent_id, published, statuses=statuses, report=report)


def _is_open(total: Mapping[str, Any]) -> bool:
    """Return whether a run is still to start or to end."""
    return bool(total["unfinished"] + total["planned"])


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
