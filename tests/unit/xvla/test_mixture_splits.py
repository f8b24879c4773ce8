"""Training episodes: nested, seeded subsets of the training split."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from make_lerobot import SetSpec, write_set

from xvla.config import DataConfig, DomainEntry, SplitConfig
from xvla.data import open_dataset
from xvla.data.readers.base import Dataset
from xvla.data.sources import Mixture
from xvla.data.splits import episodes_in, held_out_by_task, splits_of, taken
from xvla.domains import check_anchor, check_mixture


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


def _in(dataset: Dataset, split: str) -> list[int]:
    return episodes_in(splits_of(dataset), split, path=dataset.path)


def _taken(dataset: Dataset, count: int, *, seed: int = 0, name: str = "sim_panda") -> list[int]:
    entry = DomainEntry(name=name, num_episodes=count)
    return taken(_in(dataset, "train"), entry, subset_seed=seed)


def test_subsets_are_nested_and_of_the_training_split(dataset: Dataset) -> None:
    sets = [set(_taken(dataset, count)) for count in (1, 2, 4, 8, 16, 20)]
    assert [len(chosen) for chosen in sets] == [1, 2, 4, 8, 16, 20]
    assert all(small < large for small, large in pairwise(sets))
    assert sets[-1] == set(range(20)) == set(_taken(dataset, 0))
    assert not set(_in(dataset, "val")) & sets[-1]


def test_subset_depends_on_seed_and_domain(dataset: Dataset) -> None:
    chosen = _taken(dataset, 5)
    assert chosen == _taken(dataset, 5)
    assert chosen != _taken(dataset, 5, seed=1)
    assert chosen != _taken(dataset, 5, name="sim_ur5e")


def test_asking_for_too_many(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match=r"20 training episodes; give 0 \(all\) to 20"):
        _taken(dataset, 21)
    with pytest.raises(ValueError, match=r"data\.mixture\.num_episodes=-1; allowed: .* 0 or more"):
        _taken(dataset, -1)


def test_split_that_is_not_there(root: Path) -> None:
    with pytest.raises(ValueError, match="no episodes in split 'val'; it has train"):
        _in(open_dataset(root / "no_val"), "val")


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
    parts = [set(_in(dataset, split)) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [18, 6, 6]
    assert set.union(*parts) == set(range(30))
    # Two tasks take turns: three episodes of each.
    assert sum(episode % 2 for episode in parts[1]) == 3
    assert set(_taken(dataset, 18)) == parts[0]


@pytest.mark.parametrize(
    ("split", "counts"),
    [
        (SplitConfig(val="0.1", test="0.2"), [21, 3, 6]),
        (SplitConfig(val="0.001", test="0.001"), [28, 1, 1]),  # never none
        (SplitConfig(val="validation", test="unseen"), [20, 6, 4]),
        (SplitConfig(val="unseen", test="validation"), [20, 4, 6]),
    ],
)
def test_splits_that_are_asked_for(tmp_path: Path, split: SplitConfig, counts: list[int]) -> None:
    named = {"train": "0:30"}
    if "unseen" in (split.val, split.test):
        named = {"train": "0:20", "validation": "20:26", "unseen": "26:30"}
    write_set(tmp_path / "mine", SetSpec(lengths=[12] * 30, splits=named))
    config = DataConfig(mixture=[DomainEntry(name="mine")], root=str(tmp_path), split=split)
    (source,) = Mixture.open(config).sources.values()
    parts = [source.split(name) for name in ("train", "val", "test")]
    assert [len(part) for part in parts] == counts
    assert len(set().union(*parts)) == 30
    assert list(source.episodes) == parts[0]


def test_a_share_leaves_a_set_its_own_splits(root: Path) -> None:
    before = splits_of(open_dataset(root / "sim_panda"))
    after = splits_of(open_dataset(root / "sim_panda"), SplitConfig(val="0.3", test="0.3"))
    assert "val" in before
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    "split",
    [
        {"val": "0.5", "test": "0.5"},
        {"val": "0.1"},
        {"val": "0", "test": "0.1"},
        {"val": "0.1", "test": "nan"},
        {"val": "validation"},
        {"val": "same", "test": "same"},
        {"val": "0.1", "test": "unseen"},
    ],
)
def test_splits_that_cannot_be(split: dict[str, str]) -> None:
    data = DataConfig(mixture=[DomainEntry(name="mine")], split=SplitConfig(**split))
    with pytest.raises(ValueError, match=r"data\.split\.val=.* two shares above 0"):
        check_mixture(data)


def test_a_split_that_no_set_has(root: Path) -> None:
    with pytest.raises(ValueError, match=r"no episodes in split 'dev'; it has .*train"):
        splits_of(open_dataset(root / "sim_panda"), SplitConfig(val="dev", test="test"))


def _open(root: Path, *names: str, **fields) -> Mixture:
    entries = [DomainEntry(name=n, **fields) for n in names]
    return Mixture.open(DataConfig(mixture=entries, root=str(root)))


def test_sources_of_a_mixture(root: Path) -> None:
    (source,) = _open(root, "sim_panda").sources.values()
    assert source.num_frames == 20 * 12
    assert source.present.tolist() == [True] * 10 + [False] * 10
    assert source.domain_id == 11


def test_mistakes_in_a_mixture(root: Path) -> None:
    with pytest.raises(ValueError, match=r"domain sim_pnda: no dataset folder at .*, sim_panda"):
        _open(root, "sim_pnda")
    with pytest.raises(
        ValueError, match=r"data\.mixture names a domain twice: \['sim_panda', 'sim_panda'\]"
    ):
        _open(root, "sim_panda", "sim_panda")
    with pytest.raises(ValueError, match=r"data\.mixture is empty; name at least one domain"):
        _open(root)
    with pytest.raises(
        ValueError, match=r"domain droid_left: no dataset folder at .* there are no_val"
    ):
        _open(root, "droid_left")
    with pytest.raises(ValueError, match="has no views"):
        _open(root, "sim_ur5e")
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(
            ValueError, match=r"data\.mixture\.weight=.*; allowed: a number, above 0"
        ):
            _open(root, "sim_panda", weight=weight)


def test_the_anchor_is_one_of_the_mixture_and_comes_first(root: Path) -> None:
    mixture = _open(root, "sim_panda")
    with pytest.raises(ValueError, match=r"data\.anchor_domain='' is not in the mixture"):
        mixture.anchor_first()
    with pytest.raises(ValueError, match="'bridge' is not in the mixture"):
        check_anchor(DataConfig(mixture=[DomainEntry(name="rt1")], anchor_domain="bridge"))
    write_set(root / "bridge", SetSpec(lengths=[12] * 9))
    entries = [DomainEntry(name=name) for name in ("sim_panda", "bridge")]
    config = DataConfig(mixture=entries, anchor_domain="bridge", root=str(root))
    assert [source.name for source in Mixture.open(config).anchor_first()] == [
        "bridge",
        "sim_panda",
    ]


def test_one_domain_of_an_open_mixture_takes_the_same_episodes_or_all(root: Path) -> None:
    mixture = _open(root, "sim_panda", num_episodes=5, num_frames=60)
    alone, whole = mixture.alone("sim_panda"), mixture.alone("sim_panda", whole=True)
    assert alone.sources == mixture.sources
    assert alone.config.anchor_domain == "sim_panda"
    assert whole.sources["sim_panda"].episodes == tuple(range(20))
    assert whole.sources["sim_panda"].dataset is mixture.sources["sim_panda"].dataset
    assert mixture.with_fields(blind=True).config.blind
    with pytest.raises(TypeError, match="open another mixture"):
        mixture.with_fields(root="elsewhere")
