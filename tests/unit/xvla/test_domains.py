"""A domain is a name: its row in the tables, and the folder that its data lies in."""

from pathlib import Path

import pytest

from xvla.config import DataConfig, DomainEntry
from xvla.domains import DOMAIN_IDS, check_folders, check_mixture, dataset_folder, domain_rows


def _data(*names: str, **fields) -> DataConfig:
    return DataConfig(mixture=[DomainEntry(name=name) for name in names], **fields)


@pytest.mark.parametrize(
    ("names", "ids", "rows"),
    [
        (("sim_panda", "bridge"), {}, {"sim_panda": 11, "bridge": 0}),
        (("mine",), {}, {"mine": 20}),  # the first row that no released name has
        (("mine", "yours"), {}, {"mine": 20, "yours": 21}),
        (("yours",), {"mine": 20}, {"mine": 20, "yours": 21}),  # a trained row is not taken
        (("mine",), {"mine": 29}, {"mine": 29}),
        (("robomind_franka", "sim_panda"), {"sim_panda": 20}, {"robomind_franka": 11}),
        (tuple(f"arm{i}" for i in range(10)), {}, {"arm7": 27, "arm8": 29, "arm9": 30}),
    ],
)
def test_rows_of_names(names: tuple[str, ...], ids: dict[str, int], rows: dict[str, int]) -> None:
    found = domain_rows(_data(*names, domain_ids=ids))
    assert {name: found[name] for name in rows} == rows
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize(
    ("names", "ids", "words"),
    [
        (("sim_panda", "robomind_franka"), {}, r"sim_panda and robomind_franka share row 11 .*=20"),
        (("mine",), {"yours": 3, "mine": 3}, r"share row 3 of the tables"),
        (("robomind_franka",), {"sim_panda": 11}, r"data\.domain_ids\.robomind_franka=20"),
    ],
)
def test_two_trained_names_do_not_share_a_row(
    names: tuple[str, ...], ids: dict[str, int], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        domain_rows(_data(*names, domain_ids=ids))


@pytest.mark.parametrize("name", ["", "../up", "two words", "a/b", ".hidden"])
def test_a_name_can_be_a_folder_and_a_metric(name: str) -> None:
    with pytest.raises(ValueError, match="allowed: letters, digits"):
        check_mixture(_data(name))


def test_a_row_is_no_negative_number() -> None:
    with pytest.raises(ValueError, match=r"data\.domain_ids=.*each with a whole number, 0 or more"):
        _data("mine", domain_ids={"mine": -1})


def test_a_domain_has_its_own_folder_or_one_below_the_root(tmp_path: Path) -> None:
    for name in ("root/mine/meta", "elsewhere/meta"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "root/mine/meta/info.json").write_text("{}")
    (tmp_path / "elsewhere/meta/info.json").write_text("{}")
    root, elsewhere = str(tmp_path / "root"), str(tmp_path / "elsewhere")
    data = _data("mine", "yours", root=root, roots={"yours": elsewhere})
    assert dataset_folder(data, "mine") == tmp_path / "root/mine"
    assert dataset_folder(data, "yours") == tmp_path / "elsewhere"
    check_folders(data)
    with pytest.raises(ValueError, match=r"domain theirs: .*there are mine; .*data\.roots\.theirs"):
        dataset_folder(data, "theirs")
    with pytest.raises(ValueError, match=r"is a dataset itself: give data\.roots\.mine="):
        dataset_folder(_data("mine", root=elsewhere), "mine")


def test_a_released_name_is_planned_without_data_and_a_new_one_is_not() -> None:
    check_folders(_data("bridge"))
    assert "bridge" in DOMAIN_IDS
    for data in (_data("mine"), _data("bridge", root="/nope"), _data("a", roots={"a": "/nope"})):
        with pytest.raises(ValueError, match="no dataset folder at"):
            check_folders(data)
