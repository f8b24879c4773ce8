"""The memory model: what a rank holds of a run, in closed form, and which micro-batch fits.

Without torch, for planners. N parameters, b bytes a number (2 bf16, 4 fp32), dp ranks.
"""

from dataclasses import dataclass, fields, replace
from typing import Literal

from scaling.sizes import SIZES
from scaling.spec import ResourceConfig, RunSpec
from xvla.activations import (
    EARLY_STAGES,
    FLOAT,
    image_bytes,
    policy_bytes,
    policy_edge_bytes,
    text_bytes,
)
from xvla.config import ModelConfig
from xvla.params import num_params, num_view_tokens

Device = Literal["cpu", "gpu"]
GIB = 2**30
# Reduce and all-gather buckets of our DeepSpeed config: large ones pay where ranks talk.
BUCKET_NUMBERS, LONE_BUCKET_NUMBERS = 200_000_000, 50_000_000
OVERLAP = 4.5
PLAIN_BUCKET_NUMBERS = 500_000_000  # DeepSpeed's own for gradients at stage 0
# Half precision halves what is kept, but for losses, the time embedding and what attention and
# norms keep a row in fp32. Bytes that autograd was seen to keep at 50m, bf16 over fp32; not
# calibrated on a GPU. Blocks' inputs are all in bf16.
BF16_ACTIVATIONS, BF16_INPUTS = 0.53, 0.5
PROCESS_BYTES = 0.15e9  # what the first step loads on a CPU: kernels, their caches, gloo
UNCALIBRATED = "activations by formula, not calibrated on a GPU"
REFERENCES = ("0.9b", "2b")  # the released size and the largest rung
HEADROOM = 0.92  # share of a device that a run may fill: the rest is fragmentation


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on one rank. A step is fullest in its backward pass or in its update, never in both.

    buckets: communication buffers of the backward pass; update: temporaries of the optimizer;
    process: code and caches that come with the first step; staging: copies for `async_save` on a
    CPU (a GPU's are in its host's memory). `lazy`: on a CPU a buffer takes memory when it is
    written, so that gradients arrive while activations leave.
    """

    weights: float
    gradients: float
    optimizer: float
    buckets: float
    activations: float
    update: float
    process: float = 0.0
    staging: float = 0.0
    lazy: bool = False

    @property
    def states(self) -> float:
        """Bytes that stay from step to step."""
        return self.weights + self.optimizer + self.process + self.staging

    @property
    def total(self) -> float:
        """Bytes at the fullest moment, without the CUDA context (0.5 to 1 GiB)."""
        grown = (max if self.lazy else sum)((self.activations, self.gradients))
        return self.states + max(grown + self.buckets, self.gradients + self.update)

    def to_dict(self) -> dict[str, float]:
        """Return the parts and `total`, in GiB."""
        parts = [part.name for part in fields(self) if part.name != "lazy"]
        return {name: getattr(self, name) / GIB for name in (*parts, "total")}


def memory(spec: RunSpec, *, micro_batch: int = 0, device: Device | None = None) -> Memory:
    """Return what one rank of the run holds, with `micro_batch` samples at a time (0: its own).

    ZeRO (Rajbhandari et al. 2020, section 3): stage 1 divides fp32 master weights and Adam's
    moments among the ranks, stage 2 the gradients as well: 2 + (2 + 12) / dp bytes a parameter in
    bf16, 4 + (4 + 12) / dp in fp32, 16 at stage 0. The buckets and the update's temporaries are
    those of DeepSpeed 0.19.8.
    """
    where: Device = device or ("gpu" if spec.resources.gpus_per_node else "cpu")
    groups = trained_groups(spec)
    trained, number = sum(groups.values()), bytes_of(spec.precision)
    stage, ranks = spec.engine.zero_stage, spec.resources.world_size
    micro = micro_batch or _own_micro_batch(spec)
    mean = mean_bytes(spec) * trained / ranks
    gradient_share = ranks if stage == 2 else 1
    state_share = ranks if stage else 1
    weights = number * num_params(spec.model)["total"]
    optimizer = optimizer_bytes(spec) * trained / state_share + mean
    # The weights as trained and, on the fullest rank, as published: those hold the mean.
    staged = weights * (2 if mean else 1) + optimizer
    return Memory(
        weights=weights,
        gradients=number * trained / gradient_share,
        optimizer=optimizer,
        buckets=_bucket_bytes(spec, trained, where),
        activations=activation_bytes(spec, micro, device=where),
        update=_update_bytes(spec, groups, where),
        process=PROCESS_BYTES if where == "cpu" else 0.0,
        staging=staged if spec.engine.async_save and where == "cpu" else 0.0,
        lazy=where == "cpu" and micro * ranks == spec.global_batch_size,
    )


def bucket_numbers(spec: RunSpec) -> int:
    """Return how many gradients DeepSpeed reduces at a time."""
    return BUCKET_NUMBERS if spec.resources.world_size > 1 else LONE_BUCKET_NUMBERS


def bytes_of(precision: str) -> int:
    """Return the bytes of a weight in bf16 or fp32."""
    return 2 if precision == "bf16" else 4


def optimizer_bytes(spec: RunSpec) -> int:
    """Return bytes a parameter of Adam's moments and a master copy (none at stage 0 in fp32)."""
    return 8 if spec.precision == "fp32" and spec.engine.zero_stage == 0 else 12


