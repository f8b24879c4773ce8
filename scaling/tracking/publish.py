"""Publishes studies to MLflow from their run folders: the only writer there, safe to run again."""

import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.document import Document, optional
from scaling.runs.folder import Run
from scaling.spec import RunSpec
from scaling.tracking.ledger import Ledger, PublishedRun, PublishedStudy
from scaling.tracking.run import ENDED, mirror_status, publish_run
from scaling.tracking.sqlite import database_path, locked, many_writes
from scaling.tracking.store import connect, page, store_errors, without_password
from scaling.tracking.sweep import log_report, open_sweep, report_mark

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

Track = Callable[[Sequence[str], str], Iterable[str]]
Say = Callable[[str], None]
REMEMBER_EVERY = 100  # runs: so many are sent again after a kill at worst


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary(Document):
    """What was published, and what is still to come.

    `runs` have a folder, of which `unfinished` go on; `planned` have none; `new_runs` and `values`
    were sent; `pages`: address of each study's run table (for a database: while the line of
    `ui_command` runs); `problems`: a line for each damaged file of the runs just published.
    """

    tracking_uri: str
    runs: int = 0
    new_runs: int = 0
    values: int = 0
    planned: int = 0
    unfinished: int = 0
    pages: dict[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] | None = optional()

    @property
    def is_open(self) -> bool:
        """Whether a run is still to start or to end."""
        return bool(self.unfinished + self.planned)

    def after(self, before: "Summary") -> "Summary":
        """Return where this round left things, with what was sent in the rounds before it."""
        return replace(
            self, new_runs=before.new_runs + self.new_runs, values=before.values + self.values
        )


def publish(
    specs: Iterable[RunSpec],
    runs_dir: str | Path,
    *,
    tracking_uri: str,
    track: Track = lambda run_ids, label: run_ids,
    say: Say = lambda text: None,
    follow: bool = False,
    poll_s: float = 5.0,
) -> Summary:
    """Bring MLflow up to date with the run folders; doing it twice changes nothing.

    Experiment = study, a parent run for the sweep, a child run (tag `run_key` = run id) for each
    folder that exists. A report beside the runs goes to the parent run. `track(run_ids, label)`
    yields them and shows how far it is; `say` hears of waits and failures. `follow` goes on until
    every run has ended. Raises TrackingError when the store is away (while following: in the first
    round only).
    """
    runs, folder = list(specs), Path(runs_dir)
    first = _publish_once(runs, folder, tracking_uri, track=track, say=say)
    if not (follow and first.is_open):
        return first

    def going_on() -> bool:
        time.sleep(poll_s)
        return True

    rest = publish_while(going_on, runs, folder, tracking_uri=tracking_uri, say=say)
    return rest.after(first) if rest else first


def publish_while(
    going_on: Callable[[], bool],
    specs: Iterable[RunSpec],
    runs_dir: str | Path,
    *,
    tracking_uri: str,
    say: Say = lambda text: None,
) -> Summary | None:
    """Publish round after round until every run has ended; return what `publish` does.

    `going_on` waits before each round and tells whether there is one. A round that fails, MLflow
    being away or a file half written, is tried again; of such rounds in a row the first is told.
    None without any round that went well.
    """
    runs, folder, failed = list(specs), Path(runs_dir), False
    total: Summary | None = None
    while going_on():
        try:
            now = _publish_once(runs, folder, tracking_uri, say=say)
        except (RuntimeError, OSError, ValueError) as error:
            if not failed:
                say(f"warning: not published while it runs: {error}; trying again")
            failed = True
            continue
        failed = False
        total = now.after(total) if total else now
        if not now.is_open:
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


@contextmanager
def own_writes(ledger: Ledger, runs_dir: Path, *, say: Say = lambda text: None) -> Iterator[None]:
    """Write to the store, one program at a time, so that the ledger stays true of it."""

    def wait() -> None:
        say(f"another program is publishing {runs_dir}; waiting for it")

    with locked(runs_dir / ".publish.lock", on_wait=wait), ledger.writing():
        yield


