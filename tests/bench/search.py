"""The default sampler beside random search on objectives with a known optimum.

Regret after 40 trials over 20 seeds, with the controller's own way of proposing points, and what a
proposal costs. Target: the median below random search's, one-sided Wilcoxon p < .05.
"""

import json
import math
import statistics
import time

import optuna
from scipy import stats

from scaling.search.propose import propose
from scaling.search.task import Sampler, Settings
from scaling.study import Choice, IntRange, Search

SEEDS, TRIALS = 20, 40
WINDOWS = (1.0, 2.0, 4.0, 8.0)
SPACE = {"soft_prompt_length": IntRange(low=1, high=128), "prediction_window_s": Choice(WINDOWS)}
SEARCH = Search(space=SPACE, defaults={}, first=(), run={})
# (best length, best window): inside, at a corner, and where window and length trade off.
OPTIMA = {"inside": (24, 4.0), "corner": (128, 8.0), "short": (3, 1.0)}


def regret(sampler: Sampler, seed: int, optimum: tuple[int, float]) -> float:
    """Return how far the best of 40 proposals is from the optimum of a bowl."""
    study = optuna.create_study(direction="minimize")
    settings, best = Settings(trials=TRIALS, seed=seed, sampler=sampler), math.inf
    for _ in range(TRIALS):
        trial = propose(study, SEARCH, settings)
        length = math.log(trial.params["soft_prompt_length"] / optimum[0])
        window = math.log(trial.params["prediction_window_s"] / optimum[1])
        value = 0.01 * length**2 + 0.02 * window**2
        study.tell(trial, value)
        best = min(best, value)
    return best


def main() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    default, rows, began = Settings(trials=1).sampler, {}, time.process_time()
    for name, optimum in OPTIMA.items():
        ours = [regret(default, seed, optimum) for seed in range(SEEDS)]
        chance = [regret("random", 1000 + seed, optimum) for seed in range(SEEDS)]
        found = stats.wilcoxon(ours, chance, alternative="less", zero_method="zsplit")
        rows[name] = (statistics.median(ours), statistics.median(chance), float(found.pvalue))
    cost = (time.process_time() - began) / (len(OPTIMA) * 2 * SEEDS * TRIALS)
    print(f"{'optimum':<10}{'random':>12}{default:>12}{'p':>10}   median regret, {SEEDS} seeds")
    for name, (ours_regret, chance_regret, p) in rows.items():
        print(f"{name:<10}{chance_regret:>12.2e}{ours_regret:>12.2e}{p:>10.1e}")
    print(f"a proposal takes {1000 * cost:.1f} CPU-ms")
    ours_regret, chance_regret, p = rows["inside"]
    print(json.dumps({
        "name": "search", "ratio": chance_regret / max(ours_regret, 1e-12),
        "baseline_regret": chance_regret, "ours_regret": ours_regret, "p_value": p,
        "p_values": {name: row[2] for name, row in rows.items()}, "repeats": SEEDS,
        "proposal_cpu_ms": 1000 * cost,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
