"""Figures of a simulated search: Optuna's plots in our style, their words with units."""

import sys
from pathlib import Path

import matplotlib
import pytest
from matplotlib import pyplot
from matplotlib.style import library as styles

from analysis.figures.style import column_label
from scaling.cli.search import _draw
from scaling.search.controller import Controller
from scaling.search.figures import draw
from scaling.search.result import importances

sys.path.insert(0, str(Path(__file__).parent))  # for the module beside this file

from simulated_search import Simulated, make_task, opened


@pytest.fixture
def searched(tmp_path: Path) -> Controller:
    """A search of 24 trials, of which some ran out of memory or failed."""
    reasons = {64: "out of memory", 4: "loss is not finite"}
    controller = opened(
        tmp_path, make_task(), Simulated(tmp_path / "runs", reasons=reasons), trials=24
    )
    controller.run_trials()
    return controller


def test_figures_are_written_and_closed(searched: Controller, tmp_path: Path) -> None:
    shares, before = importances(searched.study), pyplot.get_fignums()
    figures = _draw(searched.study, searched.task, tmp_path / "figures", score="horizon_l1",
                    importance=shares)  # fmt: skip
    assert set(figures) == {"history", "contour", "importance"}
    for png, svg in figures.values():
        assert Path(png).read_bytes()[:4] == b"\x89PNG"
        assert b"<svg" in Path(svg).read_bytes()[:2000]
    assert pyplot.get_fignums() == before


def test_words_have_units_and_the_style_stays(searched: Controller) -> None:
    shares = importances(searched.study)
    settings, ggplot = dict(matplotlib.rcParams), dict(styles["ggplot"])
    figures = draw(
        searched.study, searched.task, score="val_l1", importance=shares, label=column_label
    )
    assert dict(matplotlib.rcParams) == settings
    assert dict(styles["ggplot"]) == ggplot
    history, contour, importance = (figures[name].axes[0] for name in figures)
    assert history.get_xlabel() == "trial"
    assert history.get_ylabel() == "validation l1\n(m, rotation 6D, gripper)"
    assert [text.get_text() for text in history.get_legend().get_texts()] == [
        "complete trial", "best so far",
    ]  # fmt: skip
    assert contour.get_xlabel() == "prediction window (s)"
    assert contour.get_ylabel() == "soft prompt length (tokens)"
    assert [text.get_text() for text in importance.get_yticklabels()] == [
        column_label(name) for name in reversed(shares)
    ]
    for figure in figures.values():
        assert not any(ax.get_title() or ax.get_title(loc="left") for ax in figure.axes)
        pyplot.close(figure)


def test_too_few_trials_draw_nothing(tmp_path: Path) -> None:
    controller = opened(tmp_path, make_task(), trials=3)
    controller.run_trials()
    assert draw(controller.study, controller.task, score="val_l1", importance={}, label=str) == {}
