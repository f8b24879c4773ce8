"""Remembers what was published, so that a sync with nothing to do answers without MLflow.

`runs/_publish/<digest of the address>.json` holds, study by study (they share runs), a fingerprint
of each run folder and of what the store held afterwards. It only saves time: without it, or with a
store that looks different, the publisher asks MLflow itself.
"""

import hashlib
import json
import os
import sqlite3
import urllib.parse
import urllib.request
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from scaling.config import write_atomic
from scaling.runs.folder import Run
from scaling.spec import RunSpec, canonical_json
from scaling.tracking.record import PUBLISHED
from scaling.tracking.sqlite import database_path
from scaling.tracking.store import is_http

HTTP_TIMEOUT_S = 5
VERSION = 3  # of the ledger's content


class Ledger:
    """Fingerprints of run folders as they were when they were published to one store."""

    def __init__(self, runs_dir: Path, tracking_uri: str, *, described: bool) -> None:
        self._uri, self._runs_dir, self._described = tracking_uri, runs_dir, described
        digest = hashlib.sha256(f"{VERSION} {tracking_uri}".encode()).hexdigest()[:12]
        self._path = runs_dir / "_publish" / f"{digest}.json"
        self._kept = _read(self._path)

    def read_again(self) -> None:
        """Take up what another publisher has remembered since."""
        self._kept = _read(self._path)

    def fingerprint(self, spec: RunSpec, run_id: str) -> str:
        """Return what changes when a run has something new to publish; take it before reading."""
        seen = [stat_mark(path) for path in Run.of(self._runs_dir, run_id).published_files()]
        labels = [spec.study, spec.scale, spec.axes, self._described]
        return hashlib.sha256(canonical_json([labels, seen]).encode()).hexdigest()[:16]

    def published(self, study: str, prints: Mapping[str, str]) -> dict[str, str]:
        """Return run id -> MLflow status of the study's runs that are published as they stand."""
        runs, statuses = self._held(study).get("runs", {}), self.statuses(study)
        return {
            key: statuses[key]
            for key, value in prints.items()
            if key in statuses and key in runs and runs[key]["print"] == value
        }

    def statuses(self, study: str) -> dict[str, str]:
        """Return run id -> MLflow status of every run that the study's experiment has."""
        return self._held(study).get("statuses", {})

    def parent_id(self, study: str) -> str | None:
        """Return the MLflow run that is the study's parent run."""
        return self._held(study).get("mlflow_id")

    def child_id(self, study: str, run_id: str) -> str | None:
        """Return the MLflow run that holds a run of the study."""
        return self._held(study).get("runs", {}).get(run_id, {}).get("mlflow_id")

    def experiment(self, study: str) -> str | None:
        """Return the experiment's id when the store holds what it held, else None."""
        held = self._held(study)
        now = contents(self._uri, study) if held else None
        return str(now["experiment_id"]) if now and now == held["contents"] else None

    def report(self, study: str) -> str | None:
        """Return the mark of the report that was published last."""
        return self._held(study).get("report")

    def forget(self, study: str) -> None:
        """Drop what is kept of a study whose experiment is not what it was."""
        self._kept.pop(study, None)

    def remember(
        self,
        study: str,
        parent_id: str,
        published: Mapping[str, Mapping[str, str]],
        *,
        statuses: Mapping[str, str],
        report: str,
    ) -> None:
        """Keep what the store now holds of a study.

        `published`: run id -> print, mlflow_id of the runs just published; `statuses`: of all runs.
        """
        self._kept[study] = {
            "contents": contents(self._uri, study),
            "mlflow_id": parent_id,
            "report": report,
            "statuses": dict(statuses),
            "runs": {**self._held(study).get("runs", {}), **published},
        }
        write_atomic(self._path, json.dumps(self._kept))

    def _held(self, study: str) -> dict[str, Any]:
        return self._kept.get(study, {})


def contents(tracking_uri: str, study: str) -> dict[str, Any] | None:
    """Return what tells one state of an experiment from another, None where it cannot be asked.

    A SQLite file is read directly (counts of its runs and of their records); a server is asked
    for the experiment only.
    """
    path = database_path(tracking_uri)
    try:
        if path is not None:
            return _of_database(path, study) if path.exists() else None
        return _of_server(tracking_uri, study) if is_http(tracking_uri) else None
    except (OSError, ValueError, KeyError, sqlite3.Error):
        return None


def _of_database(path: Path, study: str) -> dict[str, Any] | None:
    where = "FROM experiments WHERE name = ? AND lifecycle_stage = 'active'"
    count = (
        "SELECT count(*), sum(length(t.value)) FROM runs r LEFT JOIN tags t "
        "ON t.run_uuid = r.run_uuid AND t.key = ? "
        "WHERE r.experiment_id = ? AND r.lifecycle_stage = 'active'"
    )
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as database:
        row = database.execute(f"SELECT experiment_id, creation_time {where}", (study,)).fetchone()
        if row is None:
            return None
        runs, length = database.execute(count, (PUBLISHED, row[0])).fetchone()
    return {"experiment_id": row[0], "created": row[1], "runs": runs, "records": length}


def _of_server(tracking_uri: str, study: str) -> dict[str, Any] | None:
    query = urllib.parse.urlencode({"experiment_name": study})
    url = f"{tracking_uri.rstrip('/')}/api/2.0/mlflow/experiments/get-by-name?{query}"
    with urllib.request.urlopen(url, timeout=HTTP_TIMEOUT_S) as reply:
        found = json.load(reply)["experiment"]
    if found.get("lifecycle_stage") != "active":
        return None
    return {"experiment_id": found["experiment_id"], "created": found.get("creation_time")}


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def stat_mark(path: str) -> list[int] | None:
    """Return what changes when a file does, None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_mtime_ns, found.st_size, found.st_ino]
