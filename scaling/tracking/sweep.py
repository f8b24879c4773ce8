"""Opens a study in MLflow: its experiment, parent run and child runs; keeps its report there."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.spec import canonical_json
from scaling.study import Study, load_study
from scaling.tracking.ledger import Ledger, PublishedRun, PublishedStudy, file_mark
from scaling.tracking.run import Sweep, is_as_published, log_files, set_tags
from scaling.tracking.store import NOTE, get_experiment, is_http

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

REPORT = ("report.html", "record.json")
FEW = 100  # runs that are quicker asked for one by one than all together


def open_sweep(
    client: "MlflowClient",
    study: str,
    *,
    changed: Collection[str],
    ledger: Ledger,
    tracking_uri: str,
) -> Sweep:
    """Return the study's experiment, its parent run, and at least its child runs of `changed`.

    With a ledger that matches the store only these are read. Creates what is missing.
    """
    held = ledger.study(study)
    current = held if ledger.is_current(study) else None
    if sweep := _remembered(client, current, changed, server=is_http(tracking_uri)):
        return sweep
    declared = _declared(study)
    tags = {"sweep": study, "study": study, NOTE: _note(declared)}
    experiment_id = get_experiment(client, study, tracking_uri, note=tags[NOTE])
    children: dict[str, Run] = {}
    parent = None
    for run in _all_runs(client, experiment_id):
        if "run_key" in run.data.tags:
            children.setdefault(run.data.tags["run_key"], run)
        elif run.data.tags.get("sweep") == study:
            parent = parent or run
    if parent is None:
        parent = client.create_run(experiment_id, run_name=f"sweep {study}", tags=tags)
    # A description is the users' to change.
    set_tags(client, parent, {key: tags[key] for key in tags if key not in parent.data.tags})
    return Sweep(
        client=client,
        experiment_id=experiment_id,
        parent=parent,
        children=children,
        known={key: _known(run, held, key) for key, run in children.items()},
    )


def report_mark(runs_dir: Path, study: str) -> str:
    """Return what changes when the study's report, beside the folder of runs, does."""
    return canonical_json([file_mark(str(path)) for path in _report_files(runs_dir, study)])


def log_report(sweep: Sweep, runs_dir: Path, study: str, *, before: str) -> str:
    """Keep the study's report, unless its mark is `before`, on the parent run; return its mark."""
    mark = report_mark(runs_dir, study)
    found = [path for path in _report_files(runs_dir, study) if path.exists()]
    if found and before != mark:
        log_files(sweep.client, sweep.parent, found, folder="report")
    return mark


def _remembered(
    client: "MlflowClient", held: PublishedStudy | None, changed: Collection[str], *, server: bool
) -> Sweep | None:
    """Return the sweep by the ledger's ids, None where it takes a search."""
    from mlflow.exceptions import MlflowException

    if held is None:
        return None
    ids = {key: held.runs[key].mlflow_id for key in changed if key in held.runs}
    # A server may have got runs from elsewhere; a database file that is as it was has not.
    if len(ids) > FEW or (server and len(ids) < len(changed)):
        return None
    try:
        parent = client.get_run(held.parent_id)
        children = {key: client.get_run(found) for key, found in ids.items()}
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    if any(run.info.lifecycle_stage != "active" for run in [parent, *children.values()]):
        return None
    return Sweep(
        client=client,
        experiment_id=held.experiment_id,
        parent=parent,
        children=children,
        known=held.runs,
    )


def _known(run: "Run", held: PublishedStudy | None, run_id: str) -> PublishedRun:
    """Return what the ledger says of a run if that is so, else only that the run is there."""
    known = held.runs.get(run_id) if held else None
    if known is not None and is_as_published(run, known):
        return known
    return PublishedRun(mlflow_id=run.info.run_id, status=run.info.status)


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


def _declared(study: str) -> Study | None:
    """Return the study's declaration, None for runs whose study is no module here."""
    try:
        return load_study(study)
    except (ValueError, ImportError):
        return None


def _note(study: Study | None) -> str:
    if study is None:
        return ""
    return (
        f"{study.description[:1].upper()}{study.description[1:]}.\n\n"
        f"* varies: {', '.join(study.varies) or 'nothing'}\n* held fixed: {study.holds_fixed}\n"
        f"* runs: `scaling plan {study.name}`\n\n"
        "The report, once written, is among the files of the parent run (`report/report.html`)."
    )


def _report_files(runs_dir: Path, study: str) -> list[Path]:
    return [runs_dir.parent / "reports" / study / name for name in REPORT]
