"""What a search compares by: logged val/l1, rollouts after finetuning, and the windows compared."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from scaling.scores import _windows, adapted_success, kept_score, make_scorer
from scaling.search.task import Score
from scaling.spec import InitConfig, RunSpec
from scaling.study import Choice, Search, load_study


def search() -> Search:
    found = load_study("sweeps.prompt_and_window").search
    assert found is not None
    return found


def run_of() -> RunSpec:
    return search().run["cpu"](search().defaults["cpu"], 0)


def test_val_l1_is_what_the_run_logged(tmp_path: Path) -> None:
    spec = run_of()
    folder = tmp_path / spec.run_id
    folder.mkdir()
    lines = [{"step": 250, "loss/train": 1.0}, {"step": 250, "val/l1": 0.3, "val/l1_sem": 0.01}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"step": 2')  # a line being written
    score = make_scorer("val_l1", search(), tmp_path, tmp_path / "cache")
    assert score(spec, 250) == Score(value=0.3, sem=0.01)
    assert score(spec, 500) is None
    done = {"step": 500, "metrics": {"val/l1": 0.2}}
    (folder / "DONE").write_text(json.dumps(done))
    found = score(spec, 500)
    assert found is not None
    assert found.value == 0.2
    assert math.isnan(found.sem)


def test_horizon_scores_are_kept_and_absent_checkpoints_have_none(tmp_path: Path) -> None:
    spec = run_of()
    score = make_scorer("horizon_l1", search(), tmp_path, tmp_path / "cache")
    assert score(spec, 250) is None
    (tmp_path / "cache").mkdir()
    kept = kept_score("horizon_l1", spec, 250, search=search(), cache=tmp_path / "cache")
    assert kept.name == f"{spec.run_id}-250-horizon-1-8.json"  # as in the folders of old searches
    kept.write_text('{"value": 0.1, "sem": 0.02}')
    assert score(spec, 250) == Score(value=0.1, sem=0.02)


def test_the_horizon_spans_the_windows_of_the_space() -> None:
    assert _windows(search()) == [1.0, 2.0, 4.0, 8.0]
    without = replace(search(), space={"soft_prompt_length": Choice((4, 8))})
    assert _windows(without) == [4.0]


def test_adapted_success_counts_rollouts_of_finetuned_runs(tmp_path: Path) -> None:
    spec = run_of()
    with pytest.raises(ValueError, match="needs rollouts"):
        adapted_success(spec, tmp_path)
    for number, successes in enumerate((3, 5)):
        place = tmp_path / spec.run_id / "checkpoints" / f"step_{number:07d}"
        init = InitConfig(checkpoint=str(place), checkpoint_sha256="0" * 64)
        child = replace(spec, stage="finetune", init=init, num_steps=10 + number)
        folder = tmp_path / child.run_id
        folder.mkdir()
        child.save(folder / "run.yaml")
        (folder / "DONE").write_text('{"step": 10, "metrics": {}}')
        rollout = {"domain": "sim_panda", "episodes": 10, "successes": successes}
        (folder / "rollout.json").write_text(json.dumps(rollout))
    found = adapted_success(spec, tmp_path)
    assert found.value == pytest.approx(0.6)
    assert found.sem == pytest.approx(math.sqrt(0.6 * 0.4 / 20))
    scorer = make_scorer("adapted_success", search(), tmp_path, tmp_path)
    assert scorer(spec, spec.num_steps // 2) is None  # nothing to stop a run by half way


def test_unknown_scores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allowed: val_l1, horizon_l1, adapted_success"):
        make_scorer("luck", search(), tmp_path, tmp_path)
