"""Published tables: sourced, consistent with themselves, and what the paper's text prints."""

import re
from pathlib import Path

import pytest

from analysis.pages import paper_tables
from analysis.table import published

NUMBERS = [1, 2, 3, 4, 6, 7, 8, 9, 10, 13, 14, 15, 16, 17, 18]
PAPER = Path(__file__).parents[4] / "shared" / "seeds"
# How the text prints what a column holds in other units.
OTHER_UNITS = {"num_params_trainable", "num_trajectories", "sampling_weight", "step"}


@pytest.mark.parametrize("number", NUMBERS)
def test_every_row_names_its_source(number):
    table = published(f"table_{number}")
    assert len(table) >= 2
    assert table["source"].str.contains(rf"Table {number}\b").all()


def test_every_table_here_has_a_title():
    assert paper_tables.numbers() == NUMBERS
    assert set(paper_tables.TITLES) == set(NUMBERS)


@pytest.mark.parametrize("number", NUMBERS)
def test_every_number_stands_in_the_papers_text(number):
    texts = sorted(PAPER.glob("*.txt"))
    if not texts:
        pytest.skip("the paper's text is not beside the repository")
    text = re.sub(r"[^0-9.]+", " ", texts[0].read_text())
    printed = {float(word) for word in re.findall(r"\d+\.?\d*", text)}
    table = published(f"table_{number}")
    numeric = table.select_dtypes("number").drop(columns=OTHER_UNITS, errors="ignore")
    missing = {v for column in numeric for v in numeric[column].dropna() if v not in printed}
    assert not missing


def test_mixture_weights_add_up_and_trajectories_are_the_papers_290k():
    table = published("table_10")
    assert table["sampling_weight"].sum() == pytest.approx(1.0)
    assert table["num_trajectories"].sum() == pytest.approx(290_000, rel=0.02)


def test_printed_averages_are_the_means_of_their_rows():
    simpler = published("table_14")
    for _, suite in simpler.groupby("suite"):
        mean = suite.loc[suite["task"] != "Average", "success_percent"].mean()
        average = suite.loc[suite["task"] == "Average", "success_percent"].item()
        assert average == pytest.approx(mean, abs=0.06)
    for number, key, value in ((15, "suite", "success_percent"), (17, "track", "progress_score")):
        table = published(f"table_{number}").set_index(key)[value]
        assert table.pop("Average") == pytest.approx(table.mean(), abs=0.06)


def test_robotwin_has_fifty_tasks_and_its_printed_average_is_near_their_mean():
    table = published("table_18").set_index("task")
    average = table.loc["Average"]
    tasks = table.drop(index="Average")
    assert len(tasks) == 50
    # printed 70.0 and 39.0; the tasks' means are 70.1 and 38.2, as the row's note says
    assert tasks["easy_percent"].mean() == pytest.approx(70.1, abs=0.05)
    assert tasks["hard_percent"].mean() == pytest.approx(38.2, abs=0.05)
    assert "70.1 and 38.2" in average["note"]


def test_the_methods_table_agrees_with_the_detailed_ones():
    ours = published("table_2").set_index("method").loc["X-VLA"]
    libero = published("table_15").set_index("suite")["success_percent"]
    assert ours["libero_avg"] == libero["Average"]
    assert ours["calvin_abc_d_tasks"] == published("table_16")["value"].iloc[-1]
    assert ours["robotwin2_hard_percent"] == published("table_18")["hard_percent"].iloc[-1]
    assert ours["navsim_pdms"] == published("table_13").set_index("method")["pdms"]["X-VLA"]
    best = published("table_2").set_index("method").loc["Maximum of Existing SOTA"]
    others = published("table_2").set_index("method").drop(["X-VLA", "Maximum of Existing SOTA"])
    numeric = others.select_dtypes("number").max()
    assert (numeric == best[numeric.index].astype(float)).all()


def test_an_unknown_table_names_those_that_exist():
    with pytest.raises(ValueError, match="table_10"):
        published("table_99")
