"""Two ranks of ZeRO-2 and what can befall them: kills, signals, nan, hangs, full disks, clocks."""

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.integration

TWO = (
    "optim.freeze_vlm=false",
    "data.blind=false",  # a tower of random weights on zeros has gradients of 1e19
    "data.image_size=64",
    "engine.zero_stage=2",
    "engine.keep_last=3",
    "resources.processes_per_node=2",
)
STEPS = 24


def lines(run_yaml: Path) -> list[dict]:
    path = run_yaml.parent / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def losses(run_yaml: Path) -> dict[int, float]:
    return {row["step"]: row["loss/train"] for row in lines(run_yaml) if "loss/train" in row}


def weights(run_yaml: Path, step: int) -> dict[str, torch.Tensor]:
    folder = run_yaml.parent / "checkpoints" / f"step_{step:07d}"
    return load_file(str(folder / "model.safetensors"))


def saved(run_yaml: Path) -> list[int]:
    folder = run_yaml.parent / "checkpoints"
    return sorted(int(path.name.removeprefix("step_")) for path in folder.glob("step_*"))


def assert_same_weights(one: Path, other: Path, step: int) -> None:
    ours, theirs = weights(one, step), weights(other, step)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return the folder of the whole run, trained once; filled by the first test that asks."""
    return tmp_path_factory.mktemp("undisturbed")


@pytest.fixture
def whole(undisturbed: Path, make_run, start_ranks) -> Path:
    """The run.yaml of the run that nothing befell."""
    kept = undisturbed / "run" / "run.yaml"
    if not kept.exists():
        run_yaml = make_run(*TWO, f"num_steps={STEPS}", folder="whole")
        assert start_ranks(run_yaml).wait() == [0, 0]
        shutil.copytree(run_yaml.parent, kept.parent)
    return kept


def killed_run(run_yaml: Path, start_ranks, *, seed: int, kills: int) -> None:
    """Kill one rank or both at random moments, `kills` times, then let the run end.

    A moment lies a few steps after a start, so that no run of STEPS ends before its last kill.
    """
    draw = random.Random(seed)
    for _ in range(kills):
        before = saved(run_yaml)
        ranks = start_ranks(run_yaml, fault="slow:-1:0")
        wanted = len(lines(run_yaml)) + draw.randint(1, 3)
        ranks.wait_for(lambda: len(lines(run_yaml)) >= wanted)  # noqa: B023
        time.sleep(draw.uniform(0, 0.1))
        struck = draw.choice([[0], [1], [0, 1]])
        ranks.signal(signal.SIGKILL, struck)
        codes = ranks.wait()
        assert [codes[rank] for rank in struck] == [-signal.SIGKILL] * len(struck), codes
        assert saved(run_yaml)[-1:] >= before[-1:]
    assert start_ranks(run_yaml).wait() == [0, 0]


def assert_as_undisturbed(run_yaml: Path, whole: Path) -> None:
    from scaling.runs.curves import read_points, thin

    assert losses(run_yaml) == losses(whole)
    assert_same_weights(run_yaml, whole, STEPS)
    points, _ = read_points(run_yaml.parent / "metrics.jsonl")
    published = thin(points, {}, num_steps=STEPS)
    steps = [point.step for point in published if point.metric == "loss/train"]
    assert steps == sorted(set(steps)) == sorted(losses(whole))


def attempts(run_yaml: Path) -> list[dict]:
    paths = sorted((run_yaml.parent / "attempts").glob("*.json"))
    return [json.loads(path.read_text()) for path in paths]


def test_done_is_the_last_word(whole) -> None:
    """What counts hours and what publishes them reads the attempts once DONE is there."""
    folder = whole.parent
    done = (folder / "DONE").stat().st_mtime_ns
    assert done >= (folder / "attempts" / "0001.json").stat().st_mtime_ns
    assert attempts(whole)[0]["end"] <= json.loads((folder / "DONE").read_text())["time"]
    assert attempts(whole)[0]["last_step"] == STEPS


def test_five_kills_change_nothing(make_run, start_ranks, whole) -> None:
    run_yaml = make_run(*TWO, f"num_steps={STEPS}", folder="killed")
    killed_run(run_yaml, start_ranks, seed=1, kills=5)
    assert_as_undisturbed(run_yaml, whole)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10, 20))
def test_fifty_kills_change_nothing(make_run, start_ranks, whole, seed: int) -> None:
    run_yaml = make_run(*TWO, f"num_steps={STEPS}", folder="killed")
    killed_run(run_yaml, start_ranks, seed=seed, kills=5)
    assert_as_undisturbed(run_yaml, whole)


STAGED = (*TWO, f"num_steps={STEPS}", "engine.async_save=true")


def test_a_kill_while_a_staged_save_is_written(make_run, start_ranks, whole) -> None:
    run_yaml = make_run(*STAGED)
    folder = run_yaml.parent / "checkpoints"
    ranks = start_ranks(run_yaml, fault="slowsave:-1:4")
    ranks.wait_for((folder / ".step_0000008.tmp" / "deepspeed").exists)
    ranks.wait_for(lambda: max(losses(run_yaml)) > 8)  # training has gone on meanwhile
    ranks.signal(signal.SIGKILL)
    ranks.wait()
    assert saved(run_yaml) == [4]
    assert start_ranks(run_yaml).wait() == [0, 0]
    assert_as_undisturbed(run_yaml, whole)
    assert not list(folder.glob(".*"))


def test_a_staged_save_that_fails_ends_the_run(make_run, start_ranks) -> None:
    run_yaml = make_run(*STAGED)
    ranks = start_ranks(run_yaml, fault="nosave:1:4")
    assert ranks.wait() == [1, 1]
    assert ranks.output.count("error: disk full while writing") == 2, ranks.output
    assert "disk full" in json.loads((run_yaml.parent / "FAILED").read_text())["reason"]
    assert saved(run_yaml) == [4]
    assert not list((run_yaml.parent / "checkpoints").glob(".*"))
    assert max(losses(run_yaml)) < 12  # not only at the next save


def test_a_signal_waits_for_a_staged_save(make_run, start_ranks) -> None:
    run_yaml = make_run(*STAGED)
    ranks = start_ranks(run_yaml, fault="slowsave:-1:0")
    ranks.wait_for((run_yaml.parent / "checkpoints" / ".step_0000004.tmp" / "deepspeed").exists)
    ranks.signal(signal.SIGTERM, [1])
    assert ranks.wait() == [85, 85]
    assert saved(run_yaml)[0] == 4
    assert len(saved(run_yaml)) == 2
    text = (run_yaml.parent / "checkpoints" / "latest").read_text()
    assert text == f"step_{saved(run_yaml)[1]:07d}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_one_rank_stops_both_in_its_step(make_run, start_ranks, whole, number) -> None:
    """The lead that is asked of Slurm has to hold one step and one save, on any machine."""
    run_yaml = make_run(*TWO, f"num_steps={STEPS}", "engine.save_every=0")
    assert start_ranks(run_yaml, fault=f"{number.name}:1:5").wait() == [85, 85]
    assert saved(run_yaml) == [6]
    assert start_ranks(run_yaml).wait() == [0, 0]
    assert_as_undisturbed(run_yaml, whole)


def test_a_signal_in_an_evaluation_is_heeded_there(make_run, start_ranks) -> None:
    """24 frames: 3 batches of 4 a rank. What is left out is done first when the run goes on."""
    shape = (*TWO, "num_steps=8", "engine.eval_every=4", "engine.eval_batch_size=4")
    run_yaml, whole = (make_run(*shape, folder=name) for name in ("struck", "whole"))
    assert start_ranks(whole).wait() == [0, 0]
    ranks = start_ranks(run_yaml, fault="termeval:1:1")
    assert ranks.wait() == [85, 85], ranks.output
    assert saved(run_yaml) == [4]
    assert not [row for row in lines(run_yaml) if "val/l1" in row]
    ranks = start_ranks(run_yaml, fault="termeval:0:5")  # in the final evaluation
    assert ranks.wait() == [85, 85], ranks.output
    assert saved(run_yaml) == [4, 8]
    assert start_ranks(run_yaml).wait() == [0, 0]
    rows = [[(row["step"], row["val/l1"]) for row in lines(y) if "val/l1" in row]
            for y in (run_yaml, whole)]  # fmt: skip
    assert rows[0] == rows[1]
    assert [step for step, _ in rows[0]] == [4, 8]
    assert_same_weights(run_yaml, whole, 8)
    tables = [pd.read_parquet(y.parent / "val_episodes.parquet") for y in (run_yaml, whole)]
    pd.testing.assert_frame_equal(*tables)


def test_nan_names_step_rank_and_samples(make_run, start_ranks) -> None:
    run_yaml = make_run(*TWO, f"num_steps={STEPS}", "engine.log_every=10")
    ranks = start_ranks(run_yaml, fault="nan:1:6")
    assert ranks.wait() == [1, 1]
    reason = json.loads((run_yaml.parent / "FAILED").read_text())["reason"]
    assert "not finite at step 7; rank 1: loss nan of samples sim_kinova3_dual/" in reason
    assert "rank 0:" not in reason
    assert [item["last_step"] for item in attempts(run_yaml)] == [7]
    assert saved(run_yaml) == [4]
    assert "Traceback" not in ranks.output


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_gradient_of_nan_is_neither_kept_nor_skipped(
    make_run, start_ranks, stage: int, precision: str
) -> None:
    """The loss of its step is finite; an evaluation, a save and a branch point are due after it."""
    due = ("engine.eval_every=8", "engine.keep_steps=[8]", f"precision={precision}")
    run_yaml = make_run(*TWO, f"num_steps={STEPS}", f"engine.zero_stage={stage}", *due)
    ranks = start_ranks(run_yaml, fault="nangrad:1:7")
    assert ranks.wait() == [1, 1], ranks.output
    reason = json.loads((run_yaml.parent / "FAILED").read_text())["reason"]
    samples = "of samples sim_kinova3_dual/"
    assert "a gradient is not finite at step 8; rank 0: loss" in reason
    assert reason.count(samples) == 2  # which rank's it was is lost in their mean
    assert saved(run_yaml) == [4]
    lines = (run_yaml.parent / "metrics.jsonl").read_text()
    assert '"step": 7' in lines
    assert '"step": 8' not in lines
    assert "val/l1" not in lines


def test_a_hung_rank_ends_with_the_stack_of_each(make_run, start_ranks) -> None:
    run_yaml = make_run(*TWO, f"num_steps={STEPS}", "engine.hang_timeout_s=60")
    ranks = start_ranks(run_yaml, fault="hang:1:6")
    assert ranks.wait() == [1, 1]
    stacks = [
        "\n".join(line for line in ranks.output.splitlines() if line.startswith(f"[rank{rank}]: "))
        for rank in (0, 1)
    ]
    assert all("hang: " in stack for stack in stacks), ranks.output
    assert "in _hang" in stacks[1], stacks[1]  # where rank 1 sleeps
    assert re.search("in (_agree|step|backward)", stacks[0]), stacks[0]  # rank 0 waits
    failed = json.loads((run_yaml.parent / "FAILED").read_text())
    assert "no progress for 60 s after step 6 (train)" in failed["reason"]
    assert saved(run_yaml)[-1] == 4


def test_a_clock_that_jumps_an_hour_either_way(make_run, start_ranks, whole) -> None:
    run_yaml = make_run(*TWO, f"num_steps={STEPS}", "engine.hang_timeout_s=60")
    ranks = start_ranks(run_yaml, fault="clock:-1:5")
    assert ranks.wait() == [0, 0], ranks.output
    assert_as_undisturbed(run_yaml, whole)


def mounted(tmp_path: Path, script: str) -> subprocess.CompletedProcess:
    """Run a shell script where it may mount file systems, or skip."""
    probe = ["unshare", "-rm", "sh", "-c", f"mount -t tmpfs tmpfs {tmp_path}"]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("no right to mount a file system in a namespace of its own")
    return subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, make_run) -> None:
    """The first checkpoint fits, the second does not: ballast fills the disk in between."""
    small = tmp_path / "small"
    small.mkdir()
    run_yaml = make_run(*TWO[:5], "num_steps=8", "engine.cache_features=false")
    script = f"""
        mount -t tmpfs -o size=400m tmpfs {small} && mkdir {small}/run
        cp {run_yaml} {small}/run/run.yaml
        (while [ ! -e {small}/run/checkpoints/step_0000004 ]; do sleep .01; done
         dd if=/dev/zero of={small}/ballast bs=1M 2>/dev/null) &
        {sys.executable} -m torch.distributed.run --standalone --nproc-per-node=2 \
          -m scaling.train {small}/run/run.yaml resources.processes_per_node=2
        code=$?
        ls -a {small}/run/checkpoints
        cd {small}/run/checkpoints/step_0000004 && {sys.executable} -c '
from pathlib import Path
from scaling.training.checkpoint import verify
print("verified:", verify(Path(".")))'
        exit $code
    """
    done = mounted(tmp_path, script)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "error: disk full while writing" in done.stderr
    assert "verified: None" in done.stdout
    assert "step_0000008" not in done.stdout


def test_a_read_only_run_folder_is_refused(tmp_path: Path, make_run) -> None:
    folder = make_run().parent
    script = f"""
        mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}
        {sys.executable} -m scaling.train {folder}/run.yaml
    """
    done = mounted(tmp_path, script)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Read-only file system" in done.stderr
    assert done.stderr.count("\n") == 1
