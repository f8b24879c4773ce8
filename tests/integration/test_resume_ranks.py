"""A run goes on with other ranks or another ZeRO stage, or from a trunk, as if never stopped."""

import json
import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.integration

STEPS, AT = 16, 8
SCIENCE = ("optim.freeze_vlm=false", "optim.ema_decay=0.9", f"num_steps={STEPS}")
CACHED = ("schedule.kind=wsd", "schedule.warmup_steps=2", "schedule.decay_fraction=0.25")


def train_losses(run_yaml: Path) -> dict[int, float]:
    lines = (run_yaml.parent / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "loss/train" in row]
    return {row["step"]: row["loss/train"] for row in rows}


def step_folder(run_yaml: Path, step: int) -> Path:
    return run_yaml.parent / "checkpoints" / f"step_{step:07d}"


def weights(run_yaml: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    return load_file(str(step_folder(run_yaml, step) / "model.safetensors"))


def largest_difference(one: dict, other: dict) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def stopped_at(run_yaml: Path, step: int) -> None:
    """Make of a finished run one that was killed right after saving `step`."""
    for path in (run_yaml.parent / "checkpoints").glob("step_*"):
        if int(path.name.removeprefix("step_")) > step:
            shutil.rmtree(path)
    (run_yaml.parent / "DONE").unlink()


def shape(ranks: int, stage: int) -> tuple[str, ...]:
    return (f"resources.processes_per_node={ranks}", f"engine.zero_stage={stage}")


@pytest.mark.parametrize(("before", "after"), [((2, 2), (1, 2)), ((1, 0), (2, 1))])
def test_another_world_size(make_run, start_ranks, before, after) -> None:
    """Stated tolerance: losses to 1e-5, the running mean of the weights to 1e-5 (both relative
    errors of summing gradients in another order); the data cursor exactly."""
    run_yaml = make_run(*SCIENCE, *shape(*before), "engine.keep_last=9")
    assert start_ranks(run_yaml, ranks=before[0]).wait() == [0] * before[0]
    whole, means = train_losses(run_yaml), weights(run_yaml)
    episodes = pd.read_parquet(run_yaml.parent / "val_episodes.parquet")

    changed = make_run(*SCIENCE, *shape(*after), "engine.keep_last=9")
    assert changed == run_yaml  # the same science: written over, in the same folder
    (run_yaml.parent / "DONE").unlink()  # evaluated again, on the weights of the last step
    ranks = start_ranks(run_yaml, ranks=after[0])
    assert ranks.wait() == [0] * after[0]
    assert f"saved by {before[0]} ranks at ZeRO stage {before[1]}" in ranks.output
    again = pd.read_parquet(run_yaml.parent / "val_episodes.parquet")
    pd.testing.assert_frame_equal(again, episodes, rtol=1e-5)

    stopped_at(run_yaml, AT)
    assert start_ranks(run_yaml, ranks=after[0]).wait() == [0] * after[0]
    assert train_losses(run_yaml) == pytest.approx(whole, rel=1e-5)
    assert 0 < largest_difference(weights(run_yaml), means) < 1e-5
    state = json.loads((step_folder(run_yaml, STEPS) / "trainer.json").read_text())
    assert (state["world_size"], state["zero_stage"]) == after
    assert state["loader"] == {"next_sample": STEPS * 4}


BF16 = ("optim.freeze_vlm=false", "precision=bf16", f"num_steps={AT}", "engine.keep_last=9")


@pytest.mark.parametrize(("before", "after"), [((2, 2), (1, 1)), ((1, 1), (2, 2))])
def test_another_world_size_in_bf16(make_run, start_ranks, before, after) -> None:
    """Stated tolerance: losses to 0.2 % (gradients are rounded to 8 bits before they are summed,
    by other ranks in another order: 0.07 % were seen); weights to two bf16 steps at 1."""
    run_yaml = make_run(*BF16, *shape(*before))
    assert start_ranks(run_yaml, ranks=before[0]).wait() == [0] * before[0]
    whole, trained = train_losses(run_yaml), weights(run_yaml, AT)
    assert torch.bfloat16 in {tensor.dtype for tensor in trained.values()}

    changed = make_run(*BF16, *shape(*after))
    assert changed == run_yaml
    stopped_at(run_yaml, AT // 2)
    ranks = start_ranks(run_yaml, ranks=after[0])
    assert ranks.wait() == [0] * after[0], ranks.output
    assert f"saved by {before[0]} ranks at ZeRO stage {before[1]}" in ranks.output
    again = train_losses(run_yaml)
    assert again == pytest.approx(whole, rel=2e-3)
    assert largest_difference(weights(run_yaml, AT), trained) < 2**-7


def test_bf16_without_zero_stays_as_it_was_saved(make_run, start_ranks) -> None:
    run_yaml = make_run(*BF16, *shape(1, 0))
    assert start_ranks(run_yaml, ranks=1).wait() == [0]
    stopped_at(run_yaml, AT // 2)
    make_run(*BF16, *shape(2, 2))
    ranks = start_ranks(run_yaml)
    assert ranks.wait() == [2, 2], ranks.output
    assert "saved by 1 ranks at ZeRO stage 0, this is 2 at stage 2" in ranks.output
    assert (
        "in bf16 only stages 1 and 2 change: set engine.zero_stage=0 with 1 ranks" in ranks.output
    )
    make_run(*BF16, *shape(1, 0))
    assert start_ranks(run_yaml, ranks=1).wait() == [0]


def test_running_mean_is_published_and_survives_a_kill(make_run, start_ranks) -> None:
    run_yaml = make_run(*SCIENCE, "engine.keep_last=9")
    assert start_ranks(run_yaml, ranks=1).wait() == [0]
    means, raw = (
        weights(run_yaml),
        torch.load(step_folder(run_yaml, STEPS) / "deepspeed" / "mp_rank_00_model_states.pt")[
            "module"
        ],
    )
    assert largest_difference(means, {name: raw[name] for name in means}) > 1e-4
    stopped_at(run_yaml, AT)
    assert start_ranks(run_yaml, ranks=1).wait() == [0]
    assert largest_difference(weights(run_yaml), means) == 0


def test_a_branch_equals_the_run_trained_alone(make_run, start_ranks) -> None:
    from scaling.branch import branched
    from scaling.spec import load_spec

    alone = make_run(*CACHED, "num_steps=12", "engine.save_every=0", folder="alone")
    longest = make_run(*CACHED, "num_steps=24", "engine.save_every=0", folder="shared")
    trunk, branch = branched([load_spec(alone), load_spec(longest)])
    folder = longest.parents[1]
    for spec in (trunk, branch):
        spec.save(folder / spec.run_id / "run.yaml")
    waiting = start_ranks(folder / branch.run_id / "run.yaml", ranks=1)
    assert start_ranks(folder / trunk.run_id / "run.yaml", ranks=1).wait() == [0]
    assert waiting.wait() == [0]
    assert start_ranks(alone, ranks=1).wait() == [0]
    branch_yaml = folder / branch.run_id / "run.yaml"
    shared = {step: loss for step, loss in train_losses(alone).items() if step > 9}
    assert train_losses(branch_yaml) == shared
    assert largest_difference(weights(branch_yaml, 12), weights(alone, 12)) == 0


def test_all_damaged_starts_anew_and_says_so(make_run, start_ranks) -> None:
    run_yaml = make_run("num_steps=8")
    ranks = start_ranks(run_yaml, ranks=1, fault="slow:-1:0")
    ranks.wait_for(step_folder(run_yaml, 4).exists)
    ranks.signal(signal.SIGKILL)
    ranks.wait()
    for path in (run_yaml.parent / "checkpoints").glob("step_*"):
        (path / "manifest.json").write_text("{")
    again = start_ranks(run_yaml, ranks=1)
    assert again.wait() == [0]
    assert "step_0000004: manifest.json is not readable" in again.output
    assert "no checkpoint is whole; starting anew" in again.output
