"""The parts of tests/bench/gpu.py: each returns rows {"what", "value", "unit"}.

Every part takes `dry` (tiny sizes on a CPU) and `out`, the folder of results.
"""

import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from scaling.config import with_overrides
from scaling.devices import table_peak
from scaling.flops import step_flops
from scaling.memory import GIB, memory
from scaling.sizes import SIZES
from scaling.spec import RunSpec
from sweeps._mixtures import simulated_run
from xvla.batch import Batch
from xvla.config import ModelConfig
from xvla.model import XVLA

Rows = list[dict[str, Any]]
SHAPE = {"views": 3, "image_size": 224, "text_len": 50}
DRY_SIZE, DRY_SHAPE = "tiny-h16", {"views": 3, "image_size": 64, "text_len": 8}
BLOCK, BLOCKS, TRACED = 4, 3, 2  # steps a block, blocks of which the first warms up, traced steps


class Enough(BaseException):
    """Ends the training loop; no error handler may take it for a failure."""


def ceilings(*, dry: bool, out: Path) -> Rows:
    """Measure what the card can do: matrix products on random data and a copy on the device."""
    device, size = _device(dry), 128 if dry else 8192
    rows = [row("device", _name(device), "")]
    torch.backends.cuda.matmul.allow_tf32 = False
    for dtype, name in ((torch.bfloat16, "bf16"), (torch.float32, "fp32, tf32 off")):
        left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        seconds = timed(lambda a=left, b=right: a @ b, device)
        rows.append(row(f"{name} product of {size}", 2 * size**3 / seconds / 1e12, "TFLOP/s"))
    source = torch.empty(2**20 if dry else 2**31, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = timed(lambda: target.copy_(source), device)
    return [*rows, row("copy on the device", 2 * source.nbytes / seconds / 1e9, "GB/s")]


def train(
    *,
    dry: bool,
    out: Path,
    size: str,
    micro_batch: int,
    words: list[str] | None = None,
    trace: bool = False,
) -> Rows:
    """Train through our own loop and DeepSpeed on shipped videos; nothing is saved.

    The first block of steps warms up; the trace is of two more steps.
    """
    from scaling.runs.folder import Run
    from scaling.training.attempt import advance
    from scaling.training.engine import prepare_environment

    spec = run_spec(size, micro_batch, dry, *(words or []))
    prepare_environment(spec)
    block = spec.engine.log_every
    profiler = _profiler() if trace else None
    steps = 0

    def after_step() -> bool:
        nonlocal steps
        steps += 1
        # The loop logs after this is called: one step more, for the last block's line.
        if steps == BLOCKS * block + 1 and profiler:
            profiler.start()
        if steps == BLOCKS * block + 1 + (TRACED if trace else 0):
            raise Enough
        return False

    with tempfile.TemporaryDirectory() as scratch:
        run = Run(Path(scratch) / "run")
        run.folder.mkdir()
        with suppress(Enough):
            advance(spec, run, after_step)
        if profiler:
            profiler.stop()
            profiler.export_chrome_trace(str(out / "trace.json.gz"))
        lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
        kernel = json.loads(run.environment_file.read_text())["attention"]
    return [row("attention kernel", kernel, ""), *training_rows(spec, lines[1:])]


def training_rows(spec: RunSpec, lines: list[dict[str, Any]]) -> Rows:
    """Return the medians of metric lines, beside the formulas."""

    def median(name: str) -> float:
        return statistics.median(line[name] for line in lines)

    rate = median("throughput/samples_per_s")
    return [
        row("step", 1e3 * spec.global_batch_size / rate, "ms"),
        row("throughput", rate, "samples/s"),
        *flop_rows(spec.model, rate, views=spec.data.num_views, image_size=spec.data.image_size,
                   text_len=spec.data.text_length),
        row("waiting for data", median("data_wait_percent"), "%"),
        row("peak memory", median("memory/peak_active_gib"), "GiB"),
        row("by the formula, not calibrated on a GPU", memory(spec).total / GIB, "GiB"),
        row("loss", lines[-1]["loss/train"], ""),
    ]  # fmt: skip


def plain(*, dry: bool, out: Path, size: str, micro_batch: int) -> Rows:
    """Train the plain transcription as one would: fp32 weights under autocast, fused AdamW.

    Where a micro-batch does not fit, half of it is tried.
    """
    device, micro = _device(dry), 2 if dry else micro_batch
    while True:
        try:
            return _plain(device, _config(size, dry), micro, DRY_SHAPE if dry else SHAPE)
        except torch.OutOfMemoryError:
            micro //= 2
        gc.collect()
        torch.cuda.empty_cache()


def _plain(device: str, config: ModelConfig, micro: int, shape: dict[str, int]) -> Rows:
    from model_baseline import PlainXVLA

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with torch.device(device):
        model = PlainXVLA(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    batch, moment, noise = random_batch(config, micro, device, shape)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16):
            losses = model(batch, moment, noise)
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    seconds = timed(step, device, repeats=1 if device == "cpu" else 6)
    rows = [row("micro-batch", micro, "samples"), row("step", 1e3 * seconds, "ms"),
            row("throughput", micro / seconds, "samples/s")]  # fmt: skip
    if device == "cuda":
        peak = torch.cuda.memory_stats()["active_bytes.all.peak"]
        rows.append(row("peak memory", peak / GIB, "GiB"))
    return rows


def act(*, dry: bool, out: Path, size: str) -> Rows:
    """Time one robot's action chunk of ten denoising steps."""
    device, config = _device(dry), _config(size, dry)
    rows = []
    for dtype, name in ((torch.bfloat16, "bf16"), (torch.float32, "fp32")):
        with torch.device(device):
            model = XVLA(config).eval()
        model = model.to(dtype)
        batch, _, noise = random_batch(config, 1, device, DRY_SHAPE if dry else SHAPE)
        seconds = timed(
            lambda m=model, b=batch, n=noise: m.act(b, 10, n), device, repeats=1 if dry else 10
        )
        rows.append(row(f"act, batch 1, 10 steps, {name}", 1e3 * seconds, "ms"))
    return rows


def attention(*, dry: bool, out: Path) -> Rows:
    """Time forward and backward of each kernel at the shape of the policy of the 0.9B."""
    from xvla.attention import KERNELS

    attend = torch.nn.functional.scaled_dot_product_attention
    kernels = KERNELS | {"sdpa": lambda q, k, v, p: attend(q, k, v, dropout_p=p)}
    device = _device(dry)
    shape = (2, 4, 33, 16) if dry else (64, 16, 262, 64)
    rows = []
    for name, kernel in kernels.items():
        inputs = [
            torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True)
            for _ in range(3)
        ]

        def step(kernel: Any = kernel, inputs: Any = inputs) -> None:
            torch.autograd.grad(kernel(*inputs, 0.0).sum(), inputs)

        try:
            rows.append(row(f"{name}, forward and backward", 1e3 * timed(step, device), "ms"))
        except (ImportError, RuntimeError) as error:
            rows.append(row(name, "cannot run", f"({' '.join(str(error).split())[:80]})"))
    return rows


