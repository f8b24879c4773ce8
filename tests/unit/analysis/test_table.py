"""Slices of a study along one axis: shared centre, nothing else varying."""

import itertools

import numpy as np
import pandas as pd
import pytest

from analysis.laws import Chinchilla
from analysis.table import axis_frame, axis_slice, clean_runs, find_axes

SIZES = {"h16": 1.0e6, "h32": 1.2e6, "h64": 2.0e6, "h128": 5.0e6}


def demo_like(seeds=2):
    """Three axes that meet at the centre (h64, 40 episodes of each, 7 domains)."""
    points = [(size, 40, 7) for size in SIZES]
    points += [("h64", episodes, 7) for episodes in (5, 10, 20)]
    points += [("h64", 40, domains) for domains in (1, 2, 4)]
    rows = []
    for (size, episodes, domains), seed in itertools.product(points, range(seeds)):
        rows.append(
            {
                "run_id": f"{len(rows):012x}",
                "stage": "pretrain",
                "state": "done",
                "seed": seed,
                "size": size,
                "num_params_total": SIZES[size],
                "num_samples_seen": 6400,
                "num_unique_episodes": episodes * domains,
                "episodes_per_domain": float(episodes),
                "num_domains": domains,
                "blind": False,
                "val_l1": 0.05 + 0.01 * seed,
            }
        )
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("axis", "levels"),
    [
        ("N", sorted(SIZES.values())),
        ("episodes", [35, 70, 140, 280]),
        ("domains", [1, 2, 4, 7]),
    ],
)
def test_each_axis_takes_its_arm_and_the_shared_centre(axis, levels):
    found = axis_slice(demo_like(), axis)
    assert sorted(found.rows[found.column].unique()) == levels
    assert len(found.rows) == 8
    assert not found.notes


def test_domains_of_unequal_size_are_taken_whole():
    sizes = [141, 45, 25, 19]
    rows = [{"num_domains": k, "num_unique_episodes": sum(sizes[:k])} for k in (1, 2, 3, 4)]
    table = pd.DataFrame(rows)
    table["episodes_per_domain"] = table["num_unique_episodes"] / table["num_domains"]
    assert axis_slice(table, "domains").num_levels == 4


def test_domains_without_a_column_per_domain_use_all_episodes_of_each_level():
    found = axis_slice(demo_like().drop(columns="episodes_per_domain"), "domains")
    assert sorted(found.rows["num_unique_episodes"].unique()) == [40, 80, 160, 280]


def test_a_confounded_axis_says_so():
    table = pd.DataFrame({"num_params_total": [1e6, 2e6, 4e6], "num_samples_seen": [1, 2, 4]})
    found = axis_slice(table, "N")
    assert found.num_levels == 1
    assert found.notes[0].code == "confounded"


def test_axes_are_found_and_constant_ones_left_out():
    assert find_axes(demo_like()) == ["N", "episodes", "domains"]


def test_unfinished_blind_and_valueless_runs_are_counted_out():
    table = demo_like()
    table.loc[0, "state"] = "failed"
    table.loc[1, "blind"] = True
    table.loc[2, "val_l1"] = np.nan
    table.loc[3, "stage"] = "finetune"
    clean, notes = clean_runs(table)
    assert len(clean) == len(table) - 4
    assert {n.code: n.value for n in notes} == {
        "not_done": 1,
        "blind": 1,
        "no_value": 1,
        "other_stage": 1,
    }


def test_duplicate_runs_and_missing_columns_are_refused():
    table = pd.concat([demo_like(), demo_like().head(1)])
    with pytest.raises(ValueError, match="more than once"):
        clean_runs(table)
    with pytest.raises(ValueError, match="no column 'val_l2'"):
        clean_runs(demo_like(), y="val_l2")


def test_axes_are_read_by_their_own_name_or_the_contracts():
    table = demo_like()
    frame = axis_frame(table, Chinchilla())
    assert frame["N"].tolist() == table["num_params_total"].tolist()
    other = axis_frame(table.assign(N=7.0), Chinchilla())
    assert set(other["N"]) == {7.0}
