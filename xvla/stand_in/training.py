"""Pretraining of a small encoder on labelled simulated frames: a stand-in for Florence-2's weights.

What must come out: where the objects are, linearly readable from the features the policy sees.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from xvla.config import ModelConfig
from xvla.data.images import IMAGENET_MEAN, IMAGENET_STD
from xvla.encoder import FlorenceEncoder
from xvla.pretrained import ENCODER_FILE, write_tensors
from xvla.stand_in.targets import (
    MAIN_TARGETS,
    POINTS,
    WRIST_TARGETS,
    Frames,
    Heads,
    load_frames,
    spans,
    spatial_loss,
)

LEARNING_RATE = 4e-3
WEIGHT_DECAY = 0.05
WARMUP = 0.05
MAX_BYTES = 5_000_000
MAX_GRAD_NORM = 1.0
EVAL_BATCH = 64
# Positions matter most to a policy; the rest keeps the features from forgetting it.
TARGETS = {"main": MAIN_TARGETS, "wrist": WRIST_TARGETS}
SPATIAL_WEIGHT = 1.0
BETA = 0.5
WEIGHTS = {"objects": 2.0, "to_object": 2.0, "to_object_hand": 2.0}


def pretrain_encoder(
    frames_dir: str | Path,
    out: str | Path,
    *,
    config: ModelConfig,
    steps: int,
    batch_size: int,
    seed: int,
    threads: int,
    image_size: int = 96,
    text_length: int = 16,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Train the encoder of `config` and write `encoder.safetensors` and `encoder.json` into `out`.

    Returns the record that encoder.json holds: errors on held-out demonstrations (cm per target,
    keypoints in percent of the picture's side, accuracy of the gripper's state), seconds, hash.
    Raises ValueError for unusable frames, counts or places, or an encoder over 5 MB.
    """
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name}={value} is not allowed; give at least 1")
    if Path(out).exists() and not Path(out).is_dir():
        raise ValueError(f"{out} is a file; give a folder for {ENCODER_FILE}")
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    frames = load_frames(frames_dir, image_size=image_size, text_length=text_length, seed=seed)
    encoder = FlorenceEncoder(config)
    initialise(encoder)
    check_size(encoder)
    heads = Heads(config.projection_dim, frames)
    started, cpu = time.monotonic(), time.process_time()
    train(encoder, heads, frames, steps=steps, batch_size=batch_size, seed=seed, say=say)
    record = {
        "what": "encoder pretrained on labelled simulated frames; stands in for Florence-2",
        "model": {
            name: value
            for name, value in asdict(config).items()
            if name in ("vision", "text", "projection_dim")
        },
        "image_size": image_size,
        "text_length": text_length,
        "command": (
            "scaling data pretrain-encoder --frames FRAMES --out xvla/data/encoder "
            f"--steps {steps} --batch-size {batch_size} --seed {seed}"
        ),
        "frames": frames.sources,
        "domains": frames.names,
        "num_frames": int((~frames.held_out).sum()),
        "num_held_out": int(frames.held_out.sum()),
        "steps": steps,
        "batch_size": batch_size,
        "seed": seed,
        "threads": threads,
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "held_out": evaluate(encoder, heads, frames),
    }
    return write_encoder(encoder, out, record)


def initialise(encoder: FlorenceEncoder) -> None:
    """Scale initial weights by their fan-in: Florence-2's fixed 0.02 is far too small for it."""
    for module in encoder.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(module.weight)
        elif isinstance(module, torch.nn.Conv2d) and module.groups == 1:
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="linear")


def check_size(encoder: FlorenceEncoder) -> None:
    """Raise ValueError if the weights exceed what the repository may ship."""
    size = sum(value.numel() * value.element_size() for value in encoder.state_dict().values())
    if size > MAX_BYTES:
        raise ValueError(
            f"the encoder takes {size / 1e6:.1f} MB, at most {MAX_BYTES / 1e6:.0f} MB are shipped; "
            "choose smaller vision.dim_embed or text.d_model"
        )


