"""Figures of a simulated search: every trial shown as it ended, axes with units."""

import sys
from pathlib import Path

import pytest

from scaling.cli import search_figures
from scaling.cli.search_figures import draw_search
from scaling.search.controller import run_trials
from scaling.search.result import compare, importances

sys.path.insert(0, str(Path(__file__).parent))  # for the module beside this file

from simulated_search import Simulated, make_task, opened, options, score


def test_figures_and_importance(tmp_path: Path) -> None:
    task, reasons = make_task(), {64: "out of memory", 4: "loss is not finite"}
    simulated = Simulated(tmp_path / "runs", reasons=reasons)
    study = opened(tmp_path, task)
    run_trials(study, task, options(20), executor=simulated.executor(), score=score)
    shares = importances(study)
    assert set(shares) == set(task.search.space)
    assert sum(shares.values()) == pytest.approx(1)
    answer = compare(study, task, options(20), executor=simulated.executor(), score=score)
    words = {"task": task, "score": "horizon_l1", "answer": answer, "importance": shares}
    figures = draw_search(study, tmp_path / "figures", **words)
    assert set(figures) == {"history", "contour", "importance"}
    for png, svg in figures.values():
        assert Path(png).read_bytes()[:4] == b"\x89PNG"
        assert b"<svg" in Path(svg).read_bytes()[:2000]


def test_figures_show_how_every_trial_ended(tmp_path: Path) -> None:
    task, reasons = make_task(), {64: "out of memory", 4: "loss is not finite"}
    simulated = Simulated(tmp_path / "runs", reasons=reasons)
    study = opened(tmp_path, task)
    assert draw_search(study, tmp_path, task=task, score="val_l1", answer={}, importance={}) == {}
    run_trials(study, task, options(16), executor=simulated.executor(), score=score)
    answer = compare(study, task, options(16), executor=simulated.executor(), score=score)
    trials, ends = study.get_trials(), {"complete", "out of memory", "failed", "default"}
    names = list(task.search.space)
    contour = search_figures._contour(trials, task, names, label="l1 (m)", answer=answer)
    for figure, more in (
        (search_figures._history(trials, task, "l1 (m)"), {"best so far"}),
        (contour, {f"best, new seeds: {answer['best']['verdict']}"}),
    ):
        assert {text.get_text() for text in figure.legends[0].get_texts()} == ends | more
    assert contour.axes[0].get_xlabel() == "soft prompt length (tokens), log scale"
    assert contour.axes[0].get_ylabel() == "prediction window (s), log scale"
    ticks = [text.get_text() for text in contour.axes[0].get_yticklabels()]
    assert ticks == ["1", "2", "4", "8"]
