"""Delta targets and standardised proprio: what they are, and that they can be undone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from make_lerobot import SetSpec, helix, write_set

from xvla.config import DataConfig, DomainEntry
from xvla.data.normalise import STD_FLOOR, Normaliser, fit_normaliser
from xvla.data.sources import Mixture

GRIPPERS = [9, 19]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("normalise")
    write_set(folder / "sim_panda")
    write_set(folder / "sim_kinova3_dual", SetSpec(two_arms=True))
    return folder


def _fit(root: Path, **options: str) -> Normaliser:
    entries = [DomainEntry(name=n, num_episodes=2) for n in ("sim_panda", "sim_kinova3_dual")]
    return fit_normaliser(Mixture.open(DataConfig(mixture=entries, root=str(root), **options)))


def _poses() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(4, 20)).astype("f4"), rng.normal(size=(4, 30, 20)).astype("f4")


def test_released_behaviour_is_the_identity(root: Path) -> None:
    normaliser = _fit(root)
    proprio, action = _poses()
    encoded = normaliser.encode("sim_panda", proprio, action)
    assert encoded[0] is proprio
    assert encoded[1] is action
    assert normaliser.decode("sim_panda", proprio, action) is action


def test_delta_subtracts_poses_never_grippers(root: Path) -> None:
    normaliser = _fit(root, target="delta")
    proprio, action = _poses()
    _, delta = normaliser.encode("sim_panda", proprio, action)
    np.testing.assert_array_equal(delta[..., GRIPPERS], action[..., GRIPPERS])
    rest = [d for d in range(20) if d not in GRIPPERS]
    np.testing.assert_array_equal(delta[..., rest], (action - proprio[:, None])[..., rest])
    np.testing.assert_allclose(normaliser.decode("sim_panda", proprio, delta), action, atol=1e-6)


def test_standardise_uses_the_training_episodes_taken(root: Path) -> None:
    normaliser = _fit(root, proprio_norm="standardise")
    entries = [DomainEntry(name="sim_panda", num_episodes=2)]
    (source,) = Mixture.open(DataConfig(mixture=entries, root=str(root))).sources.values()
    states = np.concatenate(
        [helix(np.arange(SetSpec().lengths[e]) / 10, 0.3 * e).astype("f4") for e in source.episodes]
    ).astype("f8")
    np.testing.assert_allclose(normaliser.mean["sim_panda"], states.mean(0), atol=1e-9)
    expected = np.maximum(states.std(0), STD_FLOOR)
    np.testing.assert_allclose(normaliser.std["sim_panda"], expected, atol=1e-9)
    encoded, _ = normaliser.encode("sim_panda", states.astype("f4"), states.astype("f4")[:, None])
    assert encoded.dtype == np.float32
    np.testing.assert_allclose(encoded.mean(0), 0, atol=1e-5)
    wide = states.std(0) > STD_FLOOR
    np.testing.assert_allclose(encoded.std(0)[wide], 1, atol=1e-4)
    np.testing.assert_array_equal(encoded[:, 10:], 0)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_round_trip_by_row(root: Path, kind: str) -> None:
    normaliser = _fit(root, target="delta", proprio_norm="standardise")
    proprio, action = _poses()
    names = ["sim_panda", "sim_kinova3_dual", "sim_panda", "sim_kinova3_dual"]
    if kind == "torch":
        proprio, action = torch.from_numpy(proprio), torch.from_numpy(action)
    encoded, delta = normaliser.encode(names, proprio, action)
    decoded = normaliser.decode(names, proprio, delta)
    np.testing.assert_allclose(np.asarray(decoded), np.asarray(action), atol=1e-6)
    assert type(encoded) is type(proprio)
    for row, name in enumerate(names):
        one, _ = normaliser.encode(name, proprio[row], action[row])
        np.testing.assert_array_equal(np.asarray(one), np.asarray(encoded[row]))
        mean, std = np.array(normaliser.mean[name]), np.array(normaliser.std[name])
        expected = (np.asarray(proprio[row]) - mean) / std
        np.testing.assert_allclose(np.asarray(one), expected, rtol=1e-4, atol=1e-4)


def test_json_round_trip(root: Path) -> None:
    normaliser = _fit(root, target="delta", proprio_norm="standardise")
    again = Normaliser.from_dict(json.loads(json.dumps(normaliser.to_dict())))
    assert again == normaliser


def test_domain_without_statistics(root: Path) -> None:
    normaliser = _fit(root, proprio_norm="standardise")
    proprio, action = _poses()
    with pytest.raises(ValueError, match="'sim_xarm7' has no proprio statistics; fitted: sim_pan"):
        normaliser.encode("sim_xarm7", proprio, action)
