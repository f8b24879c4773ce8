"""One rank of `scaling doctor`: gradients against plain autograd, all-reduce bandwidth, start-up.

python -m scaling.machine.doctor_rank spec.yaml out.json    (RANK and WORLD_SIZE in the environment)
"""

import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.config import write_atomic
from scaling.document import Document
from scaling.schedule import base_rates
from scaling.spec import RunSpec, load_spec
from scaling.training.engine import batch_plan, initialize, prepare_environment, start_distributed
from xvla.config import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor

ALL_REDUCE_BYTES = 64 * 2**20
MAX_ACCUMULATION = 4  # as many micro-batches as the run has, but a check is to be quick
MAX_IMAGE_SIZE = 96
MOST = 1e9  # stands for a relative error beyond all measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Worst(Document):
    """The largest errors of a parameter's gradient and update, relative to their norms.

    `shares`: how often the gradient of each rank's samples counts in the worst one (1 is right).
    """

    gradient_error: float
    gradient_worst: str
    shares: list[float]
    update_error: float
    update_worst: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients(Worst):
    """One update by the engine against one by plain autograd; norms are over all parameters."""

    update_norm: float
    gradient_norm: float
    engine_norm: float
    clipped: bool
    accumulation: int
    num_params: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured(Gradients):
    """All that the ranks answer."""

    startup_cpu_s: float
    all_reduce_gb_per_s: float


def main(argv: list[str] | None = None) -> int:
    """Check what spec.yaml says; rank 0 writes out.json."""
    source, target = sys.argv[1:] if argv is None else argv
    spec = load_spec(source)
    prepare_environment(spec)
    device = start_distributed(spec)
    import torch.distributed as dist

    startup = time.process_time()  # before the check, which takes time of its own
    gradients = check_gradients(spec, device).to_dict()
    found = Measured(
        **gradients, startup_cpu_s=startup, all_reduce_gb_per_s=all_reduce_rate(device)
    )
    if dist.get_rank() == 0:
        write_atomic(Path(target), json.dumps(found.to_dict()))
    dist.destroy_process_group()
    return 0


def shrink(spec: RunSpec, *, ranks: int) -> RunSpec:
    """Return the run with its model made tiny and its batch one sample a micro-batch.

    Kept: every stage and kind of block, the action space, prompts, domains, the frozen part, the
    recipe, ZeRO stage, clipping, checkpointing and (up to 4 steps of) accumulation. Dropout is
    off: two implementations cannot draw the same masks.
    """
    _, accumulation = batch_plan(spec)
    accumulation = min(accumulation, MAX_ACCUMULATION)
    return replace(
        spec,
        model=shrink_model(spec.model),
        data=replace(spec.data, image_size=min(spec.data.image_size, MAX_IMAGE_SIZE)),
        global_batch_size=ranks * accumulation,
        engine=replace(spec.engine, micro_batch_size=1, compile=False),
    )


