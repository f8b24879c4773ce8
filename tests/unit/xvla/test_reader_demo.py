"""The shipped simulated sets hold what the demo study needs, and every one reads cleanly."""

import numpy as np
import pytest

from xvla.config import DataConfig, DomainEntry
from xvla.data import open_dataset
from xvla.data.evaluation import eval_frames
from xvla.data.inspect import inspect_dataset
from xvla.data.sources import Mixture
from xvla.domains import DEMO_ROOT, DOMAIN_IDS

ANCHOR = "sim_kinova3_dual"
UNSEEN = "sim_xarm7"
# Training, validation and test episodes at least.
EPISODES = {ANCHOR: (40, 24, 24), UNSEEN: (50, 8, 8)}
DOMAINS = [
    ANCHOR,
    UNSEEN,
    "sim_panda",
    "sim_panda_left",
    "sim_panda_right",
    "sim_panda_dual",
    "sim_ur5e",
    "sim_ur5e_dual",
]

pytestmark = pytest.mark.skipif(
    not (DEMO_ROOT / "manifest.json").exists(), reason="the demo sets are not recorded yet"
)


@pytest.mark.parametrize("name", DOMAINS)
def test_set(name: str) -> None:
    document = inspect_dataset(DEMO_ROOT / name)
    assert document["problems"] == []
    assert document["domain"] == name
    assert name in DOMAIN_IDS
    assert document["fps"] == 10.0
    assert document["length_s"]["median"] >= 8.0
    splits = [document["splits"][split] for split in ("train", "val", "test")]
    assert all(np.array(splits) >= EPISODES.get(name, (40, 8, 8)))
    assert len(document["views"]) == (3 if name.endswith("_dual") else 2)


@pytest.mark.parametrize("name", DOMAINS)
def test_last_frames_decode_and_poses_are_rotations(name: str) -> None:
    dataset = open_dataset(DEMO_ROOT / name)
    last = dataset.episodes[-1]
    for view in dataset.views:
        frames = dataset.frames(last.id, view, [0, last.length - 1])
        assert 96 <= frames.shape[1] <= 128
        assert (frames[0] != frames[1]).any()
        assert frames.std() > 10
    states = dataset.episode(0).states
    arms = 2 if name.endswith("_dual") else 1
    columns = states.reshape(len(states), 2, 10)[:, :arms, 3:9].reshape(-1, 3, 2)
    gram = columns.transpose(0, 2, 1) @ columns
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(2), gram.shape), atol=1e-5)
    assert set(np.unique(states[:, [9, 19]])) <= {0.0, 1.0}


def test_anchor_domain_is_large_enough_to_validate_on() -> None:
    config = DataConfig(mixture=[DomainEntry(name=ANCHOR)], anchor_domain=ANCHOR)
    for split in ("val", "test"):
        frames = eval_frames(Mixture.open(config), split)
        assert len({episode for _, episode, _ in frames}) >= 24
        assert len(frames) >= 500
