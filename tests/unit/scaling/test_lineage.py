"""Parents and children of runs, found by the weights that a run started from."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from scaling.runs.lineage import lineage, render
from scaling.spec import InitConfig, RunSpec
from xvla.config import DataConfig, DomainEntry


def add_run(runs_dir: Path, lr: float, *, start: InitConfig | None = None) -> RunSpec:
    """Write a run folder whose step 100 has weights with the digest `weights-<lr>`."""
    data = DataConfig(mixture=[DomainEntry(name="sim_panda")], anchor_domain="sim_panda")
    stage = "finetune" if start else "pretrain"
    spec = RunSpec(study="sweeps.simulated", data=data, init=start or InitConfig(), stage=stage)
    spec = replace(spec, optim=replace(spec.optim, lr=lr))
    checkpoint = runs_dir / spec.run_id / "checkpoints" / "step_0000100"
    checkpoint.mkdir(parents=True)
    spec.save(runs_dir / spec.run_id / "run.yaml")
    manifest = {"step": 100, "sha256": {"model.safetensors": f"weights-{lr}"}}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    done = {"step": 100, "time": 1.0, "metrics": {"val/l1": lr}}
    (runs_dir / spec.run_id / "DONE").write_text(json.dumps(done))
    return spec


@pytest.fixture
def family(tmp_path: Path) -> list[RunSpec]:
    """Write a run, a child finetuned from it, a grandchild, and a run of its own."""
    first = add_run(tmp_path, 1.0)
    child = add_run(tmp_path, 2.0, start=InitConfig(checkpoint_sha256="weights-1.0"))
    grandchild = add_run(tmp_path, 3.0, start=InitConfig(checkpoint_sha256="weights-2.0"))
    return [first, child, grandchild, add_run(tmp_path, 4.0)]


def test_parents_and_children_by_weights(tmp_path: Path, family: list[RunSpec]) -> None:
    first, child, grandchild, other = (spec.run_id for spec in family)
    middle = lineage(child, tmp_path)
    assert [node.run_id for node in middle.parents] == [first]
    assert [node.run_id for node in middle.children] == [grandchild]
    assert middle.from_.to_dict() == {
        "run_id": first,
        "step": 100,
        "sha256": "weights-1.0",
        "path": "",
    }
    assert (middle.stage, middle.state, middle.val_l1) == ("finetune", "done", 2.0)
    assert [node.run_id for node in lineage(grandchild, tmp_path).parents] == [child, first]
    top = lineage(first, tmp_path)
    assert top.parents == []
    assert top.children[0].children[0].run_id == grandchild
    assert (lineage(other, tmp_path).parents, lineage(other, tmp_path).children) == ([], [])


def test_a_pruned_parent_is_found_by_its_path(tmp_path: Path) -> None:
    parent = add_run(tmp_path, 1.0)
    checkpoint = tmp_path / parent.run_id / "checkpoints" / "step_0000050"  # not kept
    start = InitConfig(checkpoint=str(checkpoint), checkpoint_sha256="gone")
    child = add_run(tmp_path, 2.0, start=start)
    found = lineage(child.run_id, tmp_path)
    assert [node.run_id for node in found.parents] == [parent.run_id]
    assert found.from_.step == 50


def test_a_parent_from_elsewhere_ends_the_chain(tmp_path: Path) -> None:
    child = add_run(tmp_path, 2.0, start=InitConfig(checkpoint="/x", checkpoint_sha256="other"))
    found = lineage(child.run_id, tmp_path)
    assert [(node.run_id, node.state) for node in found.parents] == [("", "unknown")]
    assert render(found).splitlines()[0] == "a checkpoint of no run in this folder"


def test_text_shows_ancestors_first_and_marks_the_run(
    tmp_path: Path, family: list[RunSpec]
) -> None:
    first, child, grandchild, _ = (spec.run_id for spec in family)
    lines = render(lineage(child, tmp_path)).splitlines()
    assert [line.split()[0] for line in lines] == [first, child, grandchild]
    assert [line.endswith("<-") for line in lines] == [False, True, False]
    assert [len(line) - len(line.lstrip()) for line in lines] == [0, 2, 4]
    assert "from step 100" in lines[1]
    assert "val/l1 2.0000" in lines[1]


def test_an_unknown_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run 'feedfacefeed'"):
        lineage("feedfacefeed", tmp_path)
