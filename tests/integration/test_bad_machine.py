"""A machine that is not what a run asks for: each refused in one line, before anything is spent."""

import json
import shutil
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.integration
WHOLE = ("optim.freeze_vlm=false", "data.blind=true")


def refused(run_yaml: Path, start_ranks, *, ranks: int = 1, fault: str = "") -> str:
    """Start ranks that must all exit 2; return what they said, each in one line."""
    started = start_ranks(run_yaml, ranks=ranks, fault=fault)
    assert started.wait() == [2] * ranks, started.output
    said = [line for line in started.output.splitlines() if line.startswith("error: ")]
    assert len(said) == ranks, started.output
    assert "Traceback" not in started.output
    assert not (run_yaml.parent / "attempts").exists() or "belongs to" in said[0]
    return said[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_no_cuda_where_asked(make_run, start_ranks) -> None:
    line = refused(make_run(*WHOLE, "resources.gpus_per_node=1"), start_ranks)
    assert "resources.gpus_per_node=1, but this machine has 0 CUDA devices" in line
    assert "set it to 0 for CPU" in line


def test_a_batch_that_ranks_cannot_share(make_run, start_ranks) -> None:
    run_yaml = make_run(*WHOLE, "resources.processes_per_node=2")
    text = run_yaml.read_text()
    assert "global_batch_size: 4" in text
    run_yaml.write_text(text.replace("global_batch_size: 4", "global_batch_size: 5"))
    line = refused(run_yaml, start_ranks, ranks=2)
    assert "global_batch_size=5 is not a multiple of 2 ranks x micro-batch 1" in line


def test_other_ranks_than_declared(make_run, start_ranks) -> None:
    line = refused(make_run(*WHOLE), start_ranks, ranks=2)
    assert "2 ranks were started, the run is for 1" in line
    assert "resources.processes_per_node" in line


def test_a_run_that_cannot_fit(make_run, start_ranks) -> None:
    line = refused(make_run(*WHOLE), start_ranks, fault="small:-1:0")
    assert "cannot fit: weights, gradients and optimizer take" in line
    assert "0.0 GiB are free; try engine.activation_checkpointing=true" in line


def test_a_checkpoint_of_another_run(make_run, start_ranks) -> None:
    one, other = make_run(*WHOLE, folder="one"), make_run(*WHOLE, "optim.lr=1e-5", folder="other")
    assert start_ranks(one, ranks=1).wait() == [0]
    shutil.copytree(one.parent / "checkpoints", other.parent / "checkpoints")
    line = refused(other, start_ranks)
    assert f"belongs to run {one.parent.name}, not to {other.parent.name}" in line
    assert "delete it" in line
    failed = json.loads((other.parent / "FAILED").read_text())
    assert "belongs to run" in failed["reason"]


def test_out_of_memory_names_what_to_change(make_run, start_ranks) -> None:
    run_yaml = make_run(*WHOLE, "engine.zero_stage=0", "resources.processes_per_node=2")
    started = start_ranks(run_yaml, ranks=2, fault="oom:-1:2")
    assert started.wait() == [1, 1], started.output
    said = [line for line in started.output.splitlines() if line.startswith("error: ")]
    assert len(said) == 2
    assert "Traceback" not in started.output
    assert said[0].startswith("error: out of memory: the run needs about")
    for word in ("engine.micro_batch_size=1 (now 2)", "engine.activation_checkpointing=true",
                 "engine.zero_stage=2 (now 0)"):  # fmt: skip
        assert word in said[0]
    assert json.loads((run_yaml.parent / "FAILED").read_text())["reason"] in said[0]