def mean_bytes(spec: RunSpec) -> int:
    """Return bytes a trained parameter of the running mean of the weights, fp32 (0 without)."""
    return 4 if spec.optim.ema_decay else 0


def checkpoint_bytes(spec: RunSpec) -> int:
    """Return the bytes of one step folder over all ranks: weights twice, optimizer and mean once.

    The weights are there for DeepSpeed and, as model.safetensors, without it.
    """
    trained = sum(trained_groups(spec).values())
    weights = bytes_of(spec.precision) * num_params(spec.model)["total"]
    return 2 * weights + (optimizer_bytes(spec) + mean_bytes(spec)) * trained


def trained_groups(spec: RunSpec) -> dict[str, int]:
    """Return the parameters of each optimizer group that trains."""
    counts = num_params(spec.model)
    names = ("vlm", "transformer_core", "soft_prompts", "action_heads")
    return {name: counts[name] for name in names if name != "vlm" or not spec.optim.freeze_vlm}


def activation_bytes(spec: RunSpec, micro_batch: int, *, device: Device) -> float:
    """Return the bytes of activations that a micro-batch keeps for its backward pass.

    A frozen encoder keeps none. Under activation checkpointing only the blocks' inputs stay, and
    the largest block is there whole. Exact in fp32 on a CPU (xvla.activations).
    """
    kept, block = kept_bytes(spec, device=device)
    again = spec.engine.activation_checkpointing
    whole, inputs = (BF16_ACTIVATIONS, BF16_INPUTS) if spec.precision == "bf16" else (1.0, 1.0)
    return micro_batch * (inputs * kept + whole * block if again else whole * kept)


def kept_bytes(spec: RunSpec, *, device: Device) -> tuple[int, int]:
    """Return fp32 bytes kept of one sample after its forward pass, and of the largest block."""
    model, data = spec.model, spec.data
    image = num_view_tokens(model.vision, data.image_size)
    merged, aux = image + data.text_length, (data.num_views - 1) * image
    again = spec.engine.activation_checkpointing
    parts = [_policy_bytes(model, merged, aux, again=again)]
    if not spec.optim.freeze_vlm:
        stages = len(model.vision.depths) if again else EARLY_STAGES if device == "cpu" else 0
        views = data.num_views
        tower = image_bytes(model, data.image_size, recomputed_stages=stages)
        parts.append((views * tower, views * _vision_block_bytes(model, data.image_size)))
        parts.append(_text_bytes(model, merged, again=again))
    return sum(kept for kept, _ in parts), max(block for _, block in parts)


