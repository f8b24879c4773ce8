"""machine.doctor_rank with faults in the engine, one after the other, for the doctor to find."""

import json
import os
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from scaling.machine import doctor_rank
from scaling.spec import load_spec
from scaling.training import engine

LOST = "transformer.blocks.1.mlp.fc1.weight"
real_initialize, real_groups = engine.initialize, engine.optimizer_groups


@contextmanager
def none(spec):
    """Let all be as it should."""
    yield


@contextmanager
def scaled(spec):
    """One rank's gradient counts for 1 % more."""

    def initialize(spec, model):
        for parameter in model.parameters():
            if os.environ["RANK"] == "1":
                parameter.register_hook(lambda gradient: 1.01 * gradient)
        return real_initialize(spec, model)

    with patch.object(doctor_rank, "initialize", initialize):
        yield


@contextmanager
def infinite(spec):
    """One rank's gradient is no number."""

    def initialize(spec, model):
        if os.environ["RANK"] == "1":
            model.get_parameter(LOST).register_hook(lambda gradient: gradient * float("nan"))
        return real_initialize(spec, model)

    with patch.object(doctor_rank, "initialize", initialize):
        yield


@contextmanager
def divisor(spec):
    """Accumulated gradients are divided by one too many."""
    steps = spec.global_batch_size // spec.resources.world_size

    def initialize(spec, model):
        for parameter in model.parameters():
            parameter.register_hook(lambda gradient: gradient * steps / (steps + 1))
        return real_initialize(spec, model)

    with patch.object(doctor_rank, "initialize", initialize):
        yield


@contextmanager
def unsummed(spec):
    """Each rank keeps its own gradient: nothing is sent."""
    import deepspeed.comm

    def initialize(spec, model):
        engine = real_initialize(spec, model)
        engine.enable_backward_allreduce = spec.engine.zero_stage > 0
        return engine

    def nothing(*_, **__):
        pass

    with (
        patch.object(doctor_rank, "initialize", initialize),
        patch.multiple(deepspeed.comm, reduce=nothing, all_reduce=nothing),
    ):
        yield


@contextmanager
def ungrouped(spec):
    """One parameter is forgotten when the engine's groups are made."""

    def groups(spec, model):
        lost = model.get_parameter(LOST)
        found = real_groups(spec, model)
        return [g | {"params": [p for p in g["params"] if p is not lost]} for g in found]

    with patch.object(engine, "optimizer_groups", groups):
        yield


@contextmanager
def stale(spec):
    """The last rank does not take the step (without ZeRO its weights are its own)."""

    def initialize(spec, model):
        engine = real_initialize(spec, model)
        if os.environ["RANK"] == "1":
            engine.optimizer.step = lambda *_, **__: None
        return engine

    with patch.object(doctor_rank, "initialize", initialize):
        yield


FAULTS = {"none-2": none, "scaled-2": scaled, "divisor-2": divisor, "unsummed-2": unsummed,
          "unsummed-0": unsummed, "ungrouped-2": ungrouped, "stale-0": stale,
          "infinite-2": infinite}  # fmt: skip


def main() -> int:
    """Write {fault-stage: what check_gradients returns} as rank 0."""
    import torch.distributed as dist

    source, target = sys.argv[1:]
    spec = load_spec(source)
    doctor_rank.prepare_environment(spec)
    device = doctor_rank.start_distributed(spec)
    found = {}
    for name, fault in FAULTS.items():
        stage = int(name[-1])
        staged = replace(spec, engine=replace(spec.engine, zero_stage=stage))
        with fault(staged):
            found[name] = doctor_rank.check_gradients(staged, device).to_dict()
    if dist.get_rank() == 0:
        Path(target).write_text(json.dumps(found))
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
