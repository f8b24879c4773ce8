"""Remembers what was published, once: in `runs/_publish/<digest of the address>.json`.

A sync with nothing to do is answered from it without MLflow, whose import alone takes seconds.
Where it is lost, or says what the store does not hold, a run is sent again whole: MLflow keeps a
point that is sent twice (same step, time and value) once.
"""

import hashlib
import json
import os
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from scaling.config import write_atomic
from scaling.runs.files import read_json_or_none
from scaling.runs.folder import Run
from scaling.spec import RunSpec, canonical_json
from scaling.tracking.sqlite import database_path
from scaling.tracking.store import is_http

HTTP_TIMEOUT_S = 5
VERSION = 5  # of the ledger's content


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRun:
    """What MLflow holds of one run.

    `mark`: of the folder as it was published, "" for a run that was found in the store. `offset`:
    bytes of metrics.jsonl that were read; `last`: metric -> step and value of its last point;
    `inputs`: whether the data sets were told; `files`: state and offset when files were kept.
    """

    mlflow_id: str
    status: str
    mark: str = ""
    offset: int = 0
    last: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    inputs: bool = False
    files: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedStudy:
    """What MLflow holds of a study: its experiment, parent run, report and runs by id.

    `store`: the mark of the store as it was left, "" while it is being written to.
    """

    experiment_id: str
    parent_id: str
    report: str
    runs: Mapping[str, PublishedRun]
    store: str = ""


class Ledger:
    """What was published of a folder of runs to one store, by study: studies share runs."""

    def __init__(self, runs_dir: Path, tracking_uri: str) -> None:
        self._uri, self._runs_dir = tracking_uri, runs_dir
        digest = hashlib.sha256(f"{VERSION} {tracking_uri}".encode()).hexdigest()[:12]
        self._path = runs_dir / "_publish" / f"{digest}.json"
        self._studies = _read(self._path)
        self._written: set[str] = set()
        self._trusted: set[str] | None = None  # while this process writes to a database

    def study(self, name: str) -> PublishedStudy | None:
        """Return what is known of a study."""
        return self._studies.get(name)

    def is_current(self, name: str) -> bool:
        """Return whether the store is as it was when the study was published last."""
        held = self._studies.get(name)
        if held is None or not held.store:
            return False
        if self._trusted is not None:
            return name in self._trusted
        return held.store == store_mark(self._uri, name)

    def run_mark(self, spec: RunSpec, run_id: str) -> str:
        """Return what changes when a run has something new to publish; take it before reading."""
        seen = [file_mark(path) for path in Run.of(self._runs_dir, run_id).published_files()]
        labels = [spec.study, spec.scale, spec.axes]
        return hashlib.sha256(canonical_json([labels, seen]).encode()).hexdigest()[:16]

    def remember(self, name: str, held: PublishedStudy) -> None:
        """Keep what the store now holds of a study, on disk as well."""
        self._studies[name] = replace(held, store="")
        self._written.add(name)
        self._write()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Let this process write to the store; afterwards it counts as it was left.

        The ledger is read anew, as another publisher may have written it: hold the publisher's
        lock. Without the marks renewed, for a block that raises, MLflow is asked next time. What
        another program does to a database meanwhile goes unnoticed until it does more.
        """
        self._studies, self._written = _read(self._path), set()
        if database_path(self._uri) is not None:  # one file holds all studies
            self._trusted = {name for name in self._studies if self.is_current(name)}
        try:
            yield
            written = self._written | (self._trusted or set())
        finally:
            self._trusted = None
        for name in written:
            mark = store_mark(self._uri, name)
            self._studies[name] = replace(self._studies[name], store=mark)
        if written:
            self._write()

    def _write(self) -> None:
        write_atomic(self._path, json.dumps(self._studies, default=_fields))


def store_mark(tracking_uri: str, study: str) -> str:
    """Return what tells one state of a store from another, "" where that cannot be asked.

    Of a SQLite file when it was written to, by whomever; a server is asked for the experiment.
    """
    path = database_path(tracking_uri)
    if path is not None:
        # Beside the file lies its log of commits, where another program keeps that open.
        marks = [file_mark(str(path)), file_mark(f"{path}-wal")]
        return canonical_json(marks) if marks[0] else ""
    return _experiment_mark(tracking_uri, study) if is_http(tracking_uri) else ""


def file_mark(path: str) -> list[int] | None:
    """Return what changes when a file does, None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_mtime_ns, found.st_size, found.st_ino]


def _experiment_mark(tracking_uri: str, study: str) -> str:
    """Ask a server's REST API without MLflow's client, which takes seconds to import."""
    query = urllib.parse.urlencode({"experiment_name": study})
    url = f"{tracking_uri.rstrip('/')}/api/2.0/mlflow/experiments/get-by-name?{query}"
    try:
        with urllib.request.urlopen(url, timeout=HTTP_TIMEOUT_S) as reply:
            found = json.load(reply)["experiment"]
        if found["lifecycle_stage"] != "active":
            return ""
        return canonical_json([found["experiment_id"], found.get("creation_time")])
    except (OSError, ValueError, KeyError):
        return ""


def _read(path: Path) -> dict[str, PublishedStudy]:
    """Return the studies of a ledger; one that cannot be read counts as none."""
    content = read_json_or_none(path) or {}
    try:
        return {
            name: PublishedStudy(**held | {"runs": {k: _run(v) for k, v in held["runs"].items()}})
            for name, held in content.items()
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _fields(held: PublishedStudy | PublishedRun) -> dict[str, Any]:
    """Return a dataclass as JSON has it; `asdict` would copy every point of every run first."""
    return {item.name: getattr(held, item.name) for item in fields(held)}


def _run(content: dict[str, Any]) -> PublishedRun:
    """Return a run of a ledger's file; JSON knows no tuples."""
    last = {name: (step, value) for name, (step, value) in content["last"].items()}
    files = tuple(content["files"]) if content["files"] else None
    return PublishedRun(**content | {"last": last, "files": files})
