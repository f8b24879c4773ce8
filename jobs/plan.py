"""The plan of a study: what each run is, costs and already has."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
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
from scaling.cost import Cost, cost_of
from scaling.document import Document, optional
from scaling.feature_sizes import feature_bytes
from scaling.memory import GpuMemory, checkpoint_bytes, gpu_table
from scaling.memory import memory as needed_memory
from scaling.runs.files import DamagedFileError
from scaling.runs.folder import Run
from scaling.runs.state import State
from scaling.spec import RunSpec, Value
from scaling.study import Saving, own_steps, saving


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun(Document):
    """One run of a plan: what it is, what it asks for and costs, where it stands.

    GPU fields are None on CPU; GPU-hours are likely, low and high, all three the measured ones of a
    run that is done.
    """

    run_id: str
    axes: dict[str, Value | None]
    num_params_total: int
    num_params_trainable: int
    num_params_policy: int
    num_samples_seen: int
    num_unique_episodes: int
    num_domains: int
    seed: int
    global_batch_size: int
    num_steps: int
    compute_flops: float
    nodes: int
    gpus_per_node: int
    memory_gib_per_gpu: float | None
    gpu_hours: float | None
    gpu_hours_low: float | None
    gpu_hours_high: float | None
    state: State

    @property
    def num_gpus(self) -> int:
        """GPUs that it holds at once."""
        return self.nodes * self.gpus_per_node


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared(Saving):
    """What branches spare: FLOPs as shared, GPU-hours as if each run trained alone."""

    compute_flops_shared: float
    gpu_hours_alone: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals(Document):
    """The sums of a plan; `wall_hours` with all runs at once, or under a ceiling of GPUs."""

    num_runs: int
    compute_flops: float
    gpu_hours: float | None
    gpu_hours_low: float | None
    gpu_hours_high: float | None
    wall_hours: float | None
    disk_gib: float
    saving: Shared | None = optional()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Document):
    """A study before it starts (contract: `plan --json`).

    `memory_by_gpus`: one run of each size, as it would be on 1 to 64 GPUs.
    """

    schema: int = 1
    study: str
    scale: str
    runs: list[PlannedRun]
    totals: Totals
    memory_by_gpus: list[GpuMemory] | None = optional()


def plan(
    specs: Iterable[RunSpec],
    runs_dir: str | Path,
    *,
    cost: Callable[[RunSpec], Cost] = cost_of,
    max_gpus: int | None = None,
    peak_tflops: float = 0.0,
) -> Plan:
    """Return what each run is, costs and already has; nothing is written.

    GPU-hours assume 15 to 50 % MFU of GPUs with `peak_tflops` (0: A100s) until a run of the plan is
    done on GPUs: its own then count as measured, and its rate prices the others. Wall hours: the
    longest run (a branch goes behind its trunk), or all GPU-hours over `max_gpus` where that is
    more. FLOPs are those of whole runs; GPU-hours of a branch are those of the steps it trains
    itself, and with branches the totals say in `saving` what that spares.
    """
    specs = list(specs)
    ids = [spec.run_id for spec in specs]
    done = _measured(specs, ids, runs_dir)
    rate = measured_rate(list(done.values())) if done else None
    states = _states(ids, runs_dir)
    rows, disk = [], 0.0
    known: dict[tuple[Any, ...], tuple[Cost, float | None, int]] = {}
    for spec, run_id in zip(specs, ids, strict=True):
        alike = _price_key(spec)
        if alike not in known:
            known[alike] = cost(spec), memory_gib(spec), checkpoint_bytes(spec)
        numbers, memory, folder_bytes = known[alike]
        measured = done[run_id][1] if run_id in done else None
        hours = _gpu_hours(spec, numbers, rate, measured, peak_tflops=peak_tflops)
        rows.append(_planned(spec, run_id, numbers, hours, memory=memory, state=states[run_id]))
        disk += folder_bytes * num_kept(spec)
    sizes = {spec.size: spec for spec in specs if spec.resources.gpus_per_node}
    return Plan(
        study=specs[0].study if specs else "",
        scale=specs[0].scale if specs else "",
        runs=rows,
        totals=_totals(rows, specs, disk=disk + feature_bytes(specs), max_gpus=max_gpus),
        memory_by_gpus=gpu_table(sizes),
    )


Hours = tuple[float | None, float | None, float | None]


def _gpu_hours(
    spec: RunSpec, cost: Cost, rate: Rate | None, measured: float | None, *, peak_tflops: float
) -> Hours:
    """Return (likely, low, high) GPU-hours of a run, all None on CPU."""
    if not spec.resources.gpus_per_node:
        return None, None, None
    if measured:
        return measured, measured, measured
    rate = rate or assumed_rate(spec.precision, peak_tflops=peak_tflops)
    return gpu_hours(cost.compute_flops * _own_share(spec), rate)


def _planned(
    spec: RunSpec, run_id: str, cost: Cost, hours: Hours, *, memory: float | None, state: State
) -> PlannedRun:
    likely, low, high = hours
    return PlannedRun(
        run_id=run_id,
        axes=dict(spec.axes),
        num_params_total=cost.num_params_total,
        num_params_trainable=cost.num_params_trainable,
        num_params_policy=cost.num_params_policy,
        num_samples_seen=spec.num_samples_seen,
        num_unique_episodes=spec.num_unique_episodes,
        num_domains=len(spec.data.mixture),
        seed=spec.seeds.init,
        global_batch_size=spec.global_batch_size,
        num_steps=spec.num_steps,
        compute_flops=cost.compute_flops,
        nodes=spec.resources.nodes,
        gpus_per_node=spec.resources.gpus_per_node,
        memory_gib_per_gpu=memory,
        gpu_hours=likely,
        gpu_hours_low=low,
        gpu_hours_high=high,
        state=state,
    )


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
    """Return what cost and memory depend on; parts that runs share count as one by identity.

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


