"""The doctor on two ranks whose engine has a fault: each is found, and the message names it."""

import json
import os
from pathlib import Path

import pytest

from scaling.config import with_overrides
from scaling.machine import doctor
from scaling.machine.doctor_rank import Measured
from scaling.sizes import SIZES
from scaling.spec import RunSpec

pytestmark = pytest.mark.integration
REST = {"all_reduce_gb_per_s": 1.0, "startup_cpu_s": 5.0}


def run(stage: int) -> RunSpec:
    """A run of two ranks with two micro-batches each."""
    fields = ("data.mixture=[{name: agibot}]", "data.anchor_domain=agibot", "global_batch_size=4",
              "engine.micro_batch_size=1", "resources.processes_per_node=2",
              f"engine.zero_stage={stage}")  # fmt: skip
    spec = RunSpec(size="0.9b", model=SIZES["0.9b"])
    return with_overrides(spec, list(fields)).validate()


@pytest.fixture(scope="module")
def found() -> dict[str, Measured]:
    """What two real ranks measured with each fault."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "RANK_MODULE", "faulty_doctor_rank")
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        answer = json.loads(doctor.answer_of_ranks(run(2), 2))
    return {fault: Measured(**measured, **REST) for fault, measured in answer.items()}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("scaled-2", "ranks count differently: rank 0's 1.000 x, rank 1's 1.010 x"),
        ("divisor-2", "is 0.667 x what it should be: a wrong divisor"),
        ("unsummed-2", "the samples of the ranks count differently: rank 0's"),
        ("unsummed-0", "the samples of the ranks count differently: rank 0's"),
        ("ungrouped-2", "blocks.1.mlp.fc1.weight gets no gradient: is it in no group"),
        ("infinite-2", "the gradient of transformer.blocks.1.mlp.fc1.weight is not finite"),
        ("stale-0", "gradients are right, the update of"),
    ],
)
def test_a_fault_is_found_and_named(monkeypatch, found, fault: str, words: str) -> None:
    monkeypatch.setattr(doctor, "run_ranks", lambda *_: found[fault])
    check = doctor.check_ranks(run(int(fault[-1])), 2)
    assert check.state == "failed", check.message
    assert words in check.message
    assert check.message.endswith(": do not train")


def test_two_sound_ranks_agree_but_for_rounding(monkeypatch, found) -> None:
    """Two micro-batches a rank are summed in another order than four in turn."""
    monkeypatch.setattr(doctor, "run_ranks", lambda *_: found["none-2"])
    check = doctor.check_ranks(run(2), 2)
    assert check.state == "ok", check.message
    assert 0 < check.values["gradient_error"] < 1e-6
    assert check.values["update_norm"] > 0.1
    assert check.values["shares"] == pytest.approx([1, 1], abs=1e-5)
