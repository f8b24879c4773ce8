"""Inspecting a set, its digest, and verifying a mixture against its manifest."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from make_lerobot import RADIUS_M, VIEWS, SetSpec, write_set

from xvla.config import DataConfig, DomainEntry
from xvla.data.inspect import inspect_dataset
from xvla.data.sources import Mixture
from xvla.data.verify import dataset_digest, verify_mixture


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    write_set(folder / "sim_panda")
    return folder


def _config(root: Path, **changes: object) -> DataConfig:
    entry = replace(DomainEntry(name="sim_panda"), **changes)
    return DataConfig(mixture=[entry], anchor_domain="sim_panda", root=str(root))


def test_document(root: Path) -> None:
    document = inspect_dataset(root / "sim_panda")
    lengths = SetSpec().lengths
    assert document["format"] == "lerobot_v3"
    assert (document["episodes"], document["frames"]) == (6, sum(lengths))
    assert (document["fps"], document["views"], document["problems"]) == (10.0, list(VIEWS), [])
    assert document["instructions"] == {"lift the cube": 3, "put it down": 3}
    assert document["splits"] == {"train": 4, "val": 1, "test": 1}
    assert document["length_s"] == {"min": 3.0, "median": 3.4, "max": 4.0}
    np.testing.assert_allclose(document["action_ranges"]["arm1/x_m"][1], RADIUS_M, rtol=1e-3)
    assert document["action_ranges"]["arm2/gripper"] == [0.0, 0.0]
    closed = sum(length - 16 for length in lengths) / sum(lengths)
    np.testing.assert_allclose(document["gripper_closed_share"], [closed, 0.0])
    json.dumps(document)


def test_digest_sees_content_and_names_only(root: Path, tmp_path: Path) -> None:
    original = dataset_digest(root / "sim_panda")
    copy = shutil.copytree(root / "sim_panda", tmp_path / "elsewhere")
    (copy / "README.md").write_text("not content")
    assert dataset_digest(copy) == original == inspect_dataset(copy)["sha256"]
    file = copy / "meta/info.json"
    file.write_text(file.read_text() + " ")
    assert dataset_digest(copy) != original
    with pytest.raises(ValueError, match="it has no file under meta, data or videos"):
        dataset_digest(tmp_path)


def test_verified_mixture(root: Path) -> None:
    frames, digest = sum(SetSpec().lengths[:4]), dataset_digest(root / "sim_panda")
    verify_mixture(Mixture.open(_config(root, num_frames=frames, sha256=digest)))
    verify_mixture(Mixture.open(_config(root)))
    for off in ({"num_frames": frames + 1}, {"num_frames": frames, "sha256": digest[::-1]}):
        with pytest.raises(ValueError, match="declares"):
            verify_mixture(Mixture.open(_config(root, **off)))


def test_mixture_that_differs_from_its_manifest(root: Path) -> None:
    with pytest.raises(ValueError, match=r"declares 99 training frames, .* has 138 in its 4"):
        verify_mixture(Mixture.open(_config(root, num_frames=99)))
    with pytest.raises(ValueError, match=r"declares sha256 000000000000\.\.\."):
        verify_mixture(Mixture.open(_config(root, sha256="0" * 64)))
    with pytest.raises(ValueError, match="num_episodes = 5, but it has 4 training episodes"):
        verify_mixture(Mixture.open(_config(root, num_episodes=5)))
