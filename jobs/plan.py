"""The plan of a study: what each run is, costs and already has; the `plan --json` document."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from jobs.pricing import (
    GIB,
    Rate,
    assumed_rate,
    gpu_hours,
    measured_rate,
    num_checkpoints,
)
from jobs.queue import read_held
from jobs.status import run_state
from scaling.memory import checkpoint_bytes, gpu_table
from scaling.memory import memory as needed_memory
from scaling.runs.files import DamagedFileError
from scaling.runs.folder import Run
from scaling.spec import RunSpec
from scaling.study import own_steps, saving

Describe = Callable[[RunSpec], dict[str, Any]]
GPU_HOURS = ("gpu_hours", "gpu_hours_low", "gpu_hours_high")


def plan(
    specs: Iterable[RunSpec],
    runs_dir: str | Path,
    describe: Describe,
    *,
    max_gpus: int | None = None,
    peak_tflops: float = 0.0,
) -> dict[str, Any]:
    """Return the `plan --json` document (contract); nothing is written.

    `describe(spec)` gives num_params_total, num_params_trainable, num_params_policy and
    compute_flops. GPU-hours assume 15 to 50 % MFU of GPUs with `peak_tflops` (0: A100s) until a
    run of the plan is done on GPUs: its own then count as measured, and its rate prices the
    others. Wall hours: the longest run (a branch goes behind its trunk), or all GPU-hours over
    `max_gpus` where that is more. GPU fields are None on CPU. FLOPs are those of whole runs;
    GPU-hours of a branch are those of the steps it trains itself, and with branches the totals
    say in "saving" what that spares.
    """
    specs = list(specs)
    ids = [spec.run_id for spec in specs]
    done = _measured(specs, ids, runs_dir)
    rate = measured_rate(list(done.values())) if done else None
    states = _states(ids, runs_dir)
    rows, disk = [], 0.0
    known: dict[tuple[Any, ...], tuple[dict[str, Any], float | None, int]] = {}
    for spec, run_id in zip(specs, ids, strict=True):
        alike = _price_key(spec)
        if alike not in known:
            known[alike] = describe(spec), memory_gib(spec), checkpoint_bytes(spec)
        numbers, memory, folder_bytes = known[alike]
        hours = done[run_id][1] if run_id in done else None
        speed = rate or assumed_rate(spec.precision, peak_tflops=peak_tflops)
        row = plan_row(spec, numbers, run_id=run_id, memory=memory, rate=speed, hours=hours)
        rows.append({**row, "state": states[run_id]})
        disk += folder_bytes * num_kept(spec)
    return {
        "schema": 1,
        "study": specs[0].study if specs else "",
        "scale": specs[0].scale if specs else "",
        "runs": rows,
        "totals": _totals(rows, specs, disk=disk, max_gpus=max_gpus) | _shared(rows, specs),
        # One run of each size, as it would be on 1 to 64 GPUs.
        "memory_by_gpus": gpu_table(
            {spec.size: spec for spec in specs if spec.resources.gpus_per_node}
        ),
    }


def plan_row(
    spec: RunSpec,
    numbers: dict[str, Any],
    *,
    run_id: str,
    memory: float | None = None,
    rate: Rate | None = None,
    hours: float | None = None,
) -> dict[str, Any]:
    """Return one run's row without its state; `hours` are GPU-hours measured, not estimated."""
    asked = spec.resources
    cost: tuple[float | None, ...] = (None, None, None)
    if asked.gpus_per_node:
        rate = rate or assumed_rate(spec.precision)
        own_flops = numbers["compute_flops"] * _own_share(spec)
        cost = (hours,) * 3 if hours else gpu_hours(own_flops, rate)
    return {
        "run_id": run_id,
        "axes": dict(spec.axes),
        "num_params_total": numbers["num_params_total"],
        "num_params_trainable": numbers["num_params_trainable"],
        "num_params_policy": numbers["num_params_policy"],
        "num_samples_seen": spec.num_samples_seen,
        "num_unique_episodes": spec.num_unique_episodes,
        "num_domains": len(spec.data.mixture),
        "seed": spec.seeds.init,
        "global_batch_size": spec.global_batch_size,
        "num_steps": spec.num_steps,
        "compute_flops": numbers["compute_flops"],
        "nodes": asked.nodes,
        "gpus_per_node": asked.gpus_per_node,
        "memory_gib_per_gpu": memory,
        **dict(zip(GPU_HOURS, cost, strict=True)),
    }


def memory_gib(spec: RunSpec) -> float | None:
    """Return the estimated peak GiB on each GPU, None on CPU."""
    return needed_memory(spec, device="gpu").total / GIB if spec.resources.gpus_per_node else None


