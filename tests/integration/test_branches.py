"""A trunk and its branches from submit to the exported table, beside a run trained alone."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from jobs.local.loop import submit
from scaling.branch import branched
from scaling.cli import main
from scaling.cost import cost_of
from scaling.sizes import SIZES
from scaling.spec import EngineConfig, RunSpec, ScheduleConfig

pytestmark = pytest.mark.integration
STUDY = """
from pathlib import Path
from scaling.branch import BranchedStudy
from scaling.spec import load_spec

def runs():
    yield from map(load_spec, sorted(Path(__file__).parent.glob("declared-*.yaml")))

STUDY = BranchedStudy(name=__name__, description="", varies=("samples",), holds_fixed="",
                      runs={"cpu": runs})
"""


@pytest.fixture
def alone(tmp_path: Path, made_data) -> RunSpec:
    """A run of 12 steps with the smallest model on a made set of six episodes."""
    data = made_data(tmp_path / "data")
    return RunSpec(
        study="made",
        size="tiny-h16",
        model=SIZES["tiny-h16"],
        data=data,
        schedule=ScheduleConfig(kind="wsd", warmup_steps=2, decay_fraction=0.25),
        num_steps=12,
        global_batch_size=2,
        engine=EngineConfig(zero_stage=2, log_every=1, cache_features=False),
    )


def losses(run_dir: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss/train"] for line in lines if "loss/train" in line}


def final(run_dir: Path) -> tuple[dict[str, float], bytes]:
    """Return a run's metrics, but for its hours, and the file of its weights."""
    metrics = json.loads((run_dir / "DONE").read_text())["metrics"]
    metrics.pop("compute/gpu_hours")
    newest = (run_dir / "checkpoints" / "latest").read_text().strip()
    return metrics, (run_dir / "checkpoints" / newest / "model.safetensors").read_bytes()


def test_branches_are_the_runs_alone_at_less_than_their_price(
    alone: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    runs = tmp_path / "runs"
    declared = [replace(alone, num_steps=n, axes={"samples": 2 * n}) for n in (12, 24, 48)]
    trunk, middle, short = branched(declared)
    summary = submit([short, middle, trunk, alone], runs, parallel=2)
    assert (summary.done, summary.failed) == (4, 0), summary.runs

    assert final(runs / short.run_id) == final(runs / alone.run_id)  # to the bit
    start = short.init.trunk_step
    by_trunk = {k: v for k, v in losses(runs / trunk.run_id).items() if k <= start}
    assert (start, sorted(losses(runs / short.run_id))) == (9, [10, 11, 12])
    assert by_trunk | losses(runs / short.run_id) == losses(runs / alone.run_id)

    for index, spec in enumerate(declared):
        spec.save(tmp_path / "study" / f"declared-{index}.yaml")
    (tmp_path / "study" / "made.py").write_text(STUDY)
    monkeypatch.syspath_prepend(tmp_path / "study")
    assert main(["export", "made", "--runs", str(runs), "--json"]) == 0
    table = pd.read_parquet(tmp_path / "exports" / "made" / "runs.parquet").set_index("run_id")
    for spec in (trunk, middle, short):
        row = table.loc[spec.run_id]
        assert (row.state, row.num_samples_seen) == ("done", spec.num_samples_seen)
        assert row.compute_flops == cost_of(spec).compute_flops
        assert row.val_l1 > 0
    assert main(["plan", "made", "--runs", str(runs)]) == 0
    assert "2 of 3 runs branch off a longer one" in capsys.readouterr().out


WSD = ("schedule.kind=wsd", "schedule.warmup_steps=1")
ORPHAN = (*WSD, "init.trunk=abcdefabcdef", "init.trunk_step=4")


def test_a_signal_to_one_rank_ends_the_waiting_of_both(make_run, start_ranks) -> None:
    two = ("engine.zero_stage=2", "resources.processes_per_node=2")
    run_yaml = make_run(*ORPHAN, *two)
    ranks = start_ranks(run_yaml, fault="patient:-1:0")  # nothing but the signal ends the waiting
    ranks.wait_for((run_yaml.parent / "heartbeat.json").exists)
    ranks.signal(signal.SIGTERM, [1])
    assert ranks.wait() == [85, 85], ranks.output
    attempt = json.loads((run_yaml.parent / "attempts" / "0001.json").read_text())
    assert (attempt["reason"], attempt["first_step"]) == ("signal", None)
    assert not (run_yaml.parent / "FAILED").exists()


def test_a_branch_of_a_failed_trunk_is_refused_at_once(make_run, start_ranks) -> None:
    run_yaml = make_run(*ORPHAN)
    trunk = run_yaml.parents[1] / "abcdefabcdef"
    trunk.mkdir()
    (trunk / "FAILED").write_text("{}")
    ranks = start_ranks(run_yaml, ranks=1)
    assert ranks.wait() == [2], ranks.output
    assert "error: no trunk" in ranks.output
    assert not (run_yaml.parents[1] / "_features").exists()
