"""Opens an MLflow store: creates the database once, keeps quiet, says clearly when it is away."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from scaling.tracking.sqlite import (
    SQLITE,
    commit_quickly,
    create_database,
    database_path,
    is_database,
    locked,
)
from scaling.tracking.view import VIEW_KEY, experiment_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient

PROBE_TIMEOUT_S = 5
NOTE = "mlflow.note.content"  # what MLflow's page shows as a description, in Markdown
# Set before MLflow is imported; a value that the user has set stays.
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}
KINDS = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks")
LOCAL_PAGE = "http://127.0.0.1:5000"  # where `mlflow ui` answers unless told otherwise


class TrackingError(RuntimeError):
    """The tracking store cannot be reached or refused; training and its files are not affected."""


def connect(tracking_uri: str) -> "MlflowClient":
    """Return a client of a tracking store that answers; a missing SQLite database is created.

    Raises TrackingError when the store is away, ValueError for an address of no known kind or a
    file that is no database.
    """
    _check_address(tracking_uri)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if is_http(tracking_uri):
        _probe(tracking_uri)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    path = database_path(tracking_uri)
    with store_errors(tracking_uri):
        if path is None:
            client = MlflowClient(tracking_uri, registry_uri=tracking_uri)
            client.search_experiments(max_results=1)
            return client
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrackingError(f"cannot make a folder for {path}: {error.strerror}") from None
        commit_quickly()
        # Two processes that create or migrate one SQLite file at once corrupt the migration.
        with locked(path.with_name(f"{path.name}.lock")):
            if not path.exists():
                create_database(path)
            client = MlflowClient(f"{SQLITE}{path}", registry_uri=f"{SQLITE}{path}")
            client.search_experiments(max_results=1)
    return client


def _check_address(tracking_uri: str) -> None:
    """Raise ValueError for what MLflow cannot open; it would try a broken file for 100 s."""
    kind, separator, _ = tracking_uri.partition("://")
    if not separator or kind.partition("+")[0] not in KINDS:
        raise ValueError(
            f"tracking address {without_password(tracking_uri)!r} is not of a known form; give "
            "sqlite:///path/mlflow.db or http://host:port"
        )
    path = database_path(tracking_uri)
    if path is not None and path.exists() and not is_database(path):
        raise ValueError(
            f"tracking address {tracking_uri!r}: {path} is not a SQLite database; move it away or "
            "give another address"
        )


def is_http(tracking_uri: str) -> bool:
    """Return whether the store is a server spoken to over HTTP."""
    return urlsplit(tracking_uri).scheme in ("http", "https")


def get_experiment(client: "MlflowClient", study: str, tracking_uri: str, *, note: str = "") -> str:
    """Return the id of a study's experiment, creating it where there is none.

    `note` describes a new one. Raises ValueError when it was deleted and not yet purged.
    """
    found = client.get_experiment_by_name(study)
    if found is not None and found.lifecycle_stage != "active":
        raise ValueError(
            f"MLflow experiment {study!r} is deleted; restore it with `mlflow experiments restore "
            f"-x {found.experiment_id}` or purge it with `mlflow gc`"
        )
    if found is not None:
        return found.experiment_id
    path = database_path(tracking_uri)
    # Without a server MLflow would write files below whatever directory the command runs in.
    location = None if path is None else (path.parent / f"{path.name}.artifacts" / study).as_uri()
    tags = experiment_tags() | ({NOTE: note} if note else {})
    return client.create_experiment(study, artifact_location=location, tags=tags)


def page(experiment_id: str, tracking_uri: str) -> str:
    """Return the address of an experiment's run table, best run first."""
    base = tracking_uri.rstrip("/") if is_http(tracking_uri) else LOCAL_PAGE
    query = f"workflowType=machine_learning&viewStateShareKey={VIEW_KEY}"
    return f"{without_password(base)}/#/experiments/{experiment_id}/runs?{query}"


@contextmanager
def store_errors(tracking_uri: str) -> Iterator[None]:
    """Turn errors of MLflow, its database and its network into one TrackingError."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError) as error:
        if is_http(tracking_uri):
            _probe(tracking_uri)
        reason = _newer_schema(str(error)) or _one_line(error)
        raise TrackingError(
            f"MLflow at {without_password(tracking_uri)} refused: {reason}"
        ) from error


def without_password(tracking_uri: str) -> str:
    """Return the address without a user name or password."""
    parts = urlsplit(tracking_uri)
    if "@" not in parts.netloc:
        return tracking_uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _probe(tracking_uri: str) -> None:
    import requests

    try:
        # Any reply will do: a proxy may answer /health with its own page.
        requests.get(f"{tracking_uri.rstrip('/')}/health", timeout=PROBE_TIMEOUT_S)
    except requests.RequestException as error:
        raise TrackingError(
            f"no MLflow server answers at {without_password(tracking_uri)} "
            f"({type(error).__name__}); start it or give another tracking address, then run "
            "`scaling sync STUDY`: nothing is lost, runs are recorded in their folders"
        ) from None


def _newer_schema(message: str) -> str | None:
    """Return what to do when a database's schema is one that this MLflow does not know.

    MLflow itself calls any other schema out of date and advises an upgrade, which cannot work here.
    """
    import mlflow
    from mlflow.store import db_migrations

    match = re.search(r"found version (\w+), but expected", message)
    known = Path(db_migrations.__file__).parent / "versions"
    if match is None or any(known.glob(f"{match[1]}_*.py")):
        return None
    return (
        f"the database was made by a newer MLflow than {mlflow.__version__} (schema {match[1]}); "
        "install that version, or give another tracking address"
    )


def _one_line(error: Any) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
