"""Publishing 1,000 simulated runs to a new SQLite MLflow, beside bare calls with the same values.

The baseline does what cannot be left out: create_run, log_batch in blocks of 1,000, set_terminated.
Blocks of runs take turns, so that a busy machine slows both; CPU seconds stand beside wall seconds.
Targets: 0.8 of the bare speed, 90 s for 1,000 runs, 1 s for a sync with nothing to do (a new
process).
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from scaling.runs.curves import final_points, read_points, thin
from scaling.runs.folder import Run
from scaling.spec import RunSpec, SeedConfig
from scaling.study import load_study
from scaling.tracking.publish import publish
from scaling.tracking.store import connect

NUM_RUNS = int(os.environ.get("BENCH_RUNS", "1000"))
BLOCK = 50
LINES, METRICS = 25, 14  # log_every 20 over 500 steps; what a run logs each time
START = 1_700_000_000.0


def simulated_runs(folder: Path, count: int) -> list[RunSpec]:
    """Write `count` finished run folders with simulated curves."""
    (base,) = load_study("sweeps.pretrain").expand("cpu")
    specs = [replace(base, study="sweeps.bench", seeds=SeedConfig(init=n)) for n in range(count)]
    names = ["loss/train", *(f"metric/{number}" for number in range(METRICS - 1))]
    for spec in specs:
        run_dir = folder / spec.run_id
        (run_dir / "attempts").mkdir(parents=True)
        spec.save(run_dir / "run.yaml")
        env = {"code_digest": "c0de", "eval_manifest": {"val": "a" * 64, "test": "b" * 64}}
        (run_dir / "env.json").write_text(json.dumps(env))
        attempt = {"job_id": "1", "start": START, "end": START + 500, "gpu_hours": 0.0}
        (run_dir / "attempts" / "0001.json").write_text(json.dumps(attempt))
        lines = [
            {"step": 20 * line, "num_samples_seen": 320 * line, "time": START + line, "attempt": 1}
            | {name: 1.0 / line + index for index, name in enumerate(names)}
            for line in range(1, LINES + 1)
        ]
        (run_dir / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        metrics = {"val/l1": 0.05, "val/l1_sem": 0.001, "test/l1": 0.05}
        done = {"step": 500, "num_samples_seen": 8000, "time": START + 500, "metrics": metrics}
        (run_dir / "DONE").write_text(json.dumps(done))
    return specs


def bare(uri: str, specs: list[RunSpec], folder: Path) -> int:
    """Log the same values without labels, inputs, files or records; return how many."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client, total = MlflowClient(uri), 0
    found = client.get_experiment_by_name("bare")
    experiment = found.experiment_id if found else client.create_experiment("bare")
    for spec in specs:
        points, _ = read_points(folder / spec.run_id / "metrics.jsonl")
        done = Run.of(folder, spec.run_id).done()
        assert done is not None
        points = thin([*points, *final_points(done, time_s=0.0)], {}, num_steps=spec.num_steps)
        run = client.create_run(experiment)
        metrics = [Metric(p.metric, p.value, p.time_ms, p.step) for p in points]
        for start in range(0, len(metrics), 1000):
            client.log_batch(run.info.run_id, metrics=metrics[start : start + 1000])
        client.set_terminated(run.info.run_id)
        total += len(metrics)
    return total


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def main() -> None:
    values = [0, 0]
    spent: list[list[tuple[float, float]]] = [[], []]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        specs = simulated_runs(folder / "runs", NUM_RUNS)
        uris = [f"sqlite:///{folder / part / 'mlflow.db'}" for part in ("bare", "ours")]
        for uri in uris:
            connect(uri)  # make the databases before the clocks run
        sides = [
            lambda part: bare(uris[0], part, folder / "runs"),
            lambda part: publish(
                part, folder / "runs", tracking_uri=uris[1]
            ).values,
        ]  # fmt: skip
        for number, first in enumerate(range(0, NUM_RUNS, BLOCK)):
            order = (0, 1) if number % 2 == 0 else (1, 0)
            for side in order:
                wall, cpu = clocks()
                values[side] += sides[side](specs[first : first + BLOCK])
                end, used = clocks()
                spent[side].append((end - wall, used - cpu))
        noop = [_noop(specs, folder, uris[1]) for _ in range(3)]
    baseline, ours = spent
    bare_s, bare_cpu = (sum(row[k] for row in baseline) for k in (0, 1))
    ours_s, ours_cpu = (sum(row[k] for row in ours) for k in (0, 1))
    speed = [b[0] / values[0] / (o[0] / values[1]) for b, o in zip(baseline, ours, strict=True)]
    print(f"{NUM_RUNS} runs, {values[0]:,} / {values[1]:,} values; wall and CPU s")
    print(f"{'bare log_batch':<24}{bare_s:>8.1f}{bare_cpu:>8.1f}{values[0] / bare_s:>10,.0f} /s")
    print(f"{'scaling sync':<24}{ours_s:>8.1f}{ours_cpu:>8.1f}{values[1] / ours_s:>10,.0f} /s")
    print(f"{'no-op sync (process)':<24}{statistics.median(w for w, _ in noop):>8.2f}"
          f"{statistics.median(c for _, c in noop):>8.2f}")  # fmt: skip
    ratio = (values[1] / ours_s) / (values[0] / bare_s)
    print(json.dumps({
        "name": "publish", "ratio": ratio, "ratio_median": statistics.median(speed),
        "ratio_cpu": (values[1] / ours_cpu) / (values[0] / bare_cpu), "baseline_s": bare_s,
        "ours_s": ours_s, "ours_cpu_s": ours_cpu, "repeats": len(ours), "num_runs": NUM_RUNS,
        "values": values[1], "noop_s": statistics.median(w for w, _ in noop),
        "noop_cpu_s": statistics.median(c for _, c in noop),
    }))  # fmt: skip


def _noop(specs: list[RunSpec], folder: Path, uri: str) -> tuple[float, float]:
    """Return wall and CPU seconds of a new process that finds nothing to publish."""
    code = (
        "import sys, time, json\n"
        "from dataclasses import replace\n"
        "from scaling.spec import SeedConfig\n"
        "from scaling.study import load_study\n"
        "from scaling.tracking.publish import publish\n"
        "(base,) = load_study('sweeps.pretrain').expand('cpu')\n"
        "specs = [replace(base, study='sweeps.bench', seeds=SeedConfig(init=n))\n"
        "         for n in range(int(sys.argv[1]))]\n"
        "total = publish(specs, sys.argv[2], tracking_uri=sys.argv[3])\n"
        "assert total.values == 0 and total.runs == len(specs), total\n"
        "assert 'mlflow' not in sys.modules\n"
        "print(time.process_time())\n"
    )
    command = [sys.executable, "-c", code, str(len(specs)), str(folder / "runs"), uri]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return time.perf_counter() - began, float(done.stdout)


if __name__ == "__main__":
    main()
