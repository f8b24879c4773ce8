"""Published tables: readable, sourced, and consistent with what the paper says elsewhere."""

import pytest

from analysis.table import published


@pytest.mark.parametrize("number", [1, 4, 6, 7, 8, 9, 10])
def test_every_row_names_its_source(number):
    table = published(f"table_{number}")
    assert len(table) >= 2
    assert table["source"].str.contains(f"Table {number}").all()


def test_mixture_weights_add_up_and_trajectories_are_the_papers_290k():
    table = published("table_10")
    assert table["sampling_weight"].sum() == pytest.approx(1.0)
    assert table["num_trajectories"].sum() == pytest.approx(290_000, rel=0.02)


def test_an_unknown_table_names_those_that_exist():
    with pytest.raises(ValueError, match="table_10"):
        published("table_99")
