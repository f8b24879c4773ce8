"""Planning 10,000 runs of 0.9B, beside the stdlib's own way to name as many configs.

Baseline: dataclasses.asdict, JSON and sha256 of each run; ours: the whole `plan --json` document
(ids, parameters, FLOPs, memory, GPU-hours, states). Target: 2 s.
"""

import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from jobs.resources import plan
from scaling.describe import describe
from scaling.spec import RunSpec, SeedConfig
from scaling.study import load_study

NUM_RUNS, REPEATS, TARGET_S = 10_000, 3, 2.0


def many_runs(number: int) -> list[RunSpec]:
    """Return pretraining runs that differ in their seeds."""
    (base,) = load_study("sweeps.pretrain").expand("a100")
    return [replace(base, seeds=SeedConfig(init=i, data=i)) for i in range(number)]


def bare(specs: list[RunSpec]) -> None:
    """Name every run with the standard library alone."""
    for spec in specs:
        hashlib.sha256(json.dumps(asdict(spec), sort_keys=True).encode()).hexdigest()


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return (wall, CPU) seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    specs = many_runs(NUM_RUNS)
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            (timed(lambda: bare(specs)), timed(lambda: plan(specs, Path(folder), describe)))
            for _ in range(REPEATS)
        ]
    (base, base_cpu), (ours, ours_cpu) = (
        [statistics.median(row[which][part] for row in rows) for part in (0, 1)] for which in (0, 1)
    )
    print(f"{'':<22}{'wall s':>8}{'CPU s':>8}   medians of {REPEATS}, {NUM_RUNS} runs")
    print(f"{'asdict, JSON, sha256':<22}{base:>8.2f}{base_cpu:>8.2f}")
    print(f"{'scaling plan':<22}{ours:>8.2f}{ours_cpu:>8.2f}   target {TARGET_S} s")
    result = {"name": "plan", "ratio": base / ours, "baseline_s": base, "ours_s": ours,
              "baseline_cpu_s": base_cpu, "ours_cpu_s": ours_cpu, "repeats": REPEATS,
              "num_runs": NUM_RUNS}  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
