"""Prices runs before they start: memory a GPU, GPU-hours, disk, in closed form and without torch.

b bytes a number (2 bf16, 4 fp32), s sequence, h width, as in the papers cited.
"""

from dataclasses import dataclass

from scaling.flops import map_sides, tokens_per_view
from scaling.spec import RunSpec

GIB = 2**30
BUCKET_NUMBERS = 200_000_000  # DeepSpeed's reduce and all-gather buckets in our config
# Dense peak of an A100 (NVIDIA's data sheet); fp32 without TF32, as torch multiplies by default.
PEAK_FLOPS = {"bf16": 312e12, "fp32": 19.5e12}
MFU_LOW, MFU_HIGH = 0.15, 0.50


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """FLOPs that one GPU gets through in a second: likely, slow and fast."""

    likely: float
    slow: float
    fast: float


def assumed_rate(precision: str, *, peak_tflops: float = 0.0) -> Rate:
    """Return the rate at 15 to 50 % model FLOPs utilisation, likely at their geometric mean.

    `peak_tflops`: dense bf16 peak of a cluster's GPU (0: an A100's); fp32 is always an A100's.
    """
    peak = PEAK_FLOPS[precision]
    if peak_tflops and precision == "bf16":
        peak = peak_tflops * 1e12
    likely = (MFU_LOW * MFU_HIGH) ** 0.5
    return Rate(likely=peak * likely, slow=peak * MFU_LOW, fast=peak * MFU_HIGH)


