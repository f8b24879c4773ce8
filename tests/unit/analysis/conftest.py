"""Shared fixtures: one simulated study, fitted and reported once."""

import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from studies import demo_study

from analysis.report import build_report

QUICK = {"num_draws": 60}


@pytest.fixture(scope="session")
def reported(tmp_path_factory):
    """The document of a report on a falling study, and its folder."""
    runs = demo_study()
    curves = pd.DataFrame(
        [
            {
                "run_id": run,
                "step": step,
                "num_samples_seen": 64.0 * step,
                "metric": "val_l1",
                "value": value * (1 + 20 / step),
            }
            for run, value in zip(runs["run_id"], runs["val_l1"], strict=True)
            for step in (20, 40, 80)
        ]
    )
    out = tmp_path_factory.mktemp("reports") / "sweeps.toy"
    extra = {
        "simulated": True,
        "blind": [{"domain": "sim_panda", "sighted": 0.03, "blind": 0.05}],
        "finetune": {"domain": "sim_xarm7", "val_l1_before": 0.2, "val_l1_after": 0.05},
    }
    document = build_report(runs, curves, study="sweeps.toy", out_dir=out, extra=extra, **QUICK)
    return document, out
