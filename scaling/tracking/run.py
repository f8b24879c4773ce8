"""Describes one run folder to MLflow: its child run's tags, params, metrics, data and files."""

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from scaling.cost import cost_of
from scaling.runs.attempts import read_attempts, total_gpu_hours
from scaling.runs.curves import Point, final_points, read_points, thin
from scaling.runs.folder import Run
from scaling.runs.state import RunStatus, State, run_status
from scaling.spec import RunSpec
from scaling.tracking.inputs import log_inputs
from scaling.tracking.ledger import PublishedRun
from scaling.tracking.store import NOTE

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

COST = ("num_params_total", "num_params_policy", "num_params_trainable", "compute_flops")
BLOCK = 900  # metrics a request: MLflow takes 1,000 entries, tags and params included
# Shown once more under MLflow's heading for the machine.
SYSTEM = {
    "throughput/samples_per_s": "system/samples_per_s",
    "memory/peak_active_gib": "system/peak_active_memory_gib",
    "data_wait_percent": "system/data_wait_percent",
    "mfu_percent": "system/mfu_percent",
}
ENDED = ("FINISHED", "FAILED", "KILLED")
STATUS: dict[State, str] = {
    "planned": "SCHEDULED",
    "queued": "SCHEDULED",
    "running": "RUNNING",
    "preempted": "RUNNING",  # it goes on from its checkpoint
    "unknown": "RUNNING",
    "done": "FINISHED",
    "failed": "FAILED",
    "cancelled": "KILLED",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """One study in MLflow: its experiment, its parent run, and child runs by run id.

    `known`: what MLflow holds of every run, by run id, those that are not here as well.
    """

    client: "MlflowClient"
    experiment_id: str
    parent: "MlflowRun"
    children: Mapping[str, "MlflowRun"]
    known: Mapping[str, PublishedRun]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one call of `publish_run` did; `problem`: a damaged file of the run, and the cure."""

    published: PublishedRun
    new: bool
    num_values: int
    problem: str | None = None


def publish_run(sweep: Sweep, spec: RunSpec, folder: Run, *, mark: str) -> Outcome:
    """Bring the child run of one folder, as it stood at `mark`, up to date; perhaps create it."""
    client, found, run_id = sweep.client, run_status(folder), folder.run_id
    status = STATUS[found.state]
    new = run_id not in sweep.children
    tags = _tags(sweep, spec, folder, found)
    run = _create(sweep, spec, folder, tags) if new else sweep.children[run_id]
    before = sweep.known.get(run_id) or PublishedRun(mlflow_id=run.info.run_id, status=status)
    params = _missing_params(spec, run)
    flops = {**run.data.params, **params}.get("compute_flops")
    points, offset = _new_points(spec, folder, found, before, flops=flops)
    inputs = before.inputs or log_inputs(client, spec, run.info.run_id, folder)
    kept = (found.state, offset) if status in ENDED else before.files
    if kept is not None and kept != before.files:
        files = (folder.metrics_file, folder.spec_file, folder.environment_file)
        log_files(client, run, [path for path in files if path.exists()])
    _log(client, run, points, params=params, tags=tags)
    mirror_status(client, run, status, end_time_s=_end_time(folder, found))
    now = PublishedRun(
        mlflow_id=run.info.run_id,
        status=status,
        mark=mark,
        offset=offset,
        last={**before.last, **{p.metric: (p.step, p.value) for p in points}},  # steps ascend
        inputs=inputs,
        files=kept,
    )
    return Outcome(
        published=now,
        new=new,
        num_values=len(points),
        problem=found.reason if found.damaged else None,
    )


def is_as_published(run: "MlflowRun", known: PublishedRun) -> bool:
    """Return whether MLflow's run ends where it was left; one of a restored backup does not."""
    values = run.data.metrics
    return (run.info.run_id, run.info.status) == (known.mlflow_id, known.status) and all(
        values.get(metric_name(name)) == value for name, (_, value) in known.last.items()
    )


def mirror_status(
    client: "MlflowClient", run: "MlflowRun", status: str, *, end_time_s: float | None = None
) -> None:
    """Set a run's status where it differs; an ended run gets its end time (default: now)."""
    if run.info.status == status:
        return
    if status in ENDED:
        end = None if end_time_s is None else round(1000 * end_time_s)
        client.set_terminated(run.info.run_id, status, end)
    else:
        client.update_run(run.info.run_id, status)


def run_name(spec: RunSpec, run_id: str) -> str:
    """Return the name shown for a run: size and axis values, each after three letters; its id last.

    MLflow's tables and legends show some 25 letters of it.
    """
    values = {name: value for name, value in spec.axes.items() if name != "size"}
    short = [f"{name[:3]}{value}" for name, value in values.items()]
    return " ".join([spec.size, *short, f"s{spec.seeds.init}", run_id])


def set_tags(client: "MlflowClient", run: "MlflowRun", tags: Mapping[str, str]) -> None:
    """Set those tags of a run that differ."""
    from mlflow.entities import RunTag

    changed = [RunTag(key, tags[key]) for key in tags if run.data.tags.get(key, "") != tags[key]]
    if changed:
        client.log_batch(run.info.run_id, tags=changed)


def log_files(
    client: "MlflowClient", run: "MlflowRun", files: Iterable[Path], *, folder: str = ""
) -> None:
    """Keep files, whole, among a run's artifacts."""
    place = run.info.artifact_uri or ""
    if place.startswith("file://"):  # a folder: MLflow would look the run up once a file
        target = Path(url2pathname(urlsplit(place).path)) / folder
        target.mkdir(parents=True, exist_ok=True)
        for path in files:
            shutil.copyfile(path, target / path.name)
        return
    for path in files:
        client.log_artifact(run.info.run_id, str(path), folder or None)


def _create(sweep: Sweep, spec: RunSpec, folder: Run, tags: Mapping[str, str]) -> "MlflowRun":
    attempts = read_attempts(folder)
    axes = [f"{name} = {value}" for name, value in spec.axes.items()]
    # Once only: it is the users' to change.
    note = f"{', '.join([*axes, f'seed = {spec.seeds.init}'])}; `scaling logs {folder.run_id}`"
    return sweep.client.create_run(
        sweep.experiment_id,
        run_name=run_name(spec, folder.run_id),
        start_time=round(1000 * attempts[0].start) if attempts else None,
        tags={name: value for name, value in tags.items() if value} | {NOTE: note},
    )


def _tags(sweep: Sweep, spec: RunSpec, folder: Run, status: RunStatus) -> dict[str, str]:
    """Return the labels that queries filter on; unlike params they may change."""
    jobs = [str(attempt.job_id) for attempt in read_attempts(folder) if attempt.job_id]
    ended = (
        status.reason
        if STATUS[status.state] in ENDED
        else (status.reason if status.damaged else None)
    )
    return {
        "mlflow.source.name": spec.study,
        "run_key": folder.run_id,
        "mlflow.parentRunId": sweep.parent.info.run_id,
        "study": spec.study,
        "scale": spec.scale,
        "stage": spec.stage,
        "size": spec.size,
        "axis": ",".join(spec.axes),
        **{f"axis/{name}": str(value) for name, value in spec.axes.items()},
        "code_digest": folder.environment().code_digest or "",
        "job_ids": ",".join(dict.fromkeys(jobs)),
        "parent_checkpoint": spec.init.checkpoint_sha256,
        "reason": (ended or "")[:500],
    }


def _missing_params(spec: RunSpec, run: "MlflowRun") -> dict[str, str]:
    """Return the params not yet on the run; MLflow refuses to change one."""
    params: dict[str, Any] = {
        "size": spec.size,
        "stage": spec.stage,
        "seed": spec.seeds.init,
        "num_samples_seen": spec.num_samples_seen,
        "num_unique_episodes": spec.num_unique_episodes,
        "num_domains": len(spec.data.mixture),
        "domains": ",".join(entry.name for entry in spec.data.mixture),
        "soft_prompt_length": spec.model.soft_prompt_length,
        "prediction_window_s": spec.data.prediction_window_s,
        "blind": spec.data.blind,
        "global_batch_size": spec.global_batch_size,
        "num_steps": spec.num_steps,
        "lr": spec.optim.lr,
    }
    if not run.data.params.keys() >= set(COST):
        cost = cost_of(spec)
        params |= {name: getattr(cost, name) for name in COST}
    return {name: str(value) for name, value in params.items() if name not in run.data.params}


def _new_points(
    spec: RunSpec,
    folder: Run,
    status: RunStatus,
    before: PublishedRun,
    *,
    flops: str | None,
) -> tuple[list[Point], int]:
    """Return the points still to publish, and up to where metrics.jsonl was read."""
    points, offset = read_points(folder.metrics_file, before.offset)
    done = folder.done() if status.state == "done" else None
    if done:
        totals = {"compute/gpu_hours": total_gpu_hours(folder) or 0.0}
        totals |= {"compute/flops": float(flops)} if flops else {}
        whole = replace(done, metrics={**totals, **done.metrics})
        final = final_points(whole, time_s=folder.done_file.stat().st_mtime)
        points = [*_uncontradicted(points, final), *final]
    reached = {name: step for name, (step, _) in before.last.items()}
    points = thin(points, reached, num_steps=spec.num_steps)
    points += [p._replace(metric=SYSTEM[p.metric]) for p in points if p.metric in SYSTEM]
    return points, offset


def _uncontradicted(points: list[Point], final: list[Point]) -> list[Point]:
    """Leave out what the DONE file says otherwise; where it agrees, the line stands for both."""
    last_words = {(point.metric, point.step): point.value for point in final}
    return [p for p in points if last_words.get((p.metric, p.step), p.value) == p.value]


def _log(
    client: "MlflowClient",
    run: "MlflowRun",
    points: list[Point],
    *,
    params: Mapping[str, str],
    tags: Mapping[str, str],
) -> None:
    """Log in blocks, labels with the last of them; a block sent twice is stored once."""
    from mlflow.entities import Metric, Param, RunTag

    changed = [RunTag(key, tags[key]) for key in tags if run.data.tags.get(key, "") != tags[key]]
    new = [Param(name, value) for name, value in params.items()]
    blocks = [points[start : start + BLOCK] for start in range(0, len(points), BLOCK)] or [[]]
    for number, block in enumerate(blocks, start=1):
        metrics = [
            Metric(metric_name(point.metric), point.value, point.time_ms, point.step)
            for point in block
        ]
        last = number == len(blocks)
        if metrics or (last and (new or changed)):
            client.log_batch(
                run.info.run_id, metrics, params=new if last else [], tags=changed if last else []
            )


def metric_name(name: str) -> str:
    """Return the name with what MLflow refuses (% and parentheses, among others) made `_`."""
    return re.sub(r"[^\w\-. :/]", "_", name)


def _end_time(folder: Run, status: RunStatus) -> float | None:
    marker = folder.done() if status.state == "done" else folder.failed()
    return marker.time if marker else None
