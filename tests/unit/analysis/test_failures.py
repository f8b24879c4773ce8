"""Success counts read from rollout documents, and the failure law of a study that has them."""

import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from studies import demo_study

from analysis import plots
from analysis.estimator import FitOptions
from analysis.pages.sentences import failure_texts
from analysis.report import build_report
from analysis.success.failures import failure_study, failure_trend
from scaling.runs.rollouts import success_counts
from scaling.runs.table import export_study

HOW = FitOptions(num_draws=60)
RUN, CHILD, OTHER, LONE = (f"{i:012x}" for i in range(4))


def write_rollout(folder, successes, episodes, name="rollout.json"):
    folder.mkdir(parents=True, exist_ok=True)
    document = {"domain": "sim_panda", "episodes": episodes, "successes": successes}
    (folder / name).write_text(json.dumps(document))


def write_finetuned(runs_dir, run_id, parent, *, done=True):
    folder = runs_dir / run_id
    folder.mkdir(parents=True)
    checkpoint = runs_dir / parent / "checkpoints" / "step_0000100"
    (folder / "run.yaml").write_text(f"stage: finetune\ninit:\n  checkpoint: {checkpoint}\n")
    if done:
        (folder / "DONE").write_text('{"step": 10, "metrics": {}}')


def test_counts_are_a_runs_own_or_those_of_its_finetuned_runs_together(tmp_path):
    for child, parent in ((CHILD, RUN), (OTHER, RUN), ("f" * 12, LONE)):
        write_finetuned(tmp_path, child, parent)
        write_rollout(tmp_path / child, 3, 10)
    write_rollout(tmp_path / CHILD, 8, 20, "rollout_left.json")
    write_rollout(tmp_path / LONE, 1, 5)
    counts = success_counts(tmp_path)
    assert counts[RUN] == {"successes": 14, "rollouts": 40}
    assert counts[CHILD] == {"successes": 11, "rollouts": 30}
    assert counts[LONE] == {"successes": 1, "rollouts": 5}


def test_a_document_being_written_or_of_an_unfinished_run_does_not_count_yet(tmp_path):
    write_finetuned(tmp_path, CHILD, RUN, done=False)
    write_rollout(tmp_path / CHILD, 3, 10)
    (tmp_path / OTHER).mkdir()
    (tmp_path / OTHER / "rollout.json").write_text('{"domain": "sim_')
    assert success_counts(tmp_path) == {CHILD: {"successes": 3, "rollouts": 10}}


@pytest.mark.parametrize("counts", [(11, 10), (-1, 10), (2.5, 10), (None, 10), (True, 10)])
def test_impossible_counts_name_their_file(tmp_path, counts):
    write_rollout(tmp_path / RUN, *counts)
    with pytest.raises(ValueError, match=r"rollout\.json: successes .* 0 <= successes <= episodes"):
        success_counts(tmp_path)


def test_the_run_table_holds_the_counts_and_nothing_where_there_are_none(tmp_path):
    write_rollout(tmp_path / "runs" / RUN, 7, 10)
    rows = [{"run_id": run_id, "num_params_total": 1} for run_id in (RUN, LONE)]
    found = export_study(rows, tmp_path / "runs", tmp_path)
    table = pd.read_parquet(found.runs).set_index("run_id")
    assert table.loc[RUN, ["successes", "rollouts"]].tolist() == [7, 10]
    assert table.loc[LONE, ["successes", "rollouts"]].isna().all()
    assert str(table["rollouts"].dtype) == "float64"


@pytest.fixture(scope="module")
def rolled_out():
    """The demo study with failure rates that fall with the policy's size alone."""
    runs = demo_study(seeds=3)
    rng = np.random.default_rng(5)
    failure = 0.1 + 0.6 * (runs["num_params_total"] / 1e6) ** -1.0
    runs["rollouts"] = 200.0
    runs["successes"] = 200.0 - rng.binomial(200, failure)
    runs.loc[0, ["successes", "rollouts"]] = np.nan  # one run without
    return runs


def test_failure_falls_by_a_binomial_law_with_its_intervals(rolled_out):
    clean = rolled_out[~rolled_out["blind"]]
    found = failure_study(clean, ["N", "domains"], HOW)
    assert found.num_runs == len(clean) - 1
    law = found.axes["N"].outcome.law
    assert law.estimator == "binomial likelihood"
    low, high = law.params["E"].profile
    assert low < 0.1 < high
    assert all(p.lower <= p.y <= p.upper for p in found.axes["N"].outcome.points)
    cells = {c.settings["size"]: c for c in found.cells if c.settings["num_unique_episodes"] == 280}
    assert cells["h16"].rollouts == 400
    assert cells["h32"].lower < cells["h32"].failure < cells["h32"].upper
    assert found.p_value > 0.01
    assert any("failure = " in text for text in failure_texts(found))
    with plots.style():
        ax = plots.failure_rate(Figure().subplots(), found.axes["N"].outcome, label="N")
    assert ax.get_ylabel() == "closed-loop failure rate (%)"


def test_the_trend_test_is_honest_without_a_trend_and_sees_one():
    x = np.repeat([1.0, 2, 4, 8], 3)
    rng = np.random.default_rng(0)
    trials = np.full(12, 40.0)
    p = [failure_trend(x, rng.binomial(40, 0.4, 12).astype(float), trials)[1] for _ in range(400)]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.03)
    z, p_value = failure_trend(x, rng.binomial(40, 0.6 * x**-0.5).astype(float), trials)
    assert z < 0
    assert p_value < 0.001


def test_a_failure_rate_that_only_wobbles_gets_no_law(rolled_out):
    found = failure_study(rolled_out[~rolled_out["blind"]], ["domains"], HOW).axes["domains"]
    assert "does not fall measurably" in found.outcome.reason


def test_what_carries_no_failure_law_is_refused_with_the_reason(rolled_out):
    clean = rolled_out[~rolled_out["blind"]]
    always = failure_study(clean.assign(successes=clean["rollouts"]), ["N"], HOW)
    assert "rollouts failed" in always.axes["N"].outcome.reason
    assert always.cells[0].failure == 0 < always.cells[0].upper
    two = clean[clean["size"].isin(["h16", "h64"])]
    assert "2 levels" in failure_study(two, ["N"], HOW).axes["N"].outcome.reason
    assert failure_study(clean.drop(columns="rollouts"), ["N"], HOW) is None


def test_the_page_has_a_section_of_failure(rolled_out, tmp_path):
    build_report(rolled_out, study="s", out_dir=tmp_path, axes=["N"], num_draws=60)
    page = (tmp_path / "report.html").read_text()
    assert "Closed-loop failure" in page
    assert "binomial likelihood" in page
    assert (tmp_path / "figures" / "failure_N.png").exists()