def fit_micro_batch(
    spec: RunSpec, capacity: float, *, device: Device, calibration: float = 1.0
) -> int:
    """Return the largest micro-batch that fits `capacity` bytes of a rank.

    It divides the rank's share of the global batch. `calibration`: measured bytes of activations
    over `activation_bytes`. Raises ValueError, saying what to change, when not even 1 fits.
    """
    share = spec.global_batch_size // spec.resources.world_size
    for micro in (m for m in range(share, 0, -1) if share % m == 0):
        estimate = memory(spec, micro_batch=micro, device=device)
        estimate = replace(estimate, activations=estimate.activations * calibration)
        if estimate.total <= HEADROOM * capacity:
            return micro
    needed = memory(spec, micro_batch=1, device=device).total
    raise ValueError(
        f"run {spec.run_id} ({spec.size}) needs {needed / GIB:.1f} GiB a rank at micro-batch 1, "
        f"{HEADROOM * capacity / GIB:.1f} GiB may be used; {what_to_change(spec, micro_batch=1)}"
    )


def check_states_fit(spec: RunSpec, capacity: float) -> None:
    """Raise ValueError where weights, gradients and optimizer alone exceed a rank's bytes."""
    found = memory(spec, micro_batch=1)
    needed = found.weights + found.gradients + found.optimizer
    if needed > capacity:
        raise ValueError(
            f"run {spec.run_id} ({spec.size}) cannot fit: weights, gradients and optimizer take "
            f"{needed / GIB:.1f} GiB a rank, {capacity / GIB:.1f} GiB are free; "
            f"{what_to_change(spec, micro_batch=1)}"
        )


def what_to_change(spec: RunSpec, *, micro_batch: int = 0) -> str:
    """Return the settings that would save memory, the cheapest first."""
    micro = micro_batch or _own_micro_batch(spec)
    advice = []
    if micro > 1:
        smaller = max(m for m in range(1, micro) if micro % m == 0)
        advice.append(f"engine.micro_batch_size={smaller} (now {micro})")
    if not spec.engine.activation_checkpointing:
        advice.append("engine.activation_checkpointing=true")
    if spec.engine.zero_stage < 2 and spec.resources.world_size > 1:
        advice.append(f"engine.zero_stage=2 (now {spec.engine.zero_stage})")
    if spec.engine.zero_stage and spec.global_batch_size > spec.resources.world_size:
        advice.append(f"more ranks than {spec.resources.world_size} (resources.nodes)")
    return "try " + ", ".join(advice) if advice else "take a smaller size or a larger device"


