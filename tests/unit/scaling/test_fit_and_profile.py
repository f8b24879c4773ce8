"""`train --fit-micro-batch` and `profile` on a short real run, in processes of their own."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scaling.machine import micro_batch as fit
from scaling.spec import load_spec


def test_a_measured_sample_calibrates_the_model(make_run) -> None:
    path = make_run("global_batch_size=8", "optim.freeze_vlm=false")
    assert fit.fitted_micro_batch(path, []) == 8
    record = json.loads((path.parent / fit.RECORD).read_text())
    assert record["calibration"] == pytest.approx(1.0, abs=0.1)
    assert record["grad_accum_steps"] == 1


def test_the_micro_batch_follows_the_memory(make_run, monkeypatch) -> None:
    from scaling.memory import memory

    path = make_run("global_batch_size=8", "optim.freeze_vlm=false")
    spec = load_spec(path)
    three = memory(spec, micro_batch=3, device="cpu").total / 0.92
    measured = {"activation_bytes": 1.0, "formula_bytes": 1.0, "capacity_bytes": three}
    monkeypatch.setattr(fit, "measure_apart", lambda *_: measured)
    assert fit.fitted_micro_batch(path, []) == 2  # the largest divisor of 8 up to 3
    monkeypatch.setattr(fit, "measure_apart", lambda *_: measured | {"capacity_bytes": 1e6})
    with pytest.raises(ValueError, match=r"engine\.activation_checkpointing=true"):
        fit.fitted_micro_batch(path, [])


def test_other_ranks_take_rank_zeros_answer(make_run, monkeypatch) -> None:
    path = make_run()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("MASTER_PORT", "12345")
    monkeypatch.setattr(fit, "WAIT_S", 0.3)
    record = path.parent / fit.RECORD
    record.write_text(json.dumps({"launch": "an earlier one", "micro_batch_size": 1}))
    with pytest.raises(RuntimeError, match="rank 0"):
        fit.fitted_micro_batch(path, [])
    record.write_text(json.dumps({"launch": fit._launch(), "micro_batch_size": 2}))
    assert fit.fitted_micro_batch(path, []) == 2


def test_a_profile_traces_the_loop_and_leaves_the_run_alone(make_run) -> None:
    """The run is a branch whose trunk is not there, for which a profile has no need."""
    branch = ("schedule.kind=wsd", "init.trunk=abcdefabcdef", "init.trunk_step=3")
    path: Path = make_run("num_steps=6", "schedule.warmup_steps=1", *branch)
    command = [sys.executable, "-m", "scaling", "profile", str(path), "--steps", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    with gzip.open(document["trace"], "rt") as stream:
        names = {event.get("name") for event in json.load(stream)["traceEvents"]}
    assert "ProfilerStep#2" in names
    assert "ProfilerStep#4" not in names
    assert any("AdamW" in str(name) for name in names)
    assert sorted(p.name for p in path.parent.iterdir()) == ["profile", "run.yaml"]
    assert not list(path.parents[1].glob("_profile-*"))


def test_each_of_two_ranks_writes_its_trace(make_run) -> None:
    path: Path = make_run("num_steps=6", "resources.processes_per_node=2")
    command = [sys.executable, "-m", "scaling", "profile", str(path), "--steps", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [Path(trace).name for trace in document["traces"]] == ["rank0.json.gz", "rank1.json.gz"]
    for trace in document["traces"]:
        with gzip.open(trace, "rt") as stream:
            names = {event.get("name") for event in json.load(stream)["traceEvents"]}
        assert "ProfilerStep#3" in names
        assert any("gloo" in str(name) or "c10d::" in str(name) for name in names)
    assert "Self CPU" in document["table"]
    assert not list(path.parents[1].glob("_profile-*"))


def test_a_profile_of_several_nodes_is_left_to_their_launcher(make_run) -> None:
    from scaling.machine.profile import profile_run

    path = make_run("resources.nodes=2")
    with pytest.raises(ValueError, match="takes 2 nodes; start `scaling profile` under torchrun"):
        profile_run(path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_gpu_that_is_not_there_is_named_before_anything_is_measured(make_run) -> None:
    run_yaml = make_run()
    with pytest.raises(ValueError, match=r"gpus_per_node=1, but this machine has 0 CUDA devices"):
        fit.fitted_micro_batch(run_yaml, ["resources.gpus_per_node=1"])
    assert list(run_yaml.parent.iterdir()) == [run_yaml]
