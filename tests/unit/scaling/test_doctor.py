"""The doctor: versions that are refused, a shrunk model, and an error it must find."""

from dataclasses import replace
from pathlib import Path

import pytest

from scaling.config import with_overrides
from scaling.machine import doctor, doctor_rank
from scaling.machine.doctor_rank import shrink, shrink_model
from scaling.sizes import LADDER, SIZES
from scaling.spec import RunSpec
from scaling.training import engine
from xvla.params import num_params


def run(*overrides: str) -> RunSpec:
    fields = ("data.mixture=[{name: agibot}]", "data.anchor_domain=agibot", *overrides)
    return with_overrides(RunSpec(size="0.9b", model=SIZES["0.9b"]), list(fields)).validate()


@pytest.mark.parametrize(
    ("version", "bad"),
    [("0.18.2", False), ("0.18.3", True), ("0.19.0+cu126", True), ("0.19.3", True),
     ("0.19.3rc1", True), ("0.19.4", False), ("0.19.8", False), ("0.19.8rc1", False),
     ("0.20.0", False)],
)  # fmt: skip
def test_suspect_deepspeed_is_refused(version: str, bad: bool) -> None:
    assert (engine.deepspeed_problem(version) is not None) == bad


def test_a_run_refuses_the_same_releases(monkeypatch) -> None:
    import deepspeed

    monkeypatch.setattr(deepspeed, "__version__", "0.19.0")
    with pytest.raises(ValueError, match=r"deepspeed 0\.19\.0 is reported .* install 0\.19\.8"):
        engine.start_distributed(run())


@pytest.mark.parametrize("size", list(LADDER))
def test_every_rung_shrinks(size: str) -> None:
    from xvla.model import build_on_meta

    small = shrink_model(SIZES[size])
    build_on_meta(small)
    assert num_params(small)["total"] < 5e6
    assert len(small.vision.dim_embed) == len(SIZES[size].vision.dim_embed)
    assert small.soft_prompt_length == SIZES[size].soft_prompt_length


def test_the_runs_accumulation_and_recipe_are_kept() -> None:
    spec = run("global_batch_size=12", "engine.micro_batch_size=2",
               "resources.processes_per_node=2", "optim.freeze_vlm=true")  # fmt: skip
    small = shrink(spec, ranks=2)
    assert small.validate().global_batch_size == 2 * 3
    assert small.optim == spec.optim
    assert small.engine.zero_stage == spec.engine.zero_stage


def test_machine_checks(tmp_path: Path) -> None:
    spec = run("resources.gpus_per_node=8", "precision=bf16", "global_batch_size=8")
    assert doctor.check_environment().state == "ok"
    assert doctor.check_attention(run()).values["kernel"] == "sdpa"
    disk = doctor.check_disk(run(), tmp_path)
    assert disk.values["checkpoint_gb"] == pytest.approx(0.879 * (8 + 12), rel=0.01)
    assert disk.values["checkpoint_s"] > 0
    assert not list(tmp_path.iterdir())
    import torch

    if not torch.cuda.is_available():
        assert doctor.check_devices(spec).state == "warning"


def test_a_run_that_cannot_fit_is_named() -> None:
    spec = replace(run("global_batch_size=4096"), precision="fp32")
    check = doctor.check_memory(spec, spec)
    assert check.state == "failed"
    assert "engine.micro_batch_size" in check.message


GOOD = doctor_rank.Measured(
    gradient_error=1e-6, gradient_worst="vlm.a", shares=[1.0, 1.0], update_error=1e-5,
    update_worst="vlm.b", update_norm=1.0, gradient_norm=1.0, engine_norm=1.0, clipped=False,
    accumulation=2, num_params=1, startup_cpu_s=5.0, all_reduce_gb_per_s=1.0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"gradient_error": 0.5}, "worst in vlm.a"),
        ({"gradient_error": 0.5, "shares": [0.5, 0.5]}, "vlm.a is 0.500 x what it should be"),
        ({"gradient_error": 1.0, "shares": [2.0, 0.0]}, "rank 0's 2.000 x, rank 1's 0.000 x"),
        ({"gradient_error": 1.0, "shares": [0.0, 0.0]}, "vlm.a gets no gradient"),
        ({"update_error": 0.2}, "gradients are right, the update of vlm.b is not"),
    ],
)
def test_wrong_gradients_are_named(monkeypatch, wrong: dict, words: str) -> None:
    """The same with real faults: tests/integration/test_doctor_faults.py."""
    monkeypatch.setattr(doctor, "run_ranks", lambda *_: replace(GOOD, **wrong))
    check = doctor.check_ranks(run(), 2)
    assert check.state == "failed"
    assert words in check.message


