"""Planning 10,000 runs of 0.9B as a user does, beside the stdlib's own way to name as many configs.

Baseline: dataclasses.asdict, JSON and sha256 of each run. Ours: the whole command `scaling plan
STUDY --json` as a process of its own (declared, expanded, ids, parameters, FLOPs, memory,
GPU-hours, states, JSON), which never loads torch. Target: 2 s.
"""

import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from scaling.spec import RunSpec, SeedConfig
from scaling.study import load_study

NUM_RUNS, REPEATS, TARGET_S = 10_000, 3, 2.0
REPOSITORY = Path(__file__).parents[2]
STUDY = f"""
from dataclasses import replace
from scaling.spec import SeedConfig
from scaling.study import Study
from sweeps._mixtures import paper_run, with_axes

def _runs():
    base = paper_run("0.9b")
    for seed in range({NUM_RUNS}):
        yield with_axes(replace(base, seeds=SeedConfig(init=seed, data=seed)), seed=seed)

STUDY = Study(name=__name__, description="many", varies=("seed",), holds_fixed="all else",
              runs={{"a100": _runs}})
"""
COMMAND = """
import sys
from scaling.cli import main
code = main(["plan", "many_runs", "--json"])
sys.exit("torch was loaded" if "torch" in sys.modules else code)
"""


def many_runs(number: int) -> list[RunSpec]:
    """Return pretraining runs that differ in their seeds."""
    (base,) = load_study("sweeps.pretrain").expand("a100")
    return [replace(base, seeds=SeedConfig(init=i, data=i)) for i in range(number)]


def bare(specs: list[RunSpec]) -> None:
    """Name every run with the standard library alone."""
    for spec in specs:
        hashlib.sha256(json.dumps(asdict(spec), sort_keys=True).encode()).hexdigest()


def command(folder: Path) -> None:
    """Run `scaling plan` on a study of 10,000 runs and check its document."""
    paths = os.pathsep.join([str(folder), str(REPOSITORY)])
    done = subprocess.run(
        [sys.executable, "-c", COMMAND],
        capture_output=True, text=True, cwd=folder, env=os.environ | {"PYTHONPATH": paths},
    )  # fmt: skip
    if done.returncode or len(json.loads(done.stdout)["runs"]) != NUM_RUNS:
        raise RuntimeError(done.stderr)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return (wall, CPU) seconds, children's included."""
    wall, cpu = time.perf_counter(), _cpu()
    work()
    return time.perf_counter() - wall, _cpu() - cpu


def _cpu() -> float:
    users = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in users)


def main() -> None:
    specs = many_runs(NUM_RUNS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "many_runs.py").write_text(STUDY)
        rows = [
            (timed(lambda: bare(specs)), timed(lambda: command(folder))) for _ in range(REPEATS)
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
