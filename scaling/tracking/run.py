"""Describes one run folder to MLflow: its child run's tags, params, metrics, data and files."""

import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from scaling.runs.records import (
    CANCELLED,
    Point,
    file_state,
    final_points,
    read_attempts,
    read_json,
    read_points,
    thin,
)
from scaling.spec import RunSpec, canonical_json
from scaling.tracking.client import NOTE
from scaling.tracking.inputs import log_inputs
from scaling.tracking.record import PUBLISHED, metric_key, pack, published, unpack

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

Describe = Callable[[RunSpec], Mapping[str, Any]]
DESCRIBED = ("num_params_total", "num_params_policy", "num_params_trainable", "compute_flops")
BLOCK = 900  # metrics a request: MLflow takes 1,000 entries, tags and params included
# Shown once more under MLflow's heading for the machine.
SYSTEM = {
    "throughput/samples_per_s": "system/samples_per_s",
    "memory/peak_active_gib": "system/peak_active_memory_gib",
    "data_wait_percent": "system/data_wait_percent",
    "mfu_percent": "system/mfu_percent",
}
ENDED = ("FINISHED", "FAILED", "KILLED")
FILES = ("metrics.jsonl", "run.yaml", "env.json")
STATUS = {
    "queued": "SCHEDULED",
    "running": "RUNNING",
    "done": "FINISHED",
    "failed": "FAILED",
    CANCELLED: "KILLED",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """One study in MLflow: its experiment, its parent run, child runs and statuses by run id."""

    client: "MlflowClient"
    experiment_id: str
    parent: "Run"
    children: dict[str, "Run"]
    statuses: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one call of `publish_run` did."""

    mlflow_id: str
    status: str
    new: bool
    num_values: int


def publish_run(
    sweep: Sweep, spec: RunSpec, run_dir: Path, *, describe: Describe | None
) -> Outcome:
    """Bring the child run of one folder up to date, creating it where there is none."""
    client, state = sweep.client, file_state(run_dir)
    run_id = run_dir.name
    new = run_id not in sweep.children
    tags = _tags(sweep, spec, run_dir)
    run = _create(sweep, spec, run_dir, tags) if new else sweep.children[run_id]
    before = published(run)
    params = _missing_params(spec, run, describe)
    flops = {**run.data.params, **params}.get("compute_flops")
    points, now = _new_points(spec, run_dir, before, flops=flops)
    now["inputs"] = before.get("inputs") or log_inputs(client, spec, run, run_dir)
    now["files"] = before.get("files")
    if STATUS[state] in ENDED and now["files"] != [state, now["offset"]]:
        log_files(client, run, [run_dir / name for name in FILES if (run_dir / name).exists()])
        now["files"] = [state, now["offset"]]
    _log(client, run, points, params=params, tags={**tags, PUBLISHED: canonical_json(now)})
    mirror_status(client, run, STATUS[state], end_time_s=_end_time(run_dir))
    return Outcome(mlflow_id=run.info.run_id, status=STATUS[state], new=new, num_values=len(points))


def mirror_status(
    client: "MlflowClient", run: "Run", status: str, *, end_time_s: float | None = None
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


def set_tags(client: "MlflowClient", run: "Run", tags: Mapping[str, str]) -> None:
    """Set those tags of a run that differ."""
    from mlflow.entities import RunTag

    changed = [RunTag(key, tags[key]) for key in tags if run.data.tags.get(key, "") != tags[key]]
    if changed:
        client.log_batch(run.info.run_id, tags=changed)


def log_files(
    client: "MlflowClient", run: "Run", files: Iterable[Path], *, folder: str = ""
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


def _create(sweep: Sweep, spec: RunSpec, run_dir: Path, tags: Mapping[str, str]) -> "Run":
    attempts = read_attempts(run_dir)
    axes = [f"{name} = {value}" for name, value in spec.axes.items()]
    # Once only: it is the users' to change.
    note = f"{', '.join([*axes, f'seed = {spec.seeds.init}'])}; `scaling logs {run_dir.name}`"
    return sweep.client.create_run(
        sweep.experiment_id,
        run_name=run_name(spec, run_dir.name),
        start_time=round(1000 * attempts[0]["start"]) if attempts else None,
        tags={name: value for name, value in tags.items() if value} | {NOTE: note},
    )


def _tags(sweep: Sweep, spec: RunSpec, run_dir: Path) -> dict[str, str]:
    """Return the labels that queries filter on; unlike params they may change."""
    jobs = [str(attempt["job_id"]) for attempt in read_attempts(run_dir) if attempt.get("job_id")]
    environment = read_json(run_dir / "env.json") or {}
    failed = read_json(run_dir / "FAILED") or {}
    return {
        "mlflow.source.name": spec.study,
        "run_key": run_dir.name,
        "mlflow.parentRunId": sweep.parent.info.run_id,
        "study": spec.study,
        "scale": spec.scale,
        "stage": spec.stage,
        "size": spec.size,
        "axis": ",".join(spec.axes),
        **{f"axis/{name}": str(value) for name, value in spec.axes.items()},
        "code_digest": str(environment.get("code_digest", "")),
        "job_ids": ",".join(dict.fromkeys(jobs)),
        "parent_checkpoint": spec.init.checkpoint_sha256,
        "reason": str(failed.get("reason", ""))[:500],
    }


def _missing_params(spec: RunSpec, run: "Run", describe: Describe | None) -> dict[str, str]:
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
    if describe and not run.data.params.keys() >= set(DESCRIBED):
        numbers = describe(spec)
        params |= {name: numbers[name] for name in DESCRIBED}
    return {name: str(value) for name, value in params.items() if name not in run.data.params}


def _new_points(
    spec: RunSpec, run_dir: Path, before: Mapping[str, Any], *, flops: str | None
) -> tuple[list[Point], dict[str, Any]]:
    """Return the points still to publish and the record of what is published with them."""
    reached = unpack(before.get("reached", {}))
    points, offset = read_points(run_dir / "metrics.jsonl", before.get("offset", 0))
    done = read_json(run_dir / "DONE")
    if done:
        hours = sum(attempt.get("gpu_hours") or 0.0 for attempt in read_attempts(run_dir))
        totals = {"compute/gpu_hours": hours} | ({"compute/flops": float(flops)} if flops else {})
        final = final_points({**done, "metrics": {**totals, **done.get("metrics", {})}})
        points = [*_uncontradicted(points, final), *final]
    keys = {name: metric_key(name) for name in {point.metric for point in points}}
    last = {name: reached[key] for name, key in keys.items() if key in reached}
    points = thin(points, last, num_steps=spec.num_steps)
    reached |= {keys[point.metric]: point.step for point in points}  # ascending: the last one stays
    points += [p._replace(metric=SYSTEM[p.metric]) for p in points if p.metric in SYSTEM]
    return points, {"offset": offset, "reached": pack(reached)}


def _uncontradicted(points: list[Point], final: list[Point]) -> list[Point]:
    """Leave out what the DONE file says otherwise; where it agrees, the line stands for both."""
    last_words = {(point.metric, point.step): point.value for point in final}
    return [p for p in points if last_words.get((p.metric, p.step), p.value) == p.value]


def _log(
    client: "MlflowClient",
    run: "Run",
    points: list[Point],
    *,
    params: Mapping[str, str],
    tags: Mapping[str, str],
) -> None:
    """Log in blocks, labels and the record of what is published with the last of them.

    MLflow stores the tags of a request after its metrics, so a crash leaves values without their
    record, never a record without its values; a block sent twice is stored once.
    """
    from mlflow.entities import Metric, Param, RunTag

    changed = [RunTag(key, tags[key]) for key in tags if run.data.tags.get(key, "") != tags[key]]
    new = [Param(name, value) for name, value in params.items()]
    blocks = [points[start : start + BLOCK] for start in range(0, len(points), BLOCK)] or [[]]
    for number, block in enumerate(blocks, start=1):
        metrics = [
            Metric(_metric_name(point.metric), point.value, point.time_ms, point.step)
            for point in block
        ]
        last = number == len(blocks)
        if metrics or (last and (new or changed)):
            client.log_batch(
                run.info.run_id, metrics, params=new if last else [], tags=changed if last else []
            )


def _metric_name(name: str) -> str:
    """Return the name with what MLflow refuses (% and parentheses, among others) made `_`."""
    return re.sub(r"[^\w\-. :/]", "_", name)


def _end_time(run_dir: Path) -> float | None:
    marker = read_json(run_dir / "DONE") or read_json(run_dir / "FAILED") or {}
    return marker.get("time")
