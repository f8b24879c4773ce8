"""Simulated run tables for the tests of reports, and a parser as of the command line."""

import itertools

import numpy as np
import pandas as pd

from scaling.cli.parser import _call, _parse

SIZES = {"h16": 1.0e6, "h32": 1.2e6, "h64": 2.0e6, "h128": 5.0e6}


def demo_study(*, noise=0.02, seed=0, falls=True, seeds=2):
    """Three axes that meet at the centre, with blind runs and trivial predictors."""
    points = [(size, 40, 7, False) for size in SIZES]
    points += [("h64", episodes, 7, False) for episodes in (5, 10, 20)]
    points += [("h64", 40, domains, False) for domains in (1, 2, 4)]
    points += [("h64", 40, 7, True)]
    rng = np.random.default_rng(seed)
    rows = []
    for (size, episodes, domains, blind), run in itertools.product(points, range(seeds)):
        level = 0.06 if blind else 0.03
        if falls and not blind:
            level += 8 * SIZES[size] ** -0.5 + 0.15 / (episodes * domains) ** 0.6 + 0.01 / domains
        rows.append(
            {
                "run_id": f"{len(rows):012x}",
                "study": "sweeps.toy",
                "stage": "pretrain",
                "state": "done",
                "seed": run,
                "size": size,
                "num_params_total": SIZES[size],
                "num_samples_seen": 6400,
                "num_unique_episodes": episodes * domains,
                "episodes_per_domain": float(episodes),
                "num_domains": domains,
                "blind": blind,
                "val_l1": level * np.exp(noise * rng.standard_normal()),
                "val_l1_sem": 0.001,
                "baseline_mean_chunk_l1": 0.09,
                "baseline_hold_l1": 0.2,
            }
        )
    return pd.DataFrame(rows)


def ask(*words):
    """Return what a command of `scaling` returns; its ValueErrors are raised."""
    return _call(_parse(words))
