"""What must be right on a GPU: the released numbers, bf16, attention, a run killed and resumed.

DRY=1 rehearses all of it on a CPU.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from xvla.attention import attend, resolve
from xvla.batch import Batch
from xvla.model import XVLA, parameter_groups
from xvla.pretrained import load_pretrained

pytestmark = pytest.mark.gpu
REPOSITORY = Path(__file__).resolve().parents[2]
FIXTURE = REPOSITORY / "tests" / "assets" / "xvla-official-tiny-ee6d"
DRY = os.environ.get("DRY") == "1"
DEVICE = "cpu" if DRY else "cuda"
ON_DEVICE = f"resources.gpus_per_node={int(not DRY)}"


MakeBatch = Callable[[dict[str, Tensor]], Batch]


class Results:
    """What the fixture's batch gives on a device: losses, gradients by group, a chunk."""

    def __init__(self, device: str, dtype: torch.dtype, released_batch: MakeBatch) -> None:
        model = load_pretrained(FIXTURE).eval().to(device, dtype)
        inputs = {k: v.to(device) for k, v in load_file(FIXTURE / "inputs.safetensors").items()}
        batch = released_batch(inputs)
        losses = model(batch, inputs["t"], inputs["noise"])
        torch.stack(list(losses.values())).sum().backward()
        self.losses = {name: loss.item() for name, loss in losses.items()}
        self.gradients = _gradients(model)
        self.chunk = model.act(batch, 10, inputs["noise"]).float().cpu()


def _gradients(model: XVLA) -> dict[str, Tensor]:
    return {
        name: torch.cat([p.grad.flatten().double().cpu() for p in group if p.grad is not None])
        for name, group in parameter_groups(model).items()
    }


@pytest.fixture(scope="module")
def exact(released_batch) -> Results:
    """On the CPU in fp32, which other tests compare with the authors' numbers."""
    return Results("cpu", torch.float32, released_batch)


@pytest.fixture
def _exact_products() -> Iterator[None]:
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = False
    yield
    products.allow_tf32, convolutions.allow_tf32 = before


@pytest.mark.usefixtures("_exact_products")
def test_fp32_gives_the_cpus_numbers(exact: Results, released_batch) -> None:
    found = Results(DEVICE, torch.float32, released_batch)
    assert found.losses == pytest.approx(exact.losses, rel=1e-4)
    for name, gradient in exact.gradients.items():
        assert (found.gradients[name] - gradient).norm() < 1e-3 * gradient.norm()
    torch.testing.assert_close(found.chunk, exact.chunk, rtol=1e-3, atol=1e-4)


def test_bf16_is_near_them(exact: Results, released_batch) -> None:
    found = Results(DEVICE, torch.bfloat16, released_batch)
    assert found.losses == pytest.approx(exact.losses, rel=0.02)
    for name, gradient in exact.gradients.items():
        assert torch.cosine_similarity(found.gradients[name], gradient, dim=0) > 0.99, name
    torch.testing.assert_close(found.chunk, exact.chunk, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("kind", ["auto", "sdpa", "eager"])
def test_every_attention_kernel_agrees(kind: str) -> None:
    torch.manual_seed(0)
    shapes = [(2, 4, tokens, 64) for tokens in (30, 67, 67)]
    inputs = [torch.randn(s).to(DEVICE, torch.bfloat16).requires_grad_() for s in shapes]
    given = attend(*inputs, kind=kind)
    query, key, value = (x.detach().float() for x in inputs)
    expected = (query @ key.mT / 8).softmax(dim=-1) @ value
    torch.testing.assert_close(given.float(), expected, rtol=2e-2, atol=2e-2)
    given.sum().backward()
    assert all(bool(x.grad.isfinite().all()) for x in inputs)


def test_auto_takes_a_flash_kernel_in_half_precision() -> None:
    ran = resolve("auto", device=DEVICE, dtype=torch.bfloat16)
    assert ran in (("sdpa",) if DRY else ("flash", "torch_flash"))


def _train(run_yaml: Path, **environment: str) -> int:
    """Train as `scaling train` would, deterministically; return the exit code."""
    fixed = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PYTHONPATH": str(REPOSITORY)}
    script = Path(__file__).with_name("deterministic_train.py")
    return subprocess.run(
        [sys.executable, str(script), str(run_yaml)],
        env=os.environ | fixed | environment,
        timeout=1200 if DRY else 120,
    ).returncode


def _losses(run_yaml: Path) -> dict[int, float]:
    lines = (run_yaml.parent / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return {row["step"]: row["loss/train"] for row in rows if "loss/train" in row}


def test_a_killed_run_resumes_bit_for_bit(make_run: Callable[..., Path]) -> None:
    """A small run in bf16 through DeepSpeed at stage 2, images and all, with a running mean."""
    words = ("precision=bf16", "engine.zero_stage=2", "optim.freeze_vlm=false", "num_steps=4",
             "engine.save_every=2", "engine.eval_every=2", "data.blind=false",
             "data.image_size=32", "data.text_length=8", "optim.ema_decay=0.9",
             "engine.attention=eager", ON_DEVICE)  # fmt: skip
    whole, killed = (make_run(*words, folder=name) for name in ("whole", "killed"))
    assert _train(whole) == 0
    assert _train(killed, STOP_AFTER="3") < 0
    assert not (killed.parent / "DONE").exists()
    assert _train(killed) == 0
    assert list(_losses(whole)) == [1, 2, 3, 4]
    assert _losses(killed) == _losses(whole)
    saved = "checkpoints/step_0000004/model.safetensors"
    expected = load_file(whole.parent / saved)
    for name, found in load_file(killed.parent / saved).items():
        assert torch.equal(found, expected[name]), name
