"""bf16 runs hold their weights in bf16 and need no autocast, which DeepSpeed turns off on CUDA."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scaling.config import with_overrides
from scaling.machine.doctor import TOLERANCE
from scaling.machine.doctor_rank import draw, shrink
from scaling.spec import RunSpec
from scaling.training.initial import build_model
from sweeps._mixtures import simulated_run

# DeepSpeed 0.19 asks for CUDA's flag whatever the device, and runs the module under
# autocast(enabled=False) where it is set: what a GPU does to a run that enters autocast itself.
AS_ON_GPU = """
import importlib
import sys
import torch

torch.set_autocast_enabled("cuda", True)
sys.exit(importlib.import_module(sys.argv[1]).main(sys.argv[2:]))
"""
WITH_IMAGES = ("data.blind=false", "engine.cache_features=false")


def _run(*words: str) -> str:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def _train(run_yaml: Path, *, as_on_gpu: bool) -> list[dict[str, float]]:
    words = ["-c", AS_ON_GPU, "scaling.train"] if as_on_gpu else ["-m", "scaling.train"]
    _run(*words, str(run_yaml))
    lines = (run_yaml.parent / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def _of(lines: list[dict[str, float]], name: str) -> list[float]:
    return [line[name] for line in lines if name in line]


@pytest.mark.parametrize("more", [WITH_IMAGES, ("optim.ema_decay=0.9", "engine.zero_stage=0")])
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


@pytest.mark.parametrize("stage", [0, 2])
def test_the_doctors_rank_where_cuda_would_autocast(tmp_path: Path, stage: int) -> None:
    """Updates are those of the masters; without ZeRO DeepSpeed's own first step is undone."""
    words = ["optim.freeze_vlm=false", "precision=bf16", f"engine.zero_stage={stage}"]
    spec = with_overrides(simulated_run("tiny"), words)
    source, target = tmp_path / "spec.yaml", tmp_path / "out.json"
    shrink(spec, ranks=1).save(source)
    _run("-c", AS_ON_GPU, "scaling.machine.doctor_rank", str(source), str(target))
    found = json.loads(target.read_text())
    assert 0 < found["gradient_error"] < TOLERANCE["bf16"]
    assert found["update_error"] < TOLERANCE["bf16"]


@pytest.fixture
def as_on_gpu() -> Iterator[None]:
    """Set the flag that CUDA's autocast would."""
    torch.set_autocast_enabled("cuda", True)
    yield
    torch.set_autocast_enabled("cuda", False)


def _as_deepspeed_casts(spec: RunSpec) -> torch.nn.Module:
    """Return the model with parameters in bf16 and buffers as they were."""
    torch.manual_seed(0)
    model = build_model(spec)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    return model


@pytest.mark.usefixtures("as_on_gpu")
@pytest.mark.parametrize("cached", [False, True])
def test_act_where_cuda_would_autocast(cached: bool) -> None:
    spec = with_overrides(simulated_run("tiny"), ["init.encoder=none", "init.encoder_sha256=''"])
    torch.manual_seed(0)
    exact = build_model(spec).eval()
    batch, _, noise = draw(spec, torch.device("cpu"))
    batch = replace(batch, action=None)
    with torch.no_grad():
        features = exact.encode(batch) if cached else None  # in fp32, as they lie in a cache
    found = _as_deepspeed_casts(spec).act(batch, 10, noise, features)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact.act(batch, 10, noise, features), atol=0.05, rtol=0.05)


def test_twenty_steps_of_bf16_follow_those_of_fp32() -> None:
    """Within 1 % and above 0.9994 were seen; the losses fall to a quarter meanwhile."""
    found = json.loads(_run(str(Path(__file__).with_name("two_precisions.py"))).splitlines()[-1])
    assert len(found["losses"]) == 20
    for exact, rounded in found["losses"]:
        assert rounded == pytest.approx(exact, rel=0.02)
    assert set(found["cosines"][0]) == {"vlm", "transformer_core", "soft_prompts", "action_heads"}
    assert min(min(step.values()) for step in found["cosines"]) > 0.99
    assert [one for one, _ in found["losses"]] != [other for _, other in found["losses"]]
    assert found["compiled"] == []