def measured_rate(flops_and_gpu_hours: list[tuple[float, float]]) -> Rate:
    """Return the rate of finished runs, widened to at least 20 % on either side."""
    rates = sorted(flops / (hours * 3600) for flops, hours in flops_and_gpu_hours)
    middle = rates[len(rates) // 2]
    return Rate(likely=middle, slow=min(rates[0], middle / 1.2), fast=max(rates[-1], middle * 1.2))


def gpu_hours(flops: float, rate: Rate) -> tuple[float, float, float]:
    """Return (likely, low, high) GPU-hours of a number of FLOPs."""
    return tuple(flops / speed / 3600 for speed in (rate.likely, rate.fast, rate.slow))  # type: ignore[return-value]


def state_bytes(
    *, num_params: int, num_trainable: int, precision: str, zero_stage: int, world_size: int
) -> float:
    """Return a rank's bytes of weights, gradients, fp32 master weights and Adam moments.

    ZeRO (Rajbhandari et al. 2020, section 3): stage 1 divides master and moments among the ranks,
    stage 2 the gradients as well: 2 + (2 + 12)/ranks bytes a parameter in bf16, 4 + (4 + 8 + 4)/
    ranks in fp32. Stage 0 takes 16 in both (fp32 needs no master copy there).
    """
    number = 2 if precision == "bf16" else 4
    optimizer = 8 if precision == "fp32" and zero_stage == 0 else 12
    gradient_share = world_size if zero_stage >= 2 else 1
    optimizer_share = world_size if zero_stage >= 1 else 1
    per_trainable = number / gradient_share + optimizer / optimizer_share
    return num_params * number + num_trainable * per_trainable


def bucket_bytes(*, num_trainable: int, precision: str, overlap: bool) -> float:
    """Return the bytes of communication buckets: 4.5 times both buckets with overlap.

    Factor: DeepSpeed's documentation of `overlap_comm`. A model smaller than a bucket fills only
    a part of it.
    """
    number = 2 if precision == "bf16" else 4
    return 2 * min(BUCKET_NUMBERS, num_trainable) * number * (4.5 if overlap else 1)


def layer_bytes(
    sequence: int, width: int, hidden: int, *, heads: int = 0, checkpointing: bool = False
) -> float:
    """Return 16-bit bytes of activations that one transformer layer keeps for a sample.

    Korthikanti et al. 2022, equation 1: s h (34 + 5 a s / h) with a hidden layer of 4 h; the
    quadratic term only where the scores are kept (`heads` > 0), not with flash or SDPA kernels.
    Under activation checkpointing only the layer's input, 2 s h, stays (the one layer recomputed
    at a time is left out).
    """
    if checkpointing:
        return 2.0 * sequence * width
    return sequence * (18 * width + 4 * hidden) + 5.0 * heads * sequence**2


def activation_bytes(spec: RunSpec, micro_batch: int) -> float:
    """Estimate the bytes of activations kept for the backward pass of one micro-batch."""
    model, data = spec.model, spec.data
    sample = _policy_bytes(spec)
    if not spec.optim.freeze_vlm:
        eager = spec.engine.attention == "eager"
        again = spec.engine.activation_checkpointing
        text = model.text
        merged = tokens_per_view(model, data.image_size) + data.text_length
        sample += text.encoder_layers * layer_bytes(
            merged,
            text.d_model,
            text.encoder_ffn_dim,
            heads=text.encoder_attention_heads if eager else 0,
            checkpointing=again,
        )
        sample += data.num_views * _vision_bytes(spec)
    return micro_batch * sample * (1 if spec.precision == "bf16" else 2)


def memory_gib(spec: RunSpec, *, num_params: int, num_trainable: int) -> float:
    """Return the estimated peak GiB on each GPU, without the CUDA context (0.5 to 1 GiB)."""
    world_size = spec.resources.world_size
    per_rank = spec.global_batch_size // world_size
    states = state_bytes(
        num_params=num_params,
        num_trainable=num_trainable,
        precision=spec.precision,
        zero_stage=spec.engine.zero_stage,
        world_size=world_size,
    )
    overlap = spec.resources.gpus_per_node > 0 and spec.engine.zero_stage >= 1
    buckets = bucket_bytes(num_trainable=num_trainable, precision=spec.precision, overlap=overlap)
    activations = activation_bytes(spec, spec.engine.micro_batch_size or per_rank)
    return (states + buckets + activations) / GIB


def checkpoint_bytes(
    *, num_params: int, num_trainable: int, precision: str, zero_stage: int
) -> int:
    """Return the bytes of one step folder: weights twice (ours, DeepSpeed's), optimizer once."""
    number = 2 if precision == "bf16" else 4
    optimizer = 8 if precision == "fp32" and zero_stage == 0 else 12
    return 2 * number * num_params + optimizer * num_trainable


def num_checkpoints(*, num_steps: int, save_every: int, keep_last: int, keep_every: int) -> int:
    """Return how many step folders a finished run holds; the last step is always saved."""
    if not save_every:
        return 1
    regular = num_steps // save_every
    saves = regular + (1 if num_steps % save_every else 0)
    kept = min(saves, max(1, keep_last))
    if not keep_every:
        return kept
    older = regular - (kept - (1 if num_steps % save_every else 0))
    return kept + sum(1 for index in range(1, older + 1) if (index * save_every) % keep_every == 0)


def _policy_bytes(spec: RunSpec) -> float:
    """Return 16-bit bytes of the soft-prompted transformer's activations for one sample."""
    model, data = spec.model, spec.data
    image = tokens_per_view(model, data.image_size)
    tokens = data.text_length + data.num_views * image
    sequence = model.num_anchors + tokens + model.soft_prompt_length
    layer = layer_bytes(
        sequence,
        model.hidden_size,
        int(model.hidden_size * model.mlp_ratio),
        heads=model.num_heads if spec.engine.attention == "eager" else 0,
        checkpointing=spec.engine.activation_checkpointing,
    )
    return model.depth * layer + 2.0 * tokens * model.projection_dim


def _vision_bytes(spec: RunSpec) -> float:
    """Return 16-bit bytes of DaViT's activations for one view.

    A depth is a window and a channel block, each with two depthwise convolutions.
    """
    vision, total = spec.model.vision, 0.0
    checkpointing = spec.engine.activation_checkpointing
    for side, dim, depth in zip(
        map_sides(vision, spec.data.image_size), vision.dim_embed, vision.depths, strict=True
    ):
        hidden = int(dim * vision.mlp_ratio)
        block = layer_bytes(side**2, dim, hidden, checkpointing=checkpointing)
        convolutions = 0 if checkpointing else 4 * side**2 * dim
        total += 2 * depth * (block + convolutions)
    return total
