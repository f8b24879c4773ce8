"""bf16 runs hold their weights in bf16 and need no autocast, which DeepSpeed turns off on CUDA."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# DeepSpeed 0.19 asks for CUDA's flag whatever the device, and runs the module under
# autocast(enabled=False) where it is set: what a GPU does to a run that enters autocast itself.
AS_ON_GPU = """
import sys
import torch

torch.set_autocast_enabled("cuda", True)
from scaling.train import main

sys.exit(main(sys.argv[1:]))
"""


def _train(run_yaml: Path, *, as_on_gpu: bool) -> list[dict[str, float]]:
    words = ["-c", AS_ON_GPU] if as_on_gpu else ["-m", "scaling.train"]
    done = subprocess.run(
        [sys.executable, *words, str(run_yaml)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = (run_yaml.parent / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def _of(lines: list[dict[str, float]], name: str) -> list[float]:
    return [line[name] for line in lines if name in line]


@pytest.mark.parametrize("more", [(), ("optim.ema_decay=0.9", "engine.zero_stage=0")])
def test_a_bf16_run_trains_and_evaluates_where_cuda_would_autocast(
    make_run: Callable[..., Path], more: tuple[str, ...]
) -> None:
    words = ("num_steps=4", "engine.eval_every=2", "precision=bf16", *more)
    lines = _train(make_run(*words), as_on_gpu=True)
    exact = _train(make_run(*words[:2], *more, folder="exact"), as_on_gpu=False)
    losses, expected = _of(lines, "loss/train"), _of(exact, "loss/train")
    assert len(losses) == 4
    # The first update starts from rounded weights alone; later ones drift, as these rates are high.
    assert losses[0] == pytest.approx(expected[0], rel=0.01)
    assert losses == pytest.approx(expected, rel=0.05)
    assert _of(lines, "val/l1") == pytest.approx(_of(exact, "val/l1"), rel=0.05)