def _states(ids: list[str], runs_dir: str | Path) -> dict[str, State]:
    held, there = read_held(runs_dir), _folders(runs_dir)
    seen = [run_id for run_id in ids if run_id in there or run_id in held]
    states = {run_id: run_state(Run.of(runs_dir, run_id), held).state for run_id in seen}
    nothing: State = "planned"
    return dict.fromkeys(ids, nothing) | states


def _folders(runs_dir: str | Path) -> set[str]:
    """Return the names below a folder of runs: one look instead of one a run that is not there."""
    try:
        return set(os.listdir(runs_dir))
    except OSError:
        return set()


def _totals(
    rows: list[PlannedRun], specs: list[RunSpec], *, disk: float, max_gpus: int | None
) -> Totals:
    # By run id: GPU-hours of a run that is declared twice count once.
    priced = {row.run_id: row for row in rows if row.gpu_hours is not None}
    hours = sum(row.gpu_hours or 0.0 for row in priced.values())
    return Totals(
        num_runs=len(rows),
        compute_flops=sum(row.compute_flops for row in rows),
        gpu_hours=hours if priced else None,
        gpu_hours_low=sum(row.gpu_hours_low or 0.0 for row in priced.values()) if priced else None,
        gpu_hours_high=sum(row.gpu_hours_high or 0.0 for row in priced.values())
        if priced
        else None,
        wall_hours=_wall_hours(priced, specs, max_gpus) if priced else None,
        disk_gib=disk / GIB,
        saving=_shared(rows, specs),
    )


def _wall_hours(priced: dict[str, PlannedRun], specs: list[RunSpec], max_gpus: int | None) -> float:
    behind = {spec.run_id: spec.init.trunk for spec in specs if spec.init.trunk}
    lasts = {key: (row.gpu_hours or 0.0) / row.num_gpus for key, row in priced.items()}
    longest = max(own + lasts.get(behind.get(key, ""), 0.0) for key, own in lasts.items())
    if not max_gpus:
        return longest
    return max(longest, sum(row.gpu_hours or 0.0 for row in priced.values()) / max_gpus)


def _shared(rows: list[PlannedRun], specs: list[RunSpec]) -> Shared | None:
    """Return what the branches' runs would cost alone and cost shared, None without branches."""
    found = saving(specs)
    if not found.num_branches:
        return None
    pairs = list(zip(rows, specs, strict=True))
    alone = [row.gpu_hours / _own_share(spec) for row, spec in pairs if row.gpu_hours is not None]
    return Shared(
        **found.to_dict(),
        compute_flops_shared=sum(row.compute_flops * _own_share(spec) for row, spec in pairs),
        gpu_hours_alone=sum(alone) if alone else None,
    )
