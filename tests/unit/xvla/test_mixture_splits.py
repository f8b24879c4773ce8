"""Training episodes: nested, seeded subsets of the training split."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from make_lerobot import SetSpec, write_set

from xvla.config import DataConfig, DomainEntry
from xvla.data import open_dataset
from xvla.data.catalogue import domain_id, open_sources
from xvla.data.readers.base import Dataset
from xvla.data.splits import held_out_by_task, split_episodes, training_episodes


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("splits")
    spec = SetSpec(lengths=[12] * 24, splits={"train": "0:20", "val": "20:22", "test": "22:24"})
    write_set(folder / "sim_panda", spec)
    write_set(folder / "no_val", SetSpec(lengths=[12] * 2, splits={"train": "0:2"}))
    write_set(folder / "sim_ur5e", SetSpec(views=()))
    return folder


@pytest.fixture(scope="module")
def dataset(root: Path) -> Dataset:
    return open_dataset(root / "sim_panda")


def _taken(dataset: Dataset, count: int, *, seed: int = 0, name: str = "sim_panda") -> list[int]:
    entry = DomainEntry(name=name, num_episodes=count)
    return training_episodes(dataset, entry, subset_seed=seed)


def test_subsets_are_nested_and_of_the_training_split(dataset: Dataset) -> None:
    sets = [set(_taken(dataset, count)) for count in (1, 2, 4, 8, 16, 20)]
    assert [len(chosen) for chosen in sets] == [1, 2, 4, 8, 16, 20]
    assert all(small < large for small, large in pairwise(sets))
    assert sets[-1] == set(range(20)) == set(_taken(dataset, 0))
    assert not set(split_episodes(dataset, "val")) & sets[-1]


def test_subset_depends_on_seed_and_domain(dataset: Dataset) -> None:
    chosen = _taken(dataset, 5)
    assert chosen == _taken(dataset, 5)
    assert chosen != _taken(dataset, 5, seed=1)
    assert chosen != _taken(dataset, 5, name="sim_ur5e")


def test_asking_for_too_many(dataset: Dataset) -> None:
    for count in (21, -1):
        with pytest.raises(ValueError, match=r"20 training episodes; give 0 \(all\) to 20"):
            _taken(dataset, count)


def test_split_that_is_not_there(root: Path) -> None:
    with pytest.raises(ValueError, match="no episodes in split 'val'; it has train"):
        split_episodes(open_dataset(root / "no_val"), "val")


def test_sets_without_splits_are_split_by_task() -> None:
    tasks = ["lift"] * 40 + ["stack"] * 5 + ["pour"] * 2 + ["once"]
    splits = held_out_by_task(tasks)
    found = {
        task: [
            int(np.sum(splits[[t == task for t in tasks]] == s)) for s in ("train", "val", "test")
        ]
        for task in dict.fromkeys(tasks)
    }
    assert found == {"lift": [34, 3, 3], "stack": [1, 2, 2], "pour": [2, 0, 0], "once": [1, 0, 0]}
    # Other tasks beside it change nothing within a task.
    np.testing.assert_array_equal(held_out_by_task(["lift"] * 40), splits[:40])


def test_a_published_set_is_held_out(tmp_path: Path) -> None:
    root = write_set(tmp_path / "sim_panda", SetSpec(lengths=[12] * 30, splits={"train": "0:30"}))
    dataset = open_dataset(root)
    parts = [set(split_episodes(dataset, split)) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [18, 6, 6]
    assert set.union(*parts) == set(range(30))
    # Two tasks take turns: three episodes of each.
    assert sum(episode % 2 for episode in parts[1]) == 3
    assert set(_taken(dataset, 18)) == parts[0]


def _open(root: Path, *names: str) -> list:
    return open_sources(DataConfig(mixture=[DomainEntry(name=n) for n in names], root=str(root)))


def test_sources_of_a_mixture(root: Path) -> None:
    (source,) = _open(root, "sim_panda")
    assert source.num_frames == 20 * 12
    assert source.present().tolist() == [True] * 10 + [False] * 10
    assert (domain_id("sim_panda"), domain_id("sim_kinova3_dual"), domain_id("bridge")) == (
        11,
        15,
        0,
    )


def test_mistakes_in_a_mixture(root: Path) -> None:
    with pytest.raises(ValueError, match="domain 'sim_pnda' is unknown; allowed: agibot, "):
        _open(root, "sim_pnda")
    with pytest.raises(ValueError, match=r"'sim_panda' is in data\.mixture twice"):
        _open(root, "sim_panda", "sim_panda")
    with pytest.raises(ValueError, match="the mixture is empty"):
        _open(root)
    with pytest.raises(
        ValueError, match=r"domain droid_left: no dataset folder at .* there are no_val"
    ):
        _open(root, "droid_left")
    with pytest.raises(ValueError, match="has no views"):
        _open(root, "sim_ur5e")
