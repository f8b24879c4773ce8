"""Time fits, refits, profiles, the report and the import against straightforward references.

References: a 4,500-start L-BFGS grid (a sample of its starts is run and scaled up), one SciPy fit
a bootstrap replicate (a sample of replicates), one SciPy fit a profile point (a sample), and the
import of pandas + scipy.optimize. All share one process and one thread; CPU seconds are printed
beside wall seconds.
"""

# ruff: noqa: E402 - the thread count and the search path are set before anything is imported
from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
sys.path[0] = str(Path(__file__).parents[2])  # this file's folder would hide the package

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from analysis.fit import LawRegressor
from analysis.laws import Chinchilla
from analysis.uncertainty import resample_weights

ROOT = Path(__file__).parents[2]
EPOCH = ROOT.parent / "shared/reference/scaling-data/epoch_chinchilla_svg_extracted.csv"
TRUTH = {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37}
GRID = (  # 4,500 starts: log A, log B, log E, alpha, beta (Hoffmann et al. 2022, appendix)
    np.arange(0, 30, 5.0),
    np.arange(0, 30, 5.0),
    np.arange(-1, 1.5, 0.5),
    np.arange(0, 2.5, 0.5),
    np.arange(0, 2.5, 0.5),
)
DELTA = 1e-3
BASE_IMPORT = "import pandas, scipy.optimize"
OUR_IMPORT = "import analysis.fit"


def load_table() -> tuple[pd.DataFrame, str]:
    """Return 240 rows N, D, y: Epoch's points where they are at hand, simulated ones elsewhere."""
    if EPOCH.is_file():
        table = pd.read_csv(EPOCH)
        table["N"], table["y"] = table["Model Size"], table["loss"]
        table["D"] = table["Training FLOP"] / (6 * table["N"])
        return table.nsmallest(240, "loss")[["N", "D", "y"]], "Epoch's Chinchilla points"
    return simulate(240), "simulated"


def simulate(rows: int, seed: int = 0) -> pd.DataFrame:
    """Simulate a Chinchilla table with 2 % noise."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"N": 10 ** rng.uniform(7, 10, rows), "D": 10 ** rng.uniform(9, 12, rows)})
    noise = np.exp(0.02 * rng.standard_normal(rows))
    return table.assign(y=Chinchilla().predict(TRUTH, table) * noise)


def simulate_study(runs: int = 300) -> pd.DataFrame:
    """Simulate a study of three axes, five seeds a setting."""
    rng = np.random.default_rng(1)
    sizes, episodes, domains = np.logspace(6, 9, 10), 2 ** np.arange(4, 9), (1, 2, 4, 7)
    cells = list(product(sizes, episodes, domains))
    cells = [cells[i] for i in rng.choice(len(cells), runs // 5, replace=False)]
    cells[:10] = [(s, int(episodes[-1]), 7) for s in sizes]
    rows = []
    for (size, count, num), seed in product(cells, range(5)):
        level = 0.03 + 8 * size**-0.5 + 0.15 / (count * num) ** 0.6 + 0.01 / num
        rows.append(
            {
                "run_id": f"{len(rows):012x}",
                "stage": "pretrain",
                "state": "done",
                "seed": seed,
                "size": f"n{size:.0f}",
                "num_params_total": size,
                "num_samples_seen": 64_000,
                "num_unique_episodes": count * num,
                "episodes_per_domain": float(count),
                "num_domains": num,
                "blind": False,
                "gpu_hours": size / 1e8,
                "val_l1": level * np.exp(0.02 * rng.standard_normal()),
            }
        )
    return pd.DataFrame(rows)


def plain_objective(
    theta: np.ndarray, logs: tuple[np.ndarray, ...], weights: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return the summed Huber loss of log residuals and its gradient, as anybody would write it."""
    a, b, e, alpha, beta = theta
    log_n, log_d, log_y = logs
    parts = np.stack([a - alpha * log_n, b - beta * log_d, np.full_like(log_n, e)])
    top = parts.max(axis=0)
    powers = np.exp(parts - top)
    total = powers.sum(axis=0)
    r = top + np.log(total) - log_y
    size = np.abs(r)
    loss = np.where(size <= DELTA, 0.5 * r * r, DELTA * (size - 0.5 * DELTA))
    pull = weights * np.clip(r, -DELTA, DELTA) * powers / total
    slope = np.array(
        [
            pull[0].sum(),
            pull[1].sum(),
            pull[2].sum(),
            -(pull[0] @ log_n),
            -(pull[1] @ log_d),
        ]
    )
    return float(weights @ loss), slope