def run_spec(size: str, micro_batch: int, dry: bool, *words: str) -> RunSpec:
    """Return a run of the whole model in bf16 at ZeRO-2 on one device, on the anchor's videos."""
    spec = simulated_run("tiny", domains=1, episodes=8)
    shape = DRY_SHAPE if dry else SHAPE
    size = DRY_SIZE if dry else size
    data = replace(spec.data, image_size=shape["image_size"], text_length=shape["text_len"])
    fixed = (
        "precision=bf16", "num_steps=1000", "optim.freeze_vlm=false", "optim.lr=1e-5",
        "init.encoder=none", "init.encoder_sha256=''", "engine.zero_stage=2",
        f"global_batch_size={2 if dry else micro_batch}", f"engine.log_every={1 if dry else BLOCK}",
        "engine.eval_every=0", "engine.save_every=0", f"engine.num_workers={0 if dry else 12}",
        f"resources.gpus_per_node={int(not dry)}",
    )  # fmt: skip
    spec = replace(spec, size=size, model=SIZES[size], data=data)
    return with_overrides(spec, [*fixed, *words]).validate()


def random_batch(
    config: ModelConfig, size: int, device: str, shape: dict[str, int]
) -> tuple[Batch, torch.Tensor, torch.Tensor]:
    """Return a batch with every view, flow times and noise."""
    chunk, pixels = (size, config.num_anchors, 20), shape["image_size"]
    batch = Batch(
        input_ids=torch.randint(4, config.text.vocab_size, (size, shape["text_len"])),
        images=torch.randn(size, shape["views"], 3, pixels, pixels),
        view_mask=torch.ones(size, shape["views"], dtype=torch.bool),
        domain_id=torch.full((size,), 3),
        proprio=torch.randn(size, 20),
        action=torch.rand(chunk),
    )
    return batch.to(device), torch.rand(size).to(device), torch.randn(chunk).to(device)


def flop_rows(config: ModelConfig, rate: float, **shape: int) -> Rows:
    """Return both counts of a sample's FLOPs, and MFU by those that run, where a peak is known."""
    ran, released = (step_flops(config, **shape, as_released=word) for word in (False, True))
    rows = [row("FLOPs a sample that run", ran / 1e12, "TFLOP"),
            row("FLOPs a sample as released", released / 1e12, "TFLOP")]  # fmt: skip
    peak = table_peak(torch.cuda.get_device_name(), "bf16") if torch.cuda.is_available() else None
    return [*rows, row("MFU by those that run", 100 * ran * rate / peak, "%")] if peak else rows


def timed(work: Callable[[], Any], device: str, *, repeats: int = 10) -> float:
    """Return the median seconds of a piece of work, after one to warm up."""
    seconds = []
    for _ in range(1 + repeats):
        _finish(device)
        began = time.perf_counter()
        work()
        _finish(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def row(what: str, value: float | str, unit: str) -> dict[str, Any]:
    return {"what": what, "value": value, "unit": unit}


def _profiler() -> Any:
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    return profile(activities=activities)


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _device(dry: bool) -> str:
    if dry:
        return "cpu"
    if not torch.cuda.is_available():
        raise RuntimeError("no CUDA device here; DRY=1 rehearses on a CPU")
    return "cuda"


def _config(size: str, dry: bool) -> ModelConfig:
    return replace(SIZES[DRY_SIZE if dry else size], action_mode="ee6d")


def _name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "CPU"
