"""`scaling report` of a searched study: the choice against the default, and the ledger at the end.

The runs, scores and hours are made up: simulated data.
"""

import json
from pathlib import Path

import pytest
from studies import ask

from scaling.cli import report_blocks, results
from scaling.search.result import interval
from scaling.study import load_study

STUDY = "sweeps.prompt_and_window"
SVG = '<svg xmlns="http://www.w3.org/2000/svg"><g id="drawn-{name}"/></svg>'


def candidate(params, repeats, default, *, verdict):
    delta, low, high = interval(repeats, default, comparisons=1) or (None, None, None)
    return {
        "params": params,
        "run_id": "0" * 12,
        "search_value": repeats[0],
        "repeats": repeats,
        "mean": sum(repeats) / len(repeats),
        "delta": delta,
        "low": low,
        "high": high,
        "verdict": verdict,
    }


def write_search(runs_dir: Path, figures: Path) -> None:
    """Write what a search leaves behind whose best point is not separable from the default."""
    figures.mkdir(parents=True)
    paths = {name: figures / f"search_{name}.svg" for name in ("history", "contour")}
    for name, path in paths.items():
        path.write_text(SVG.format(name=name))
    default = [0.050, 0.052, 0.051]
    point = {"soft_prompt_length": 16, "prediction_window_s": 2.0}
    best = candidate(point, [0.049, 0.052, 0.050], default, verdict="not separable")
    base = candidate({"soft_prompt_length": 8, "prediction_window_s": 4.0}, default, [],
                     verdict="default")  # fmt: skip
    document = {
        "study": STUDY,
        "scale": "cpu",
        "score": "horizon_l1",
        "counts": {"trials": 12, "complete": 9, "pruned": 3, "out_of_memory": 0, "failed": 0,
                   "running": 0, "runs": 12, "duplicates": 0},
        "default": base,
        "candidates": [best],
        "best": best,
        "answer": "the best point is not separable from the default; the default stays",
        "importance": {"prediction_window_s": 0.7, "soft_prompt_length": 0.3},
        "figures": {name: [str(path)] for name, path in paths.items()}
        | {"importance": [str(figures / "deleted.svg")]},
    }  # fmt: skip
    folder = runs_dir / "_search" / STUDY
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(document))


def write_runs(runs_dir: Path) -> None:
    """Write runs that are done; the second attempt of the first repeats 20 of 100 steps."""
    for number, spec in enumerate(load_study(STUDY).expand("cpu")):
        folder = runs_dir / spec.run_id
        (folder / "attempts").mkdir(parents=True)
        lives = [(0, 3600, 0, 100), (4000, 5800, 80, 130)][: 2 if number == 0 else 1]
        for k, (start, end, first, last) in enumerate(lives):
            record = {"start": start, "end": end, "first_step": first, "last_step": last}
            (folder / "attempts" / f"{k:04d}.json").write_text(json.dumps(record))
        (folder / "run.yaml").write_text("stage: pretrain\n")
        metrics = {"val/l1": 0.05 + 0.001 * number, "val/l1_sem": 0.001}
        (folder / "DONE").write_text(json.dumps({"metrics": metrics, "step": 130, "time": 2.0}))


@pytest.fixture
def report(tmp_path, monkeypatch, capsys):
    """Call `scaling report` on made runs; return what it prints and its page."""
    monkeypatch.setattr("scaling.best.best", lambda *_, **__: {})  # no checkpoint to verify here
    monkeypatch.setattr(report_blocks, "_soft_prompts", lambda *_: None)
    monkeypatch.setattr(results, "publish", lambda *_, **__: {})

    def call(*words):
        assert ask("report", STUDY, "--draws=40", f"--runs={tmp_path / 'runs'}", *words) == 0
        page = (tmp_path / "reports" / STUDY / "report.html").read_text()
        return capsys.readouterr().out, page

    write_runs(tmp_path / "runs")
    return call


def test_a_searched_study_shows_its_choice_against_the_default(report, tmp_path):
    write_search(tmp_path / "runs", tmp_path / "reports" / STUDY / "figures")
    printed, page = report()
    for text in (printed, page):
        assert "not separable" in text
        assert "default" in text
    card = page[page.index("<h2>Search</h2>") :]
    assert "The best point is not separable from the default; the default stays." in card
    assert "soft_prompt_length = 16, prediction_window_s = 2.0; horizon_l1 0.05033 over 3" in card
    assert "minus the default&#x27;s -0.000667 [-0.0" in card
    assert "prediction_window_s 70%" in card
    assert 'id="drawn-history"' in card
    assert 'id="drawn-contour"' in card
    assert page.index("<h2>Verdict</h2>") < page.index("<h2>Search</h2>")
    assert "xmlns" not in card[: card.index("<h2>", 5)]


def test_page_and_terminal_end_with_the_ledger(report):
    printed, page = report()
    last = page[page.rindex("<h2>") :]
    assert last.startswith("<h2>Ledger of hours</h2>")
    for account in ("useful", "replayed", "failed", "queued"):
        assert f'data-value="{account}"' in last
    line = printed.rstrip().splitlines()[-1]
    assert line.startswith("CPU-rank-hours: ")
    assert "0.2 replayed (4 %)" in line
    assert line in last
    assert "<h2>Search</h2>" not in page


def test_the_ledger_is_in_the_document(report):
    printed, _ = report("--json")
    book = json.loads(printed)["ledger"]
    assert book["replayed"] == pytest.approx(0.2)
    assert {"useful", "failed", "queued", "total", "unit", "runs", "text"} <= set(book)


def test_a_lost_checkpoint_costs_the_best_run_not_the_laws(report, monkeypatch):
    def lost(*_, **__):
        raise ValueError("checkpoint step_0000500 has no manifest.json")

    monkeypatch.setattr("scaling.best.best", lost)
    printed, page = report()
    assert "report.html" in printed
    assert "has no manifest.json" in page
    assert "learned from simulated data" in page
