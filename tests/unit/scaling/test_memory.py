"""The memory model: ZeRO's arithmetic, what fits, and activations as autograd keeps them."""

from dataclasses import replace

import pytest
import torch

from scaling.config import with_overrides
from scaling.machine.doctor_rank import draw
from scaling.machine.micro_batch import saved_bytes
from scaling.memory import (
    BF16_ACTIVATIONS,
    BF16_INPUTS,
    GIB,
    activation_bytes,
    check_states_fit,
    checkpoint_bytes,
    explain_out_of_memory,
    fit_micro_batch,
    gpu_table,
    kept_bytes,
    memory,
)
from scaling.sizes import SIZES
from scaling.spec import RunSpec
from xvla.params import num_params


def run(size: str = "0.9b", *overrides: str) -> RunSpec:
    fields = ("data.mixture=[{name: agibot}]", "data.anchor_domain=agibot", *overrides)
    return with_overrides(RunSpec(size=size, model=SIZES[size]), [*fields]).validate()


A100S = ("precision=bf16", "resources.gpus_per_node=8", "resources.nodes=8",
         "global_batch_size=1024", "engine.micro_batch_size=4")  # fmt: skip


def test_zero_divides_what_the_paper_says() -> None:
    numbers = num_params(SIZES["0.9b"])["total"]
    found = memory(run("0.9b", *A100S))
    assert found.weights == 2 * numbers
    assert found.gradients == pytest.approx(2 * numbers / 64)
    assert found.optimizer == pytest.approx(12 * numbers / 64)
    one = memory(run("0.9b", *A100S, "engine.zero_stage=0"))
    assert one.weights + one.gradients + one.optimizer == 16 * numbers
    half = memory(run("0.9b", "resources.processes_per_node=2", "global_batch_size=2"))
    assert half.weights + half.gradients + half.optimizer == pytest.approx(12 * numbers)


def test_a_frozen_encoder_keeps_weights_alone() -> None:
    counts = num_params(SIZES["0.9b"])
    found = memory(run("0.9b", *A100S, "optim.freeze_vlm=true"))
    assert found.weights == 2 * counts["total"]
    assert found.optimizer == pytest.approx(12 * counts["policy"] / 64)
    assert found.activations < memory(run("0.9b", *A100S)).activations


def test_more_ranks_and_recomputation_need_less() -> None:
    rows = gpu_table({"0.9b": run("0.9b", *A100S)})
    assert {row.size for row in rows} == {"0.9b", "2b"}
    totals = [row.total for row in rows if row.size == "0.9b"]
    assert totals == sorted(totals, reverse=True)
    kept = memory(run("2b", *A100S))
    again = memory(run("2b", *A100S, "engine.activation_checkpointing=true"))
    assert again.activations < 0.35 * kept.activations
    assert again.states == kept.states


def test_staged_saves_take_the_checkpoint_once_more_on_a_cpu() -> None:
    """tests/bench/save.py: 0.77 GiB were seen at 50m and one rank, of 0.82."""
    plain, staged = (
        memory(run("50m", "global_batch_size=1", f"engine.async_save={word}"))
        for word in ("false", "true")
    )
    assert staged.total - plain.total == plain.weights + plain.optimizer
    assert staged.total - plain.total == pytest.approx(0.82 * GIB, rel=0.02)
    assert memory(run("0.9b", *A100S, "engine.async_save=true")) == memory(run("0.9b", *A100S))


def test_the_running_mean_is_staged_saved_and_listed() -> None:
    """On the fullest rank the published weights, which hold the mean, are copied beside the own."""
    plain, mean = (
        memory(run("50m", "global_batch_size=1", "engine.async_save=true", f"optim.ema_decay={d}"))
        for d in (0, 0.999)
    )
    numbers = num_params(SIZES["50m"])["total"]
    assert mean.optimizer - plain.optimizer == 4 * numbers
    assert mean.staging - plain.staging == 4 * numbers + mean.weights
    shown = mean.to_dict()
    assert shown["staging"] == mean.staging / GIB
    states = ("weights", "optimizer", "process", "staging")
    assert sum(shown[name] for name in states) == pytest.approx(mean.states / GIB)


