"""The identity of a run: which fields count, and that its digest never drifts."""

import re
from dataclasses import asdict, fields, replace

import pytest

from scaling.spec import (
    SCIENTIFIC_DATA_FIELDS,
    EngineConfig,
    OptimConfig,
    ResourceConfig,
    RunSpec,
    SeedConfig,
    load_spec,
)
from xvla.config import DataConfig, DomainEntry

ENGINE_DATA_FIELDS = {
    "root", "roots", "batch_size", "num_workers", "decode_images", "frame_cache_gib", "cache",
    "augment_on", "max_failed_share",
}  # fmt: skip


def make(**changes) -> RunSpec:
    data = DataConfig(mixture=[DomainEntry(name="agibot", num_episodes=3)], anchor_domain="agibot")
    return replace(RunSpec(data=data), **changes)


def test_run_id_is_frozen() -> None:
    # A changed default or a new field without an entry in ADDED_LATER renames every run on disk.
    assert make().run_id == "ea013662abec"


def test_engine_resources_and_labels_are_not_in_the_id() -> None:
    spec = make()
    same = replace(
        spec,
        study="other",
        scale="a100",
        size="named",
        axes={"x": 1},
        engine=EngineConfig(zero_stage=0, micro_batch_size=4, num_workers=3, save_every=7),
        resources=ResourceConfig(processes_per_node=2),
        data=replace(spec.data, root="/elsewhere", batch_size=3, num_workers=2),
    )
    assert same.run_id == spec.run_id


@pytest.mark.parametrize(
    "changed",
    [
        make(num_steps=101),
        make(global_batch_size=32),
        make(seeds=SeedConfig(data=1)),
        make(precision="bf16"),
        make(model=replace(make().model, depth=23)),
        make(optim=replace(make().optim, lr=2e-4)),
        make(data=replace(make().data, blind=True)),
        make(data=replace(make().data, prediction_window_s=2.0)),
    ],
)
def test_science_is_in_the_id(changed: RunSpec) -> None:
    assert changed.run_id != make().run_id


def test_every_data_field_is_either_science_or_engine() -> None:
    names = {field.name for field in fields(DataConfig)}
    assert set(SCIENTIFIC_DATA_FIELDS) | ENGINE_DATA_FIELDS == names
    assert not set(SCIENTIFIC_DATA_FIELDS) & ENGINE_DATA_FIELDS


def test_run_yaml_rebuilds_the_run(tmp_path) -> None:
    spec = make(axes={"size": "tiny", "episodes": 5})
    spec.save(tmp_path / "run.yaml")
    loaded = load_spec(tmp_path / "run.yaml")
    assert asdict(loaded) == asdict(spec)
    assert loaded.run_id == spec.run_id


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (RunSpec(), "data.mixture is empty"),
        (make(data=DataConfig(mixture=[DomainEntry(name="../mars")])), "domain '../mars'; allowed"),
        (make(data=replace(make().data, anchor_domain="rt1")), "anchor_domain='rt1'"),
        (make(model=replace(make().model, num_heads=3)), "num_heads=3 does not divide"),
        (make(optim=OptimConfig(betas=[0.9])), "optim.betas=[0.9]; allowed: two"),
        (make(global_batch_size=3, resources=ResourceConfig(processes_per_node=2)), "multiple"),
        (make(model=replace(make().model, num_anchors=10)), "num_anchors=30 differs"),
    ],
)
def test_mistakes_name_the_field(spec: RunSpec, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        spec.validate()


def test_unknown_key_in_run_yaml(tmp_path) -> None:
    path = tmp_path / "run.yaml"
    make().save(path)
    path.write_text(path.read_text().replace("num_steps:", "num_stepz:"))
    with pytest.raises(ValueError, match="num_stepz"):
        load_spec(path)