def _publish_once(
    specs: Sequence[RunSpec],
    runs_dir: Path,
    tracking_uri: str,
    *,
    track: Track = lambda run_ids, label: run_ids,
    say: Say,
) -> Summary:
    wanted = {(spec.study, spec.run_id): spec for spec in specs}  # studies share runs
    studies: dict[str, dict[str, RunSpec]] = {}
    for (study, run_id), spec in wanted.items():
        if _has_started(Run.of(runs_dir, run_id)):
            studies.setdefault(study, {})[run_id] = spec
    num_started = sum(map(len, studies.values()))
    total = Summary(
        tracking_uri=without_password(tracking_uri),
        runs=num_started,
        planned=len(wanted) - num_started,
    )
    if not studies:
        return total
    this = _Publisher(
        runs_dir=runs_dir,
        tracking_uri=tracking_uri,
        track=track,
        ledger=Ledger(runs_dir, tracking_uri),
    )
    known = {study: this.published(study, runs) for study, runs in studies.items()}
    if all(known.values()):  # MLflow is not even imported
        return _sum(total, [found for found in known.values() if found])
    client = connect(tracking_uri)
    with (
        store_errors(tracking_uri),
        own_writes(this.ledger, runs_dir, say=say),
        many_writes(tracking_uri),
    ):
        return _sum(total, [this.publish(client, study, runs) for study, runs in studies.items()])


def _has_started(run: Run) -> bool:
    """Return whether a run is there for others to see: prepared, or further."""
    return run.is_prepared() or run.has_marker() or run.metrics_file.exists()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    """What one look at a study's runs found and sent."""

    study: str
    page: str
    unfinished: int
    new_runs: int = 0
    values: int = 0
    problems: tuple[str, ...] | None = optional()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Publisher:
    """What one look at the run folders works with."""

    runs_dir: Path
    tracking_uri: str
    track: Track
    ledger: Ledger

    def published(self, study: str, runs: Mapping[str, RunSpec]) -> _Round | None:
        """Return a study's round if the ledger vouches for all its runs and its report."""
        held = self.ledger.study(study)
        if held is None or held.report != report_mark(self.runs_dir, study):
            return None
        marks = self._marks(runs)
        known = {key: held.runs[key] for key in runs if key in held.runs}
        if any(key not in known or known[key].mark != mark for key, mark in marks.items()):
            return None
        if not self.ledger.is_current(study):  # last: a server is asked
            return None
        return self._round(study, held.experiment_id, known)

    def publish(self, client: "MlflowClient", study: str, runs: Mapping[str, RunSpec]) -> _Round:
        """Publish what the ledger does not vouch for, and remember it."""
        marks, held = self._marks(runs), self.ledger.study(study)
        before = held.runs if held else {}
        changed = {k for k in runs if k not in before or before[k].mark != marks[k]}
        sweep = open_sweep(
            client, study, changed=changed, ledger=self.ledger, tracking_uri=self.tracking_uri
        )
        known, outcomes = dict(sweep.known), []
        now = PublishedStudy(
            experiment_id=sweep.experiment_id,
            parent_id=sweep.parent.info.run_id,
            report=held.report if held else "",
            runs=known,
        )
        todo = [key for key in runs if key not in known or known[key].mark != marks[key]]
        for number, key in enumerate(self.track(todo, f"MLflow {study}"), start=1):
            run = Run.of(self.runs_dir, key)
            outcome = publish_run(sweep, runs[key], run, mark=marks[key])
            known[key] = outcome.published
            outcomes.append(outcome)
            if number % REMEMBER_EVERY == 0:
                self.ledger.remember(study, now)
        mirror_status(client, sweep.parent, _sweep_status(run.status for run in known.values()))
        report = log_report(sweep, self.runs_dir, study, before=now.report)
        self.ledger.remember(study, replace(now, report=report))
        return replace(
            self._round(study, sweep.experiment_id, {key: known[key] for key in runs}),
            new_runs=sum(outcome.new for outcome in outcomes),
            values=sum(outcome.num_values for outcome in outcomes),
            problems=tuple(outcome.problem for outcome in outcomes if outcome.problem),
        )

    def _marks(self, runs: Mapping[str, RunSpec]) -> dict[str, str]:
        """Return what changes when a run has something new to publish, by run id."""
        return {key: self.ledger.run_mark(spec, key) for key, spec in runs.items()}

    def _round(self, study: str, experiment_id: str, runs: Mapping[str, PublishedRun]) -> _Round:
        return _Round(
            study=study,
            page=page(experiment_id, self.tracking_uri),
            unfinished=sum(run.status not in ENDED for run in runs.values()),
        )


def _sum(total: Summary, rounds: Sequence[_Round]) -> Summary:
    return replace(
        total,
        new_runs=sum(each.new_runs for each in rounds),
        values=sum(each.values for each in rounds),
        unfinished=sum(each.unfinished for each in rounds),
        pages={each.study: each.page for each in rounds},
        problems=tuple(line for each in rounds for line in each.problems or ()) or None,
    )


def _sweep_status(statuses: Iterable[str]) -> str:
    seen = set(statuses)
    if not seen <= set(ENDED):
        return "RUNNING"
    return "FINISHED" if seen == {"FINISHED"} else "FAILED"


def _from_here(path: Path) -> str:
    """Return a path relative to the current directory where it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