def shrink_model(model: ModelConfig) -> ModelConfig:
    """Return the same architecture about 16 times narrower and at most three blocks deep."""
    widths = [max(16, width // 16) for width in model.vision.dim_embed]
    heads = [width // 8 for width in widths]
    vision = replace(
        model.vision, dim_embed=widths, num_heads=heads, num_groups=heads, drop_path_rate=0.0,
        depths=[min(2, depth) for depth in model.vision.depths],
    )  # fmt: skip
    text = replace(
        model.text, vocab_size=512, d_model=64, encoder_layers=2, encoder_attention_heads=4,
        encoder_ffn_dim=128, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0,
    )  # fmt: skip
    return replace(
        model, vision=vision, text=text, projection_dim=64, hidden_size=64, num_heads=4,
        depth=min(3, model.depth), dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip


def check_gradients(spec: RunSpec, device: Any) -> Gradients:
    """Do one update with the run's engine and one with plain autograd on the whole batch.

    `spec` is a shrunk run; rate and epsilon are 1, so that Adam's update follows the clipped
    gradient instead of its sign. The errors are those of the rank where they are largest.
    """
    import torch
    import torch.distributed as dist

    plain = replace(spec, optim=replace(spec.optim, lr=1.0, eps=1.0), init=type(spec.init)())
    torch.manual_seed(0)
    batches = [draw(plain, device) for _ in range(plain.global_batch_size)]
    model, reference = (_build(plain, device) for _ in range(2))
    if plain.precision == "bf16":  # DeepSpeed's fp32 masters start from the rounded weights
        for parameter in reference.parameters():
            parameter.data = parameter.data.bfloat16().float()
    start = {name: p.detach().clone() for name, p in reference.named_parameters()}
    parts, norm = _plain_update(plain, reference, batches)
    wanted = {
        name: sum((part[name] for part in parts), torch.zeros_like(value))
        for name, value in parts[0].items()
    }
    mine = batches[dist.get_rank() :: len(parts)]
    found, engine_norm, weights = _engine_update(plain, model, mine)
    moved = {n: p.detach() - start[n] for n, p in reference.named_parameters() if n in wanted}
    moved_too = {name: weights[name] - start[name] for name in moved}
    gradient, worst = _largest_error(found, wanted)
    update, worst_update = _largest_error(moved_too, moved)
    errors = Worst(
        gradient_error=gradient,
        gradient_worst=worst,
        shares=_shares(found[worst], [part[worst] for part in parts]),
        update_error=update,
        update_worst=worst_update,
    )
    return Gradients(
        **_worst_of_ranks(errors).to_dict(),
        update_norm=sum(float(value.norm()) ** 2 for value in moved.values()) ** 0.5,
        gradient_norm=norm,
        engine_norm=engine_norm,
        clipped=0 < plain.optim.grad_clip < norm,
        accumulation=len(batches) // len(parts),
        num_params=sum(p.numel() for p in model.parameters()),
    )


def _worst_of_ranks(mine: Worst) -> Worst:
    """Return the gradient's answer of the rank where it is worst, and the update's likewise."""
    import torch.distributed as dist

    ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, mine)
    gradient: Worst = max(ranks, key=lambda one: one.gradient_error)
    update: Worst = max(ranks, key=lambda one: one.update_error)
    return replace(gradient, update_error=update.update_error, update_worst=update.update_worst)


def _shares(found: Any, parts: list[Any]) -> list[float]:
    """Return the factors with which the ranks' parts of a gradient sum up to what was found."""
    import torch

    columns = torch.stack([part.double().flatten() for part in parts], dim=1)
    target = found.double().reshape(-1, 1)
    if not (columns.isfinite().all() and target.isfinite().all()):
        return [MOST] * len(parts)
    return torch.linalg.lstsq(columns, target).solution.flatten().tolist()


def draw(spec: RunSpec, device: Any, *, every_view: bool = False) -> tuple[Any, Any, Any]:
    """Return a random sample as a batch of one, its flow time and noise; some views are absent."""
    import torch

    from xvla.batch import Batch
    from xvla.params import action_dim, proprio_dim

    data, model = spec.data, spec.model
    shape = (1, model.num_anchors, action_dim(model))
    present = torch.ones(1, data.num_views, dtype=torch.bool)
    present[0, 1:] = torch.rand(data.num_views - 1) < (1.0 if every_view else 0.5)
    batch = Batch(
        input_ids=torch.randint(4, model.text.vocab_size, (1, data.text_length)),
        images=torch.randn(1, data.num_views, 3, data.image_size, data.image_size),
        view_mask=present,
        domain_id=torch.randint(model.num_domains, (1,)),
        proprio=torch.randn(1, proprio_dim(model)),
        action=torch.rand(shape),
    )
    return batch.to(device), torch.rand(1, device=device), torch.randn(shape).to(device)


def _build(spec: RunSpec, device: Any) -> Any:
    """Return the model; the same one at every call."""
    import torch

    from scaling.training.initial import build_model

    torch.manual_seed(1)
    return build_model(spec).to(device)


def _engine_update(
    spec: RunSpec, model: Any, batches: list[Any]
) -> "tuple[dict[str, Tensor], float, dict[str, Tensor]]":
    """Accumulate this rank's micro-batches and step; return gradients, their norm and weights.

    A parameter that is in no group of the optimizer has a gradient of zero.
    """
    import torch
    from deepspeed.utils import safe_get_full_grad

    from scaling.training.engine import gradient_norms
    from scaling.training.reshard import group_names
    from scaling.training.trainer import training_mode

    engine = initialize(spec, model)
    _set_rates(spec, engine.optimizer)
    training_mode(spec, engine)
    for micro, (batch, moment, noise) in enumerate(batches):
        losses = engine(batch, moment, noise)
        engine.backward(torch.stack(list(losses.values())).sum())
        if micro < len(batches) - 1:
            engine.step()
    grouped = {name for group in group_names(engine) for name in group}
    gradients = {
        name: safe_get_full_grad(p).float().clone() if name in grouped else torch.zeros_like(p)
        for name, p in engine.module.named_parameters()
    }
    norm = gradient_norms(engine)["total"]
    engine.step()
    return gradients, norm, _exact_weights(engine)


def _exact_weights(engine: Any) -> "dict[str, Tensor]":
    """Return the weights in fp32: in bf16 the optimizer's masters, for an update is lost in those.

    A parameter that is in no group has none.
    """
    from deepspeed.utils import safe_get_full_fp32_param

    from scaling.training.engine import held_groups

    copies = getattr(engine.optimizer, "fp32_groups", None)  # bf16 without ZeRO
    pairs = zip(held_groups(engine), copies, strict=True) if copies else ()
    masters = {id(p): copy for held, own in pairs for p, copy in zip(held, own, strict=True)}
    found = {}
    for name, parameter in engine.module.named_parameters():
        exact = masters.get(id(parameter))
        if exact is None and engine.bfloat16_enabled():
            exact = safe_get_full_fp32_param(parameter)
        found[name] = (parameter if exact is None else exact).detach().float()
    return found


def _plain_update(
    spec: RunSpec, model: Any, batches: list[Any]
) -> "tuple[list[dict[str, Tensor]], float]":
    """Do the same in fp32 with torch alone; return each rank's part of the gradients, their norm.

    The parameters' groups are the model's own, not those that the engine makes of them.
    """
    import torch
    import torch.distributed as dist

    from xvla.model import parameter_groups

    optim = spec.optim
    if optim.freeze_vlm:
        model.vlm.requires_grad_(False)
    groups = [
        {"params": trained, "name": name}
        for name, group in parameter_groups(model).items()
        if (trained := [p for p in group if p.requires_grad])
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=optim.lr, betas=(optim.betas[0], optim.betas[1]),
        eps=optim.eps, weight_decay=optim.weight_decay,
    )  # fmt: skip
    _set_rates(spec, optimizer)
    model.train()
    if optim.freeze_vlm:
        model.vlm.eval()
    ranks = dist.get_world_size()
    parts = [_mean_gradients(model, batches[rank::ranks], ranks) for rank in range(ranks)]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.grad = sum((part[name] for part in parts), torch.zeros_like(parameter))
    limit = optim.grad_clip or float("inf")
    norm = float(torch.nn.utils.clip_grad_norm_(list(model.parameters()), limit))
    optimizer.step()
    return parts, norm


def _mean_gradients(model: Any, batches: list[Any], ranks: int) -> "dict[str, Tensor]":
    """Return what some of the batches, a rank's, add to the mean gradient over all."""
    import torch

    model.zero_grad()
    for batch, moment, noise in batches:
        losses = model(batch, moment, noise)
        (torch.stack(list(losses.values())).sum() / (len(batches) * ranks)).backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()  # none where not used
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def _set_rates(spec: RunSpec, optimizer: Any) -> None:
    rates = base_rates(spec.optim)
    for group in optimizer.param_groups:
        group["lr"] = rates[group["name"]]


def _largest_error(found: "dict[str, Tensor]", wanted: "dict[str, Tensor]") -> tuple[float, str]:
    """Return the largest |found - wanted| over |wanted| by parameter, and its name.

    At most MOST, which is also what is not a number gets: that compares with nothing.
    A parameter whose norm is below 1e-4 of all is measured against that: some gradients are zero
    but for rounding, as a key's bias.
    """
    total = sum(float(value.double().square().sum()) for value in wanted.values()) ** 0.5
    errors = {
        name: float((found[name].double() - value.double()).norm())
        / max(float(value.double().norm()), 1e-4 * total, 1e-30)
        for name, value in wanted.items()
    }
    errors = {name: error if error < MOST else MOST for name, error in errors.items()}
    worst = max(errors, key=lambda name: errors[name])
    return errors[worst], worst


def all_reduce_rate(device: Any, *, repeats: int = 3) -> float:
    """Return the bus bandwidth of summing 64 MiB over the ranks, GB/s (0 for one rank).

    Bus bandwidth as in NCCL's tests: bytes x 2 (n - 1) / n over seconds.
    """
    import torch
    import torch.distributed as dist

    ranks = dist.get_world_size()
    if ranks == 1:
        return 0.0
    values = torch.zeros(ALL_REDUCE_BYTES // 4, device=device)
    best = float("inf")
    for _ in range(repeats):
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(values)
        if values.is_cuda:
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return ALL_REDUCE_BYTES * 2 * (ranks - 1) / ranks / best / 1e9


if __name__ == "__main__":
    sys.exit(main())