def plain_fit(
    start: np.ndarray, logs: tuple[np.ndarray, ...], weights: np.ndarray, held: int | None = None
) -> Any:
    """Fit once by SciPy's L-BFGS-B from one start; `held` keeps a parameter where it starts."""
    bounds: list[tuple[float | None, float | None]] = [(None, None)] * 5
    if held is not None:
        bounds[held] = (start[held], start[held])
    return minimize(
        plain_objective,
        start,
        args=(logs, weights),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": 2000, "maxfun": 5000, "ftol": 1e-15, "gtol": 1e-12},
    )


def timed(run: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Return median wall and CPU seconds of several calls."""
    wall, cpu = [], []
    for _ in range(repeats):
        before = time.perf_counter(), time.process_time()
        run()
        wall.append(time.perf_counter() - before[0])
        cpu.append(time.process_time() - before[1])
    return statistics.median(wall), statistics.median(cpu)


def import_seconds(statement: str) -> float:
    """Return CPU seconds of a new interpreter that imports something."""
    code = f"import time; {statement}; print(time.process_time())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def bench_fit(table: pd.DataFrame, repeats: int, sample: int) -> dict[str, Any]:
    """Compare one point fit with the grid of starts, and the costs that both end at."""
    logs = tuple(np.log(table[c].to_numpy()) for c in ("N", "D", "y"))
    weights = np.ones(len(table))
    starts = np.array(list(product(*GRID)))
    chosen = np.random.default_rng(0).choice(len(starts), sample, replace=False)
    found: list[Any] = []
    wall, cpu = timed(lambda: found.extend(plain_fit(starts[i], logs, weights) for i in chosen), 1)
    reg = LawRegressor(Chinchilla(), loss="huber", delta=DELTA)
    reg.fit(table, table["y"])
    ours = timed(lambda: reg.fit(table, table["y"]), repeats)
    factor = len(starts) / sample
    return {
        "baseline_s": wall * factor,
        "baseline_cpu_s": cpu * factor,
        "ours_s": ours[0],
        "ours_cpu_s": ours[1],
        "cost": reg.cost_,
        "baseline_cost": min(f.fun for f in found),
        "baseline_starts_run": sample,
        "baseline_starts_at_optimum": sum(f.fun <= reg.cost_ * (1 + 1e-6) for f in found),
    }


def bench_bootstrap(reg: LawRegressor, repeats: int, sample: int) -> dict[str, Any]:
    """Compare 1,000 refits with one SciPy fit a replicate, on the same resampled weights."""
    refits = 1000
    data = reg.data_
    weights = resample_weights(reg, refits, np.random.default_rng(reg.seed))
    logs = (data.logx["N"], data.logx["D"], np.log(data.y))
    start = plain_start(reg)
    found: list[Any] = []
    wall, cpu = timed(
        lambda: found.extend(plain_fit(start, logs, weights[i]) for i in range(sample)), 1
    )

    def run() -> None:
        reg._draws.clear()
        reg.draws(refits, reg.seed, "cluster")

    ours = timed(run, repeats)
    theta = reg._objective.from_centred(reg.draws(refits, reg.seed, "cluster")[:sample])
    order = [reg.law.param_names.index(n) for n in ("A", "B", "E", "alpha", "beta")]
    costs = [plain_objective(t[order], logs, w)[0] for t, w in zip(theta, weights, strict=False)]
    worse = [c > f.fun * (1 + 1e-6) for c, f in zip(costs, found, strict=True)]
    return {
        "baseline_s": wall * refits / sample,
        "baseline_cpu_s": cpu * refits / sample,
        "ours_s": ours[0],
        "ours_cpu_s": ours[1],
        "refits_above_scipy": int(sum(worse)),
        "refits_compared": sample,
    }


def plain_start(reg: LawRegressor) -> np.ndarray:
    """Return the fit in the reference's parameters."""
    p = reg.params_
    return np.array([np.log(p["A"]), np.log(p["B"]), np.log(p["E"]), p["alpha"], p["beta"]])


def bench_profile(reg: LawRegressor, repeats: int, sample: int) -> dict[str, Any]:
    """Compare five profiles with one SciPy fit a grid point, each from its neighbour."""
    data = reg.data_
    logs = (data.logx["N"], data.logx["D"], np.log(data.y))
    start = plain_start(reg)
    grid = np.log(reg.profile("A").grid)

    def plain() -> None:
        at = start.copy()
        for value in grid[len(grid) // 2 :][:sample]:
            at[0] = value
            at = plain_fit(at, logs, np.ones(len(data.y)), held=0).x

    def run() -> None:
        reg._profiles.clear()
        for name in reg.law.param_names:
            reg.profile(name)

    wall, cpu = timed(plain, 1)
    ours = timed(run, repeats)
    points = 5 * len(grid)
    return {
        "baseline_s": wall * points / sample,
        "baseline_cpu_s": cpu * points / sample,
        "ours_s": ours[0],
        "ours_cpu_s": ours[1],
    }


def bench_report() -> dict[str, Any]:
    """Time the whole report of a simulated study of 300 runs."""
    from analysis.report import build_report

    runs = simulate_study()
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = timed(
            lambda: build_report(runs, None, study="simulated", out_dir=Path(folder)), 1
        )
    return {"ours_s": wall, "ours_cpu_s": cpu}


def bench_import(repeats: int) -> dict[str, Any]:
    """Compare the import of `analysis.fit` with that of what it stands on, interleaved."""
    pairs = [(import_seconds(BASE_IMPORT), import_seconds(OUR_IMPORT)) for _ in range(repeats)]
    base, ours = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    ratio = statistics.median(p[1] / p[0] for p in pairs)
    return {"baseline_cpu_s": base, "ours_cpu_s": ours, "import_ratio": ratio}


def bench_growth(losses: tuple[str, ...] = ("huber", "ls", "lad")) -> list[dict[str, Any]]:
    """Time point fits of 1,000 to 100,000 simulated rows."""
    rows: list[dict[str, Any]] = []
    for size in (1_000, 10_000, 100_000):
        table = simulate(size)
        row: dict[str, Any] = {"rows": size}
        for loss in losses:
            reg = LawRegressor(Chinchilla(), loss=loss)  # type: ignore[arg-type]
            row[loss] = timed(lambda reg=reg, t=table: reg.fit(t, t["y"]), 1)[1]
        rows.append(row)
    return rows


def show(title: str, found: dict[str, Any]) -> None:
    """Print one line of the table."""
    cells = [f"{title:<34}"]
    for key in ("baseline_s", "ours_s", "baseline_cpu_s", "ours_cpu_s"):
        cells.append(f"{found[key]:>14.4f}" if key in found else f"{'':>14}")
    if "baseline_cpu_s" in found:
        cells.append(f"{found['baseline_cpu_s'] / found['ours_cpu_s']:>10.1f}")
    print("".join(cells))


def main() -> None:
    """Run every comparison, print the table, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--starts", type=int, default=45, help="of the 4,500, run and scaled up")
    parser.add_argument("--replicates", type=int, default=20, help="of the 1,000, run, scaled up")
    arguments = parser.parse_args()
    table, source = load_table()
    reg = LawRegressor(Chinchilla(), loss="huber", delta=DELTA).fit(table, table["y"])
    fit = bench_fit(table, arguments.repeats, arguments.starts)
    boot = bench_bootstrap(reg, 3, arguments.replicates)
    profile = bench_profile(reg, 3, 10)
    imports = bench_import(arguments.repeats)
    growth = bench_growth()
    report = bench_report()
    print(f"240 rows: {source}; Huber, delta {DELTA:g}, log residuals")
    head = ("reference s", "ours s", "reference CPU", "ours CPU")
    print(" " * 34 + "".join(f"{h:>14}" for h in head) + f"{'CPU ratio':>10}")
    show("point fit (4,500-start grid)", fit)
    show("1,000 bootstrap refits", boot)
    show("profiles of 5 parameters", profile)
    show("report of 300 simulated runs", report)
    show("import analysis.fit", imports)
    print(
        f"cost: ours {fit['cost']:.12g}, grid {fit['baseline_cost']:.12g} "
        f"({fit['baseline_starts_at_optimum']} of {fit['baseline_starts_run']} starts there); "
        f"refits above SciPy's cost by more than 1e-6: {boot['refits_above_scipy']} of "
        f"{boot['refits_compared']}"
    )
    for row in growth:
        print(f"{row['rows']:>8} rows: " + ", ".join(f"{k} {v:.3f} s" for k, v in row.items()
                                                      if k != "rows"))  # fmt: skip
    record = {
        "name": "analysis",
        "ratio": fit["baseline_cpu_s"] / fit["ours_cpu_s"],
        "baseline_s": fit["baseline_s"],
        "ours_s": fit["ours_s"],
        "repeats": arguments.repeats,
        "bootstrap_ratio": boot["baseline_cpu_s"] / boot["ours_cpu_s"],
        "bootstrap_s": boot["ours_s"],
        "profile_ratio": profile["baseline_cpu_s"] / profile["ours_cpu_s"],
        "profile_s": profile["ours_s"],
        "report_s": report["ours_s"],
        "import_ratio": imports["import_ratio"],
        "growth": growth,
        "source": source,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
