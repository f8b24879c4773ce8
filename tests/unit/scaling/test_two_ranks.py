"""Two ranks of ZeRO-2 do the science of one: same losses, half the optimizer a rank."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

WHOLE_MODEL = ("num_steps=20", "optim.freeze_vlm=false", "data.blind=false")


def losses(run_yaml: Path) -> list[float]:
    lines = (run_yaml.parent / "metrics.jsonl").read_text().splitlines()
    return [row["loss/train"] for row in map(json.loads, lines) if "loss/train" in row]


def optimizer_bytes(run_yaml: Path) -> list[int]:
    folder = run_yaml.parent / "checkpoints" / "step_0000020" / "deepspeed"
    return [path.stat().st_size for path in sorted(folder.glob("*optim_states.pt"))]


def train(run_yaml: Path, ranks: int) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                f"--nproc-per-node={ranks}", "-m", "scaling.train", str(run_yaml)]  # fmt: skip
    subprocess.run(launcher, check=True, capture_output=True, timeout=400)


def test_two_ranks_equal_one(make_run) -> None:
    one = make_run(*WHOLE_MODEL, "engine.zero_stage=2", folder="one")
    two = make_run(
        *WHOLE_MODEL,
        "engine.zero_stage=2",
        "engine.micro_batch_size=2",
        "resources.processes_per_node=2",
        folder="two",
    )
    assert one.parent.name == two.parent.name  # the same science, hence the same run id
    train(one, 1)
    train(two, 2)
    assert len(losses(one)) == 20
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    (whole,) = optimizer_bytes(one)
    halves = optimizer_bytes(two)
    assert len(halves) == 2
    for half in halves:
        assert half == pytest.approx(whole / 2, rel=0.05)