def test_sound_gradients_pass_and_equal_ones_are_called_so(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "run_ranks", lambda *_: GOOD)
    check = doctor.check_ranks(run(), 2)
    assert check.state == "ok"
    assert "gradients within 1.0e-06 of plain autograd's" in check.message
    monkeypatch.setattr(doctor, "run_ranks", lambda *_: replace(GOOD, gradient_error=0.0))
    assert "gradients equal to plain autograd's" in doctor.check_ranks(run(), 2).message


def test_errors_are_relative_to_each_parameter() -> None:
    import torch

    wanted = {"large": torch.full((4,), 100.0), "small": torch.full((4,), 0.1)}
    found = {"large": torch.full((4,), 100.1), "small": torch.full((4,), 0.11)}
    error, worst = doctor_rank._largest_error(found, wanted)
    assert worst == "small"
    assert error == pytest.approx(0.1, rel=1e-3)


def test_what_is_not_a_number_is_the_largest_error() -> None:
    import torch

    wanted = {"a": torch.ones(2), "b": torch.ones(2)}
    found = {"a": torch.tensor([1.0, float("nan")]), "b": torch.zeros(2)}
    assert doctor_rank._largest_error(found, wanted) == (doctor_rank.MOST, "a")
    assert doctor_rank._shares(found["a"], [wanted["a"]]) == [doctor_rank.MOST]


def test_a_failing_rank_ends_the_others_and_is_quoted(monkeypatch, tmp_path: Path) -> None:
    """Rank 0 waits, as in rendezvous, for a rank that says more than a pipe holds and fails."""
    (tmp_path / "simulated_rank.py").write_text(
        "import os, time\n"
        "time.sleep(600 if os.environ['RANK'] == '0' else 0)\n"
        "print('word ' * 100_000)\n"
        "raise SystemExit('no kernel for this GPU')\n"
    )
    monkeypatch.setattr(doctor, "RANK_MODULE", "simulated_rank")
    monkeypatch.setattr(doctor, "RANK_TIMEOUT_S", 300)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"rank 1 failed \(code 1\): .*no kernel for this GPU$"):
        doctor.run_ranks(run("resources.processes_per_node=2", "global_batch_size=2"), 2)


def test_a_late_rank_is_named(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "simulated_late.py").write_text(
        "import os, time\ntime.sleep(600 * int(os.environ['RANK']))\n"
    )
    started, start = [], doctor._start

    def noted(*words):
        started.append(start(*words))
        return started[-1]

    def clock() -> float:  # it stands still until rank 0 is seen to have ended
        return 0.0 if len(started) < 2 or started[0].returncode is None else 1e6

    monkeypatch.setattr(doctor, "_start", noted)
    monkeypatch.setattr(doctor.time, "monotonic", clock)
    monkeypatch.setattr(doctor, "RANK_MODULE", "simulated_late")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="rank 1 has not answered for 600 s"):
        doctor.run_ranks(run("resources.processes_per_node=2", "global_batch_size=2"), 2)


@pytest.mark.parametrize("stage", [0, 2])
def test_the_engine_against_autograd_on_one_rank(stage: int) -> None:
    """The real thing, one rank with two micro-batches; a child process."""
    spec = run("global_batch_size=2", "engine.micro_batch_size=1", f"engine.zero_stage={stage}")
    found = doctor.run_ranks(spec, 1)
    assert found.gradient_error < 1e-4
    assert found.update_error < 1e-4
    assert found.accumulation == 2
    assert found.engine_norm == pytest.approx(found.gradient_norm, rel=1e-5)


def test_no_ranks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ranks=0; check the gradients on at least 1"):
        doctor.examine(RunSpec(), tmp_path, ranks=0)
