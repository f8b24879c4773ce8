"""Choosing the best run, verifying its checkpoint, and what references resolve to."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from scaling.best import best, resolve, study_of, words_of
from scaling.cli.arguments import study_runs
from scaling.cli.checkpoints import plan_finetuning
from scaling.runs.checkpoints import open_checkpoint
from scaling.search.runs import RUNS, RunList, search_folder
from scaling.search.task import Task
from scaling.spec import RunSpec
from scaling.study import load_study
from scaling.tracking.registry import alias_name, model_name
from xvla.config import DataConfig, DomainEntry

STEP = 100


def make_spec(lr: float, *, size: str = "tiny", blind: bool = False) -> RunSpec:
    """Return a run told apart by its learning rate."""
    mixture = [DomainEntry(name="sim_panda", num_episodes=4)]
    data = DataConfig(mixture=mixture, anchor_domain="sim_panda", blind=blind)
    spec = RunSpec(study="sweeps.simulated", size=size, data=data)
    return replace(spec, optim=replace(spec.optim, lr=lr))


def finish(runs_dir: Path, spec: RunSpec, val_l1: float, *, num_params: int = 8) -> Path:
    """Write a finished run with a checkpoint of `num_params` numbers; return its folder."""
    folder = runs_dir / spec.run_id
    checkpoint = folder / "checkpoints" / f"step_{STEP:07d}"
    (checkpoint / "deepspeed").mkdir(parents=True)
    spec.save(folder / "run.yaml")
    save_file({"w": np.full(num_params, val_l1)}, checkpoint / "model.safetensors")
    (checkpoint / "config.json").write_text("{}")
    (checkpoint / "deepspeed" / "optimizer.pt").write_text("simulated")
    digests = {
        str(path.relative_to(checkpoint)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in checkpoint.rglob("*.*")
    }
    (checkpoint / "manifest.json").write_text(json.dumps({"step": STEP, "sha256": digests}))
    (folder / "checkpoints" / "latest").write_text(checkpoint.name)
    metrics = {"val/l1": val_l1, "val/l1_sem": 0.01, "val/l1_all": -val_l1, "test/l1": 0.0}
    done = {"step": STEP, "num_samples_seen": 1, "time": 1.0, "metrics": metrics}
    (folder / "DONE").write_text(json.dumps(done))
    return folder


def test_the_lowest_error_of_finished_sighted_runs_wins(tmp_path: Path) -> None:
    good, bad, blind, running = make_spec(1), make_spec(2), make_spec(3, blind=True), make_spec(4)
    finish(tmp_path, bad, 0.5)
    folder = finish(tmp_path, good, 0.25)
    finish(tmp_path, blind, 0.125)
    (finish(tmp_path, running, 0.0625) / "DONE").unlink()
    found = best([bad, blind, running, good], tmp_path)
    weights = folder / "checkpoints" / "step_0000100" / "model.safetensors"
    assert found.to_dict() == {
        "run_id": good.run_id,
        "step": STEP,
        "val_l1": 0.25,
        "val_l1_sem": 0.01,
        "checkpoint": str(weights.parent),
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "model_name": "simulated",
        "version": None,
        "alias": None,
    }
    assert best([good, bad], tmp_path, metric="val/l1_all").run_id == bad.run_id


def test_ties_go_to_the_smaller_model_then_the_smaller_id(tmp_path: Path) -> None:
    specs = [make_spec(lr) for lr in range(1, 6)]
    for spec, num_params in zip(specs, (16, 16, 8, 8, 16), strict=True):
        finish(tmp_path, spec, 0.5, num_params=num_params)
    expected = min(specs[2].run_id, specs[3].run_id)
    assert best(specs, tmp_path).run_id == expected
    assert best(specs[::-1], tmp_path).run_id == expected


def test_a_size_narrows_the_choice(tmp_path: Path) -> None:
    small, large = make_spec(1, size="tiny"), make_spec(2, size="50m")
    finish(tmp_path, small, 0.5)
    finish(tmp_path, large, 0.25)
    assert best([small, large], tmp_path, size="tiny").run_id == small.run_id
    with pytest.raises(
        ValueError, match=r"no finished run of size '2b'; finished sizes: 50m, tiny"
    ):
        best([small, large], tmp_path, size="2b")


def test_a_nan_is_never_best(tmp_path: Path) -> None:
    diverged, fine = make_spec(1), make_spec(2)
    finish(tmp_path, diverged, float("nan"))
    with pytest.raises(ValueError, match="no finished run has 'val/l1'"):
        best([diverged], tmp_path)
    finish(tmp_path, fine, 9.0)
    assert best([diverged, fine], tmp_path).run_id == fine.run_id


def test_the_test_split_is_not_for_choosing(tmp_path: Path) -> None:
    for wrong in ({"split": "test"}, {"metric": "test/l1"}):
        with pytest.raises(ValueError, match="test/\\* for reporting"):
            best([make_spec(1)], tmp_path, **wrong)
    with pytest.raises(ValueError, match="no finished run of the study"):
        best([make_spec(1)], tmp_path)


def test_a_checkpoint_that_does_not_match_is_refused(tmp_path: Path) -> None:
    spec = make_spec(1)
    checkpoint = finish(tmp_path, spec, 0.5) / "checkpoints" / "step_0000100"
    (checkpoint / "deepspeed" / "optimizer.pt").unlink()  # only a resume needs it
    assert open_checkpoint(checkpoint).run_id == spec.run_id
    weights = checkpoint / "model.safetensors"
    intact = weights.read_bytes()
    weights.write_bytes(intact[:-1] + b"\x00\x01")
    with pytest.raises(ValueError, match=r"corrupt: model\.safetensors"):
        best([spec], tmp_path)
    weights.unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors is missing"):
        best([spec], tmp_path)
    weights.write_bytes(intact)
    (checkpoint / "manifest.json").write_text('{"step": 100, "sha256": {}}')
    with pytest.raises(ValueError, match=r"does not list config\.json"):
        best([spec], tmp_path)
    (checkpoint / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"no manifest\.json"):
        best([spec], tmp_path)


def test_references(tmp_path: Path) -> None:
    small, large = make_spec(1, size="tiny"), make_spec(2, size="0.26b")
    folder = finish(tmp_path, small, 0.5)
    finish(tmp_path, large, 0.25)
    specs = [small, large]
    step_folder = folder / "checkpoints" / "step_0000100"
    assert resolve("best:sweeps.simulated", tmp_path, specs=specs).run_id == large.run_id
    assert resolve("best-tiny:sweeps.simulated", tmp_path, specs=specs).run_id == small.run_id
    same = {
        resolve(ref, tmp_path) for ref in (f"run:{small.run_id}", str(folder), str(step_folder))
    }
    (checkpoint,) = same
    assert (checkpoint.run_id, checkpoint.step, checkpoint.path) == (small.run_id, 100, step_folder)
    assert checkpoint.config_path == step_folder / "config.json"
    (folder / "DONE").unlink()
    assert resolve(f"run:{small.run_id}", tmp_path) == checkpoint  # its latest


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("best:sweeps.simulated", "no finished run of the study"),
        ("run:0123456789ab", "no run '0123456789ab'"),
        ("run:empty", "no checkpoint yet"),
        ("run:", "'run:' names no checkpoint; give best:STUDY"),
        ("nowhere", "names no checkpoint; give best:STUDY"),
    ],
)
def test_references_that_name_nothing(tmp_path: Path, reference: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        resolve(reference, tmp_path)


def test_names() -> None:
    assert study_of("best:sweeps.demo") == study_of("best-0.26b:sweeps.demo") == "sweeps.demo"
    assert study_of("run:0123456789ab") is None
    assert (alias_name(None), alias_name("50m"), alias_name("0.26b")) == (
        "best",
        "best-50m",
        "best-0_26b",
    )
    assert model_name("sweeps.demo") == "demo"


def test_words_of_a_submission_in_a_reference() -> None:
    assert words_of("best:sweeps.demo") == words_of("run:0123456789ab") == []
    reference = "best-tiny:sweeps.demo,scale=cpu,num_steps=7,optim.betas=[0.9,0.95]"
    assert study_of(reference) == "sweeps.demo"
    assert words_of(reference) == ["scale=cpu", "num_steps=7", "optim.betas=[0.9,0.95]"]


def finetuning(source: str, runs_dir: Path) -> tuple[RunSpec, str]:
    return plan_finetuning(source, runs_dir, domain="sim_xarm7", episodes=5)


def test_what_was_submitted_with_overrides_is_found_by_its_words(tmp_path: Path) -> None:
    runs_dir = tmp_path / "runs"
    specs = load_study("sweeps.demo").expand("cpu", ["num_steps=7", "optim.betas=[0.9,0.99]"])
    finish(runs_dir, specs[0], 0.5)
    finish(runs_dir, specs[1], 0.25)
    words = "num_steps=7,optim.betas=[0.9,0.99]"
    assert finetuning(f"best:sweeps.demo,{words}", runs_dir)[1] == specs[1].run_id
    assert finetuning(f"best-{specs[0].size}:sweeps.demo,{words}", runs_dir)[1] == specs[0].run_id
    told = r"none of the runs that it names is finished, but 2 of .* add them, as in best:STUDY,"
    for source in ("best:sweeps.demo", "best:sweeps.demo,num_steps=8"):
        with pytest.raises(ValueError, match=told) as error:
            finetuning(source, runs_dir)
        assert specs[0].run_id in str(error.value)
    with pytest.raises(ValueError, match="num_stepz"):
        finetuning("best:sweeps.demo,num_stepz=8", runs_dir)


def test_a_finetuned_run_is_no_run_of_the_study(tmp_path: Path) -> None:
    finish(tmp_path, replace(make_spec(1), stage="finetune"), 0.5)
    with pytest.raises(ValueError, match="no finished run of the study"):
        resolve("best:sweeps.simulated", tmp_path)


def test_the_trials_of_a_search_belong_to_its_study(tmp_path: Path) -> None:
    study = load_study("sweeps.prompt_and_window")
    task = Task(study=study.name, scale="cpu", search=study.search, overrides=("num_steps=9",))
    point, seed = {"soft_prompt_length": 23, "prediction_window_s": 2.0}, 1
    RunList(path=search_folder(tmp_path, study.name) / RUNS, task=task).add([(point, seed)])
    trial = task.spec(point, seed)
    for words in ([], ["num_steps=9"], ["scale=cpu", "num_steps=9"]):
        found = study_runs(study.name, words, tmp_path)
        assert found[-1] == trial
        assert len(found) == 6
    for words in (["num_steps=8"], ["scale=a100"]):
        assert trial.run_id not in {s.run_id for s in study_runs(study.name, words, tmp_path)}
    finish(tmp_path, trial, 0.125)
    found = best(study_runs(study.name, [], tmp_path), tmp_path)
    assert found.run_id == trial.run_id