def explain_out_of_memory(error: BaseException, spec: RunSpec) -> str | None:
    """Return one line that says what to change; None if `error` is not about memory."""
    text = " ".join(str(error).split())
    marks = ("out of memory", "can't allocate memory", "cannot allocate memory")
    if not isinstance(error, MemoryError) and not any(mark in text.lower() for mark in marks):
        return None
    estimate = memory(spec).to_dict()
    trust = f" ({UNCALIBRATED})" if spec.resources.gpus_per_node else ""
    return (
        f"out of memory: the run needs about {estimate['total']:.1f} GiB a rank, of which "
        f"{estimate['activations']:.1f} for activations{trust}; {what_to_change(spec)}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuMemory:
    """GiB on each of `gpus` GPUs at a micro-batch, by part and in all."""

    size: str
    gpus: int
    micro_batch: int
    weights: float
    gradients: float
    optimizer: float
    buckets: float
    activations: float
    update: float
    process: float
    staging: float
    total: float


def gpu_table(
    specs: dict[str, RunSpec], *, gpus: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
) -> list[GpuMemory]:
    """Return a row for each model on 1 to 64 GPUs.

    The 0.9b and the 2b are always among them, with activation checkpointing where no run says
    otherwise. The micro-batch is the run's own, or less where its global batch is.
    """
    rows, specs = [], _with_references(specs)
    for size, spec in specs.items():
        for count in gpus:
            per_node = min(8, count)
            there = ResourceConfig(nodes=-(-count // per_node), gpus_per_node=per_node)
            micro = max(1, min(_own_micro_batch(spec), spec.global_batch_size // count))
            estimate = memory(replace(spec, resources=there), micro_batch=micro, device="gpu")
            rows.append(GpuMemory(size=size, gpus=count, micro_batch=micro, **estimate.to_dict()))
    return rows


def _with_references(specs: dict[str, RunSpec]) -> dict[str, RunSpec]:
    """Add the sizes of REFERENCES, otherwise like the last run; nothing to no run at all."""
    found = dict(specs)
    for name in REFERENCES if specs else ():
        last = next(reversed(specs.values()))
        engine = replace(last.engine, activation_checkpointing=True)
        found.setdefault(name, replace(last, size=name, model=SIZES[name], engine=engine))
    return found


def _own_micro_batch(spec: RunSpec) -> int:
    return spec.engine.micro_batch_size or spec.global_batch_size // spec.resources.world_size


def _bucket_bytes(spec: RunSpec, trained: int, device: Device) -> float:
    """Return the bytes of DeepSpeed's buffers for reducing gradients.

    On a CPU they are there as far as they are written; the slices that go to one rank are copied
    together before they are sent, and once more by gloo (measured: tests/bench/zero2.py). On GPUs
    4.5 times both buckets, as DeepSpeed documents `overlap_comm`, on a single one (which overlaps
    nothing) both of them; not measured here.
    """
    number, ranks = bytes_of(spec.precision), spec.resources.world_size
    bucket = bucket_numbers(spec)
    if spec.engine.zero_stage == 0:
        return number * min(PLAIN_BUCKET_NUMBERS, trained) if ranks > 1 else 0.0
    if device == "gpu":
        return number * bucket * 2 * (OVERLAP if ranks > 1 else 1)
    return number * min(bucket, trained) * (1 + 2 / ranks)


def _update_bytes(spec: RunSpec, groups: dict[str, int], device: Device) -> float:
    """Return the temporaries of the largest group's update: fp32 gradient, Adam's denominator.

    torch's AdamW makes the square root and the quotient anew on a CPU, one tensor on a GPU.
    """
    temporaries = 1 if device == "gpu" else 2
    largest = max(groups.values())
    if spec.engine.zero_stage == 0:
        # Without ZeRO each parameter is updated by itself on a CPU, all at once on a GPU.
        return FLOAT * sum(groups.values()) * temporaries if device == "gpu" else 0.0
    return FLOAT * (1 + temporaries) * largest / spec.resources.world_size


def _policy_bytes(model: ModelConfig, merged: int, aux: int, *, again: bool) -> tuple[int, int]:
    """Return the bytes that the policy keeps of a sample and those of one of its blocks."""
    whole, one, two = (
        policy_bytes(replace(model, depth=depth), merged=merged, aux=aux)
        for depth in (model.depth, 1, 2)
    )
    if not again:
        return whole, two - one
    tokens = model.num_anchors + merged + aux + model.soft_prompt_length
    inputs = FLOAT * tokens * model.hidden_size
    edges = policy_edge_bytes(model, merged=merged, aux=aux)
    return edges + model.depth * inputs, two - one


def _text_bytes(model: ModelConfig, tokens: int, *, again: bool) -> tuple[int, int]:
    """Return the bytes that the text encoder keeps of a sample and those of one of its layers."""
    layers = model.text.encoder_layers
    whole = text_bytes(model.text, tokens)
    outside = text_bytes(replace(model.text, encoder_layers=0), tokens)
    kept = outside + layers * FLOAT * tokens * model.text.d_model if again else whole
    return kept, (whole - outside) // max(1, layers)


def _vision_block_bytes(model: ModelConfig, image_size: int) -> int:
    """Return the bytes of the tower's largest block for one image."""
    stages = range(len(model.vision.depths))

    def with_depths(depths: list[int]) -> int:
        vision = replace(model.vision, depths=depths)
        return image_bytes(replace(model, vision=vision), image_size, recomputed_stages=0)

    none = with_depths([0 for _ in stages])
    return max(with_depths([int(i == stage) for i in stages]) - none for stage in stages)