def num_kept(spec: RunSpec) -> int:
    """Return how many step folders the finished run keeps."""
    engine = spec.engine
    if engine.keep_steps or spec.init.trunk:
        return len(_kept_steps(spec))
    return num_checkpoints(
        num_steps=spec.num_steps,
        save_every=engine.save_every,
        keep_last=engine.keep_last,
        keep_every=engine.keep_every,
    )


def _price_key(spec: RunSpec) -> tuple[Any, ...]:
    """Return what describe and memory depend on; parts that runs share count as one by identity.

    Valid while the specs are held, as during one plan.
    """
    parts = (spec.model, spec.data, spec.optim, spec.schedule, spec.engine)
    numbers = (spec.stage, spec.precision, spec.global_batch_size, spec.num_steps)
    return (*numbers, *(id(part) for part in parts), id(spec.resources))


def _measured(
    specs: list[RunSpec], ids: list[str], runs_dir: str | Path
) -> dict[str, tuple[float, float]]:
    """Return (FLOPs trained, GPU-hours) of the runs that are done and used GPUs."""
    found = {}
    there = _folders(runs_dir)
    for spec, run_id in zip(specs, ids, strict=True):
        if run_id not in there:
            continue
        metrics = _final_metrics(Run.of(runs_dir, run_id))
        flops, hours = metrics.get("compute/flops"), metrics.get("compute/gpu_hours")
        if flops and hours:
            found[run_id] = (flops * _own_share(spec), hours)
    return found


def _final_metrics(run: Run) -> dict[str, float]:
    """Return the metrics of a done run, {} for another or one whose DONE is damaged."""
    try:
        done = run.done()
    except DamagedFileError:
        return {}
    return done.metrics if done else {}


def _own_share(spec: RunSpec) -> float:
    return own_steps(spec) / spec.num_steps


def _kept_steps(spec: RunSpec) -> set[int]:
    """Return the steps whose folders a finished trunk or branch keeps (training/checkpoint.py)."""
    engine, first = spec.engine, spec.init.trunk_step
    regular = range(engine.save_every, spec.num_steps, engine.save_every or spec.num_steps)
    named = {step for step in engine.keep_steps if first < step <= spec.num_steps}
    saved = {step for step in regular if step > first} | named | {spec.num_steps}
    every = {step for step in saved if engine.keep_every and step % engine.keep_every == 0}
    return named | every | set(sorted(saved)[-max(1, engine.keep_last) :])


def _states(ids: list[str], runs_dir: str | Path) -> dict[str, str]:
    held, there = read_held(runs_dir), _folders(runs_dir)
    seen = [run_id for run_id in ids if run_id in there or run_id in held]
    states = {run_id: run_state(Run.of(runs_dir, run_id), held).state for run_id in seen}
    return dict.fromkeys(ids, "planned") | states


def _folders(runs_dir: str | Path) -> set[str]:
    """Return the names below a folder of runs: one look instead of one a run that is not there."""
    try:
        return set(os.listdir(runs_dir))
    except OSError:
        return set()


def _totals(
    rows: list[dict[str, Any]], specs: list[RunSpec], *, disk: float, max_gpus: int | None
) -> dict[str, Any]:
    priced = {row["run_id"]: row for row in rows if row["gpu_hours"] is not None}
    sums: dict[str, float | None] = dict.fromkeys(GPU_HOURS)
    wall = None
    if priced:
        sums = {name: sum(row[name] for row in priced.values()) for name in GPU_HOURS}
        behind = {row["run_id"]: spec.init.trunk for row, spec in zip(rows, specs, strict=True)}
        gpus = {key: row["nodes"] * row["gpus_per_node"] for key, row in priced.items()}
        hours = {key: row["gpu_hours"] / gpus[key] for key, row in priced.items()}
        wall = max(own + hours.get(behind[key], 0.0) for key, own in hours.items())
        if max_gpus:
            wall = max(wall, (sums["gpu_hours"] or 0.0) / max_gpus)
    return {
        "num_runs": len(rows),
        "compute_flops": sum(row["compute_flops"] for row in rows),
        **sums,
        "wall_hours": wall,
        "disk_gib": disk / GIB,
    }


def _shared(rows: list[dict[str, Any]], specs: list[RunSpec]) -> dict[str, Any]:
    """Return {"saving": ...}, what the branches' runs would cost alone and cost shared, if any."""
    found = saving(specs)
    if not found["num_branches"]:
        return {}
    pairs = list(zip(rows, specs, strict=True))
    priced = [(row, spec) for row, spec in pairs if row["gpu_hours"] is not None]
    alone = sum(row["gpu_hours"] / _own_share(spec) for row, spec in priced) if priced else None
    flops = sum(row["compute_flops"] * _own_share(spec) for row, spec in pairs)
    return {"saving": {**found, "compute_flops_shared": flops, "gpu_hours_alone": alone}}
