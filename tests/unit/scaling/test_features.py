"""Cached features are those of the encoder, shared through files and built once."""

from dataclasses import replace

import pytest
import torch

from scaling.config import with_overrides
from scaling.feature_sizes import FRAME_FIELDS, can_cache, feature_bytes, frame_selection
from scaling.spec import SCIENTIFIC_DATA_FIELDS
from scaling.training.features import FeatureCache
from sweeps._mixtures import simulated_run
from xvla.config import SplitConfig
from xvla.data.normalise import Normaliser
from xvla.data.samples import SampleMaker
from xvla.data.sources import Mixture
from xvla.model import XVLA

ANCHOR = "sim_kinova3_dual"


def short_spec(*, blind: bool):
    # A large stride leaves few frames to encode.
    overrides = ["data.start_stride=40", "data.eval_starts_per_episode=1",
                 "data.eval_starts_other=1", "init.encoder=none"]  # fmt: skip
    spec = simulated_run("tiny-h16", domains=1, blind=blind)
    return with_overrides(spec, overrides)


@pytest.mark.parametrize("blind", [False, True])
def test_lookup_equals_encode(tmp_path, blind: bool) -> None:
    spec = short_spec(blind=blind)
    model = XVLA(spec.model).eval()
    cache = FeatureCache(spec, model, tmp_path, mixture=Mixture.open(spec.data))
    cache.prepare()
    keys = [(ANCHOR, 0, 0), (ANCHOR, 2, 40)]
    with torch.no_grad():
        expected = model.encode(SampleMaker(Mixture.open(spec.data), Normaliser()).make(keys))
    for found, wanted in zip(cache.lookup(keys), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_files_are_built_once_and_named_by_weights(tmp_path) -> None:
    spec = short_spec(blind=True)
    model = XVLA(spec.model).eval()
    FeatureCache(spec, model, tmp_path, mixture=Mixture.open(spec.data)).prepare()
    built = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    assert len(built) == 3
    FeatureCache(spec, model, tmp_path, mixture=Mixture.open(spec.data)).prepare()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")} == built
    FeatureCache(spec, XVLA(spec.model).eval(), tmp_path, mixture=Mixture.open(spec.data)).prepare()
    assert len(list(tmp_path.rglob("*.npy"))) == 6


def test_the_size_on_disk_is_known_before(tmp_path) -> None:
    spec = short_spec(blind=True)
    FeatureCache(spec, XVLA(spec.model).eval(), tmp_path, mixture=Mixture.open(spec.data)).prepare()
    taken = sum(file.stat().st_size for file in tmp_path.rglob("*.npy"))
    # A start more or less an episode is left to rounding.
    assert feature_bytes([spec]) == pytest.approx(taken, rel=0.1)
    other = replace(spec, seeds=replace(spec.seeds, data=7), num_steps=7)
    assert feature_bytes([spec, other]) == feature_bytes([spec])  # one cache
    drawn = replace(spec, seeds=replace(spec.seeds, init=7))
    assert feature_bytes([spec, drawn]) == 2 * feature_bytes([spec])
    assert feature_bytes([replace(spec, optim=replace(spec.optim, freeze_vlm=False))]) == 0
    away = replace(spec, data=replace(spec.data, root=str(tmp_path / "nowhere")))
    assert feature_bytes([away]) == 0


def test_other_splits_are_another_cache() -> None:
    data = short_spec(blind=True).data
    held = replace(data, split=SplitConfig(val="0.2", test="0.2"))
    assert frame_selection(held) != frame_selection(data)


def test_caching_needs_a_frozen_encoder_and_still_images() -> None:
    spec = short_spec(blind=False)
    assert can_cache(spec)
    assert not can_cache(replace(spec, optim=replace(spec.optim, freeze_vlm=False)))
    for change in ({"augmentation": "color_jitter"}, {"random_crop": True}, {"pixels": "jpeg"}):
        assert not can_cache(replace(spec, data=replace(spec.data, **change)))


def test_a_scientific_field_of_the_data_is_cached_under_or_is_no_input_of_the_encoder() -> None:
    by_file = {"mixture"}  # a table a domain, named by its bytes
    refused = {"augmentation", "random_crop", "pixels"}  # can_cache
    of_the_poses = {"target", "proprio_norm", "rotation"}
    # Every frame of a domain is encoded; splits that are not the set's own are in the name.
    of_the_choice = {"anchor_domain", "domain_ids", "split", "subset_seed"}
    elsewhere = by_file | refused | of_the_poses | of_the_choice
    assert set(SCIENTIFIC_DATA_FIELDS) - set(FRAME_FIELDS) == elsewhere


def test_a_damaged_table_is_named(tmp_path) -> None:
    spec = short_spec(blind=True)
    model = XVLA(spec.model).eval()
    FeatureCache(spec, model, tmp_path, mixture=Mixture.open(spec.data)).prepare()
    (table,) = tmp_path.rglob("*.vlm.npy")
    table.write_bytes(table.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"vlm.npy is damaged .* delete the folder"):
        FeatureCache(spec, model, tmp_path, mixture=Mixture.open(spec.data)).prepare()