@pytest.mark.parametrize("frozen", ["true", "false"])
def test_a_checkpoint_has_the_mean_of_what_trains(frozen: str) -> None:
    counts = num_params(SIZES["0.9b"])
    trained = counts["policy"] if frozen == "true" else counts["total"]
    spec = run("0.9b", *A100S, f"optim.freeze_vlm={frozen}")
    assert checkpoint_bytes(spec) == 4 * counts["total"] + 12 * trained
    mean = with_overrides(spec, ["optim.ema_decay=0.999"])
    assert checkpoint_bytes(mean) == checkpoint_bytes(spec) + 4 * trained


def test_the_largest_divisor_that_fits_is_taken() -> None:
    spec = run("0.26b", "global_batch_size=12")
    for micro in (1, 2, 3, 4, 6, 12):
        enough = memory(spec, micro_batch=micro, device="cpu").total / 0.92 + 1
        assert fit_micro_batch(spec, enough, device="cpu") >= micro
        if micro > 4:  # below that gradients, not activations, fill the backward pass
            assert fit_micro_batch(spec, enough, device="cpu") == micro
    roomy = memory(spec, micro_batch=12, device="cpu").total / 0.92 + 1
    assert fit_micro_batch(spec, roomy, device="cpu", calibration=2.0) < 12


def test_what_cannot_fit_says_what_to_change() -> None:
    with pytest.raises(ValueError, match=r"needs .* GiB .*activation_checkpointing=true"):
        fit_micro_batch(run("2b"), 8 * GIB, device="cpu")


def test_states_that_cannot_fit_are_refused() -> None:
    spec = run("2b", "global_batch_size=2", "resources.processes_per_node=2")
    check_states_fit(spec, 24 * GIB)
    with pytest.raises(ValueError, match=r"2b\) cannot fit: .* take 22\.1 GiB a rank, 12\.0"):
        check_states_fit(spec, 12 * GIB)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_is_explained(error: Exception) -> None:
    text = explain_out_of_memory(error, run("0.9b", *A100S))
    assert text
    assert "engine.micro_batch_size=2 (now 4)" in text
    assert explain_out_of_memory(RuntimeError("shape mismatch"), run()) is None


def test_recomputation_keeps_the_blocks_inputs() -> None:
    """Without recomputation tests/unit/xvla/test_activations.py compares every rung."""
    spec = run("50m", "engine.activation_checkpointing=true")
    kept, block = kept_bytes(spec, device="cpu")
    found = autograd_bytes(spec)
    assert found == pytest.approx(kept, rel=0.03)
    assert activation_bytes(spec, 3, device="cpu") == 3 * (kept + block)
    half = autograd_bytes(replace(spec, precision="bf16"))
    assert half / found == pytest.approx(BF16_INPUTS, abs=0.01)


def test_recomputation_in_a_wide_and_shallow_policy() -> None:
    """The last block keeps no more than the others, though it runs for few tokens."""
    shape = ("data.num_views=1", "data.image_size=96", "data.text_length=7")
    policy = ("model.hidden_size=512", "model.depth=2")
    spec = run("tiny", "engine.activation_checkpointing=true", *policy, *shape)
    kept, _ = kept_bytes(spec, device="cpu")
    assert autograd_bytes(spec) == pytest.approx(kept, rel=0.03)


def test_bf16_keeps_this_share_of_fp32() -> None:
    spec = run("50m")
    kept, _ = kept_bytes(spec, device="cpu")
    ratio = autograd_bytes(replace(spec, precision="bf16")) / kept
    assert ratio == pytest.approx(BF16_ACTIVATIONS, abs=0.03)


def autograd_bytes(spec: RunSpec) -> int:
    from scaling.training.initial import build_model

    torch.manual_seed(0)
    model = build_model(spec).train()
    if spec.precision == "bf16":
        model = model.to(torch.bfloat16)
    device = torch.device("cpu")
    batch, moment, noise = draw(spec, device, every_view=True)
    return saved_bytes(model, lambda: model(batch, moment, noise))