def write_encoder(encoder: FlorenceEncoder, out: str | Path, record: dict[str, Any]) -> dict:
    """Write the tensors (named `vlm.*`) and the record with their hash; return the record."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / ENCODER_FILE
    write_tensors(file, {f"vlm.{name}": t for name, t in encoder.state_dict().items()})
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    record = {**record, "sha256": digest, "bytes": file.stat().st_size}
    (folder / "encoder.json").write_text(json.dumps(record, indent=1) + "\n")
    return record


def train(
    encoder: FlorenceEncoder,
    heads: Heads,
    frames: Frames,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    say: Callable[[str], None],
) -> None:
    """Minimise the summed read-out losses with AdamW, a short warm-up and a cosine decay."""
    random = torch.Generator().manual_seed(seed)
    optimizer, schedule = _optimizer([encoder, heads], steps)
    rows = torch.nonzero(~frames.held_out).flatten()
    encoder.train()
    for step in range(steps):
        batch = rows[torch.randint(len(rows), (batch_size,), generator=random)]
        images = augment(frames.images[batch], random)
        loss = total_loss(encoder, heads, frames, batch, images)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        schedule.step()
        if (step + 1) % 50 == 0:
            say(f"step {step + 1}/{steps} loss {loss.item():.4f}")


def _optimizer(
    modules: list[torch.nn.Module], steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    parameters = [p for module in modules for p in module.parameters()]
    decayed = [p for p in parameters if p.ndim >= 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
        betas=(0.9, 0.99),
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=LEARNING_RATE,
        total_steps=steps,
        pct_start=WARMUP,
        cycle_momentum=False,
    )
    return optimizer, schedule


def augment(pixels: Tensor, random: torch.Generator) -> Tensor:
    """Vary brightness, contrast and noise of uint8 [B, V, 3, S, S]; return them normalised.

    Nothing moves: the labels are positions. Noise stands for video compression.
    """
    shape = (*pixels.shape[:2], 1, 1, 1)
    gain, shift = (torch.rand(shape, generator=random) * 2 - 1 for _ in range(2))
    x = pixels.float() / 255
    mean = x.mean(dim=(-3, -2, -1), keepdim=True)
    x = (x - mean) * (1 + 0.2 * gain) + mean * (1 + 0.2 * shift)
    x = x + 0.02 * torch.randn(x.shape, generator=random)
    return normalise(x.clamp(0, 1))


def normalise(x: Tensor) -> Tensor:
    """ImageNet-normalise [..., 3, S, S] in [0, 1]."""
    mean, std = (x.new_tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (x - mean) / std


def total_loss(
    encoder: FlorenceEncoder, heads: Heads, frames: Frames, rows: Tensor, images: Tensor
) -> Tensor:
    """Return the loss of reading all targets off the features, and of locating keypoints."""
    mask = frames.view_mask[rows]
    tokens = encoder.encode_views(images, mask)
    main, wrist = _summaries(encoder, tokens, frames.input_ids[rows])
    loss = _read_out_loss(heads, "main", main, frames, rows)
    loss = loss + _read_out_loss(heads, "wrist", wrist, frames, rows)
    where, seen = frames.keypoints[rows][mask], frames.seen[rows][mask]
    return loss + SPATIAL_WEIGHT * spatial_loss(heads.spatial, tokens[mask][:, 1:], where, seen)


def _read_out_loss(
    heads: Heads, name: str, summaries: tuple[Tensor, Tensor], frames: Frames, rows: Tensor
) -> Tensor:
    """Read off the pooled token and the mean of all: a policy's first attention is uniform."""
    known = getattr(frames, f"{name}_known")[rows]
    wanted = heads.standardise(name, getattr(frames, name)[rows])
    total = wanted.new_zeros(())
    for tokens in summaries:
        error = functional.smooth_l1_loss(
            heads.read(name, tokens), wanted, reduction="none", beta=BETA
        )
        for target, span in spans(TARGETS[name]).items():
            mask = known[..., span]
            mean = (error[..., span] * mask).sum() / mask.sum().clamp(min=1)
            total = total + WEIGHTS.get(target, 1.0) * mean
    return total


def _summaries(
    encoder: FlorenceEncoder, tokens: Tensor, input_ids: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return (pooled, mean) of the main stream [B, E] and of wrist views [B, V - 1, E]."""
    main, wrist = encoder.encode_text(tokens[:, 0], input_ids), tokens[:, 1:]
    return (main[:, 0], main.mean(dim=1)), (wrist[:, :, 0], wrist.mean(dim=2))


@torch.no_grad()
def evaluate(encoder: FlorenceEncoder, heads: Heads, frames: Frames) -> dict[str, Any]:
    """Return held-out errors by target, over all domains and for each."""
    encoder.eval()
    rows = torch.nonzero(frames.held_out).flatten()
    read: dict[str, list[Tensor]] = {"main": [], "wrist": []}
    for batch in rows.split(EVAL_BATCH):
        images = normalise(frames.images[batch].float() / 255)
        tokens = encoder.encode_views(images, frames.view_mask[batch])
        summaries = _summaries(encoder, tokens, frames.input_ids[batch])
        for name, (pooled, _) in zip(read, summaries, strict=True):
            read[name].append(heads.restore(name, heads.read(name, pooled)))
    values = {name: torch.cat(parts) for name, parts in read.items()}
    domains = frames.domain[rows]
    report = {"all": _errors(values, frames, rows, torch.ones(len(rows), dtype=torch.bool))}
    for index, name in enumerate(frames.names):
        report[name] = _errors(values, frames, rows, domains == index)
    return report


def _errors(
    values: dict[str, Tensor], frames: Frames, rows: Tensor, chosen: Tensor
) -> dict[str, float]:
    """Return mean distances (cm; keypoints: percent of the side) and gripper accuracy."""
    errors: dict[str, float] = {}
    for name, widths in TARGETS.items():
        wanted, known = getattr(frames, name)[rows], getattr(frames, f"{name}_known")[rows]
        for target, span in spans(widths).items():
            given, truth = values[name][chosen][..., span], wanted[chosen][..., span]
            mask = known[chosen][..., span]
            if not bool(mask.any()):
                continue
            label = f"{name}_{target}"
            if target in POINTS:
                size = (-1, POINTS[target])
                distance = (given - truth).reshape(size).norm(dim=-1)
                hit = mask.reshape(size)[:, 0]
                unit = "percent" if target == "keypoints" else "cm"
                errors[f"{label}_{unit}"] = round(100 * distance[hit].mean().item(), 3)
            elif target == "closed":
                right = ((given > 0.5) == (truth > 0.5))[mask]
                errors[f"{label}_accuracy"] = round(right.float().mean().item(), 4)
    return errors
