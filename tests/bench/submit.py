"""Submitting 1,000 runs to the emulated Slurm, beside a bare sbatch of the same array.

Needs root and the packages that `jobs/slurm/dev_cluster.sh install` installs. The arrays are held,
so that nothing starts. Target: at most 10 s more than the bare sbatch.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from jobs.cluster import Cluster
from jobs.slurm.submit import submit
from scaling.spec import ResourceConfig, RunSpec, SeedConfig
from scaling.study import load_study

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "slurm"))
from slurm_helpers import open_slurm

NUM_RUNS, REPEATS, TARGET_S = 1000, 3, 10.0


def runs_of(repeat: int) -> list[RunSpec]:
    """Return 0.9B runs on two nodes of eight GPUs, other ones at each repeat."""
    (base,) = load_study("sweeps.pretrain").expand("a100")
    base = replace(base, resources=ResourceConfig(nodes=2, gpus_per_node=8))
    first = repeat * NUM_RUNS
    seeds = range(first, first + NUM_RUNS)
    return [replace(base, seeds=SeedConfig(init=seed, data=seed)) for seed in seeds]


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    cluster = Cluster(name="bench", partition="main", nodes=2, gpus_per_node=8, max_gpus=16,
                      time_limit="10", sbatch_options=["--hold"])  # fmt: skip
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for slurm in open_slurm():
            for repeat in range(REPEATS):
                specs, runs = runs_of(repeat), Path(folder) / str(repeat)
                ours = timed(lambda specs=specs, runs=runs: submit(specs, runs, cluster))
                again = timed(lambda specs=specs, runs=runs: submit(specs, runs, cluster))
                (script,) = runs.glob("_slurm/*/array-0.sbatch")
                words = ["sbatch", "--parsable", str(script)]
                bare = timed(lambda words=words: subprocess.run(words, check=True))
                rows.append((bare, ours, again))
            slurm.call("scancel", "-u", "0")
    bare, ours, again = (statistics.median(row[part] for row in rows) for part in range(3))
    print(f"{'':<24}{'wall s':>8}   medians of {REPEATS}, {NUM_RUNS} runs")
    print(f"{'bare sbatch':<24}{bare:>8.2f}")
    print(f"{'scaling submit':<24}{ours:>8.2f}   target {TARGET_S:.0f} s more than that")
    print(f"{'the same again (no-op)':<24}{again:>8.2f}")
    result = {"name": "submit", "ratio": bare / ours, "baseline_s": bare, "ours_s": ours,
              "extra_s": ours - bare, "again_s": again, "repeats": REPEATS,
              "num_runs": NUM_RUNS}  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
