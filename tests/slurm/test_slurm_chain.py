"""What follows a study as Slurm dependencies: publish, fit, report; and a link that fails."""

import json
import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from slurm_helpers import wait_until

from jobs.executor import Link
from jobs.slurm.chain import chain_state
from jobs.slurm.submit import submit
from jobs.status import study_status
from scaling.cli.study import chain_commands
from scaling.study import load_study

pytestmark = pytest.mark.slurm
NAME = "small_ladder"  # the module beside this file


def ended(runs: Path) -> list[Link] | None:
    """Return the links of the newest chain once none waits or runs."""
    links = chain_state(runs, NAME, fresh=True)
    return None if any(link.state in ("waiting", "running") for link in links) else links


def test_a_study_is_published_fitted_and_reported(slurm, preloaded, tmp_path, dev, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    specs, runs = load_study(NAME).expand(), tmp_path / "runs"
    cluster = replace(dev, max_cpu_ranks=4)  # one task of each of four sizes
    then = chain_commands("sync,fit,report", NAME, [f"--runs={runs}"])
    summary = submit(specs, runs, cluster, then=then)
    assert [link.command.split()[0] for link in summary.chain] == ["sync", "fit", "report"]
    assert submit(specs, runs, cluster, then=then).chain == []  # it is pending already
    links = wait_until(lambda: ended(runs), every_s=1.0)
    assert study_status(specs, runs).counts == {"done": 4}
    assert [(link.state, link.reason) for link in links] == [("done", None)] * 3
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        keys = database.execute("select value from tags where key = 'run_key'").fetchall()
    assert {key for (key,) in keys} >= {spec.run_id for spec in specs}
    assert json.loads((tmp_path / "reports" / NAME / "record.json").read_text())
    assert "<svg" in (tmp_path / "reports" / NAME / "report.html").read_text()
    _a_failing_link(slurm, specs, runs, cluster)


def _a_failing_link(slurm, specs, runs, cluster) -> None:
    """Chain behind the done runs a command that fails: it says why, the next one that it did."""
    wrong = ["fit", "no_such_study", f"--runs={runs}"]
    submit(specs, runs, cluster, then=[wrong, ["report", NAME, f"--runs={runs}"]])
    failed, behind = wait_until(lambda: ended(runs), every_s=0.5)
    assert (failed.state, behind.state) == ("failed", "cancelled")
    assert "unknown study 'no_such_study'" in failed.reason
    assert behind.reason == "fit failed before it"
    codes = slurm.call("sacct", "-nPX", "-j", failed.job_id, "-o", "State,ExitCode")
    assert codes.split() == ["FAILED|2:0"]
