"""From a RunSpec to DeepSpeed's config and torch's optimizer."""

from dataclasses import replace

import pytest
import torch

from scaling.config import with_overrides
from scaling.sizes import SIZES
from scaling.spec import RunSpec
from scaling.training.engine import adamw, deepspeed_config
from xvla.model import XVLA


def run(*overrides: str) -> RunSpec:
    fields = ("data.mixture=[{name: agibot}]", "data.anchor_domain=agibot", *overrides)
    return with_overrides(RunSpec(size="tiny-h16", model=SIZES["tiny-h16"]), [*fields]).validate()


@pytest.mark.parametrize(
    ("resources", "overlaps", "bucket"),
    [
        ("resources.processes_per_node=1", False, 50_000_000),
        ("resources.processes_per_node=2", False, 200_000_000),
        ("resources.gpus_per_node=1", False, 50_000_000),
        ("resources.gpus_per_node=8", True, 200_000_000),
    ],
)
def test_only_ranks_that_talk_overlap_and_fill_large_buckets(
    resources: str, overlaps: bool, bucket: int
) -> None:
    config = deepspeed_config(run(resources, "global_batch_size=8"))["zero_optimization"]
    assert config["overlap_comm"] == overlaps
    assert config["reduce_bucket_size"] == config["allgather_bucket_size"] == bucket


def test_the_trainer_looks_for_overflow_itself() -> None:
    bf16 = deepspeed_config(run("precision=bf16"))["bf16"]
    assert bf16 == {"enabled": True, "check_grad_overflow": False}


def test_a_gpus_adamw_is_the_fused_one() -> None:
    """The fused kernel runs on a CPU too, and comes to the same weights."""
    plain, fused = (run(f"resources.gpus_per_node={gpus}") for gpus in (0, 1))
    weights = []
    for spec in (plain, fused):
        torch.manual_seed(0)
        model = XVLA(spec.model)
        optimizer = adamw(spec, model)
        assert [group["fused"] for group in optimizer.param_groups] == 4 * [
            True if spec is fused else None
        ]
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 0.1)
        optimizer.step()
        weights.append({name: p.detach() for name, p in model.named_parameters()})
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-6, atol=1e-7)
    assert replace(fused, resources=plain.resources) == plain
