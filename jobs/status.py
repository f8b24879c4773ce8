"""The states of a study's runs: what their files say, and what executors have of them."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.executor import EXECUTORS, Link, QueueingExecutor
from jobs.queue import read_held
from scaling.document import Document
from scaling.runs.folder import Run
from scaling.runs.state import Hold, RunStatus, State, run_status
from scaling.spec import RunSpec, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusRow(Document):
    """Where a run of a study stands. Times in seconds; None where nothing is known."""

    run_id: str
    axes: dict[str, Value | None]
    state: State
    step: int | None
    num_steps: int
    samples_per_s: float | None
    eta_s: float | None
    val_l1: float | None
    attempts: int
    job_id: str | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyStatus(Document):
    """Where the runs of a study stand (contract: `status --json`)."""

    study: str
    counts: dict[str, int]
    runs: list[StatusRow]


def run_state(run: Run, held: Mapping[str, Hold] | None = None) -> RunStatus:
    """Return the state of one run, whose folder need not exist.

    `held`: what executors have, read once by a caller that asks for many runs.
    """
    held = read_held(run.folder.parent) if held is None else held
    return run_status(run, held.get(run.run_id))


def study_status(specs: Iterable[RunSpec], runs_dir: str | Path) -> StudyStatus:
    """Return where each run stands, and how many in which state."""
    specs, held = list(specs), read_held(runs_dir)
    rows = [status_row(spec, run_state(Run.of(runs_dir, spec.run_id), held)) for spec in specs]
    return with_rows(specs[0].study if specs else "", rows)


def with_rows(study: str, rows: list[StatusRow]) -> StudyStatus:
    """Return the status of some runs of a study."""
    return StudyStatus(study=study, counts=dict(Counter(row.state for row in rows)), runs=rows)


def status_row(spec: RunSpec, status: RunStatus) -> StatusRow:
    """Return the row of a run."""
    return StatusRow(
        run_id=status.run_id,
        axes=dict(spec.axes),
        state=status.state,
        step=status.step,
        num_steps=spec.num_steps,
        samples_per_s=status.samples_per_s,
        eta_s=status.eta_s,
        val_l1=status.val_l1,
        attempts=status.attempts,
        job_id=status.job_id,
        reason=status.reason,
    )


def study_links(runs_dir: str | Path, study: str) -> list[Link]:
    """Return the commands that executors have chained behind a study."""
    executors = [make() for make in EXECUTORS.values()]
    queueing = [item for item in executors if isinstance(item, QueueingExecutor)]
    return [link for item in queueing for link in item.links(Path(runs_dir), study)]
