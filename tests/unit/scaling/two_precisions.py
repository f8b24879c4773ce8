"""Two trainings from the same weights on the same batches, in fp32 and in bf16, step by step.

python two_precisions.py    prints {"losses": [[fp32, bf16], ...], "cosines": [{group: x}, ...],
                            "compiled": names of DeepSpeed's ops}
"""

import json
import logging
from dataclasses import fields, replace
from typing import Any

import torch
from deepspeed.ops.op_builder.builder import OpBuilder

from scaling.config import with_overrides
from scaling.machine.doctor_rank import draw
from scaling.schedule import learning_rates
from scaling.spec import RunSpec
from scaling.training.engine import initialize, prepare_environment, start_distributed
from scaling.training.initial import build_model
from scaling.training.trainer import training_mode
from sweeps._mixtures import simulated_run
from xvla.batch import Batch

STEPS = 20
# The whole model of the recipe for small ones; one small view, so that it takes seconds.
SHORT = ("optim.freeze_vlm=false", "engine.zero_stage=2", "global_batch_size=8",
         "data.num_views=1", "data.image_size=32", "init.encoder=none",
         "init.encoder_sha256=''")  # fmt: skip


def main() -> None:
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    spec = with_overrides(simulated_run("tiny"), [*SHORT])
    prepare_environment(spec)
    start_distributed(spec)
    torch.set_autocast_enabled("cuda", True)  # as where CUDA would autocast
    specs = [replace(spec, precision=precision) for precision in ("fp32", "bf16")]
    engines = [_engine(one) for one in specs]
    torch.manual_seed(1)
    losses, cosines = [], []
    for step in range(STEPS):
        batch = _batch(spec)
        pairs = [_update(spec, engine, batch, step) for engine in engines]
        losses.append([loss for loss, _ in pairs])
        exact, rounded = (gradients for _, gradients in pairs)
        cosines.append({name: _cosine(exact[name], rounded[name]) for name in exact})
    compiled = sorted(OpBuilder._loaded_ops)
    print(json.dumps({"losses": losses, "cosines": cosines, "compiled": compiled}))


def _engine(spec: RunSpec) -> Any:
    torch.manual_seed(0)
    engine = initialize(spec, build_model(spec))
    training_mode(spec, engine)
    return engine


def _batch(spec: RunSpec) -> tuple[Batch, torch.Tensor, torch.Tensor]:
    """Return a batch of random samples with their times and noise."""
    samples, times, noises = zip(
        *(draw(spec, torch.device("cpu")) for _ in range(spec.global_batch_size)), strict=True
    )
    parts = {
        field.name: torch.cat([getattr(sample, field.name) for sample in samples])
        for field in fields(Batch)
    }
    return Batch(**parts), torch.cat(times), torch.cat(noises)


def _update(
    spec: RunSpec, engine: Any, batch: tuple[Any, ...], step: int
) -> tuple[float, dict[str, torch.Tensor]]:
    """Do one step; return its loss and each group's gradient."""
    rates = learning_rates(spec, step)
    for group in engine.optimizer.param_groups:
        group["lr"] = rates[group["name"]]
    total = torch.stack(list(engine(*batch).values())).sum()
    engine.backward(total)
    names = [group["name"] for group in engine.optimizer.param_groups]
    gradients = {
        names[index]: torch.cat([part.flatten().double() for part in parts])
        for index, parts in engine.optimizer.averaged_gradients.items()
    }
    engine.step()
    return float(total.detach()), gradients


def _cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))


if __name__ == "__main__":
    main()
