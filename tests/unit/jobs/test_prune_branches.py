"""Prune keeps a trunk's branch points as long as a branch has to start, or restart, from them."""

from dataclasses import replace

import pytest

from jobs.prune import prune, render_pruned
from scaling.branch import branched
from scaling.spec import ScheduleConfig


@pytest.fixture
def family(make_spec):
    """A trunk of 40 steps that is done elsewhere, branches of 20 and 10."""
    schedule = ScheduleConfig(kind="wsd", warmup_steps=2, decay_fraction=0.1)
    return branched([replace(make_spec(), schedule=schedule, num_steps=n) for n in (10, 20, 40)])


@pytest.fixture
def trunk_done(tmp_path, family):
    """The folder of the trunk's checkpoints: 9, 18, 30 and the last, 40."""
    run_dir = tmp_path / family[0].run_id
    for step in (9, 18, 30, 40):
        folder = run_dir / "checkpoints" / f"step_{step:07d}"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
    (run_dir / "checkpoints" / "latest").write_text("step_0000040")
    (run_dir / "DONE").write_text("{}")
    return run_dir / "checkpoints"


def finish(runs, spec):
    (runs / spec.run_id).mkdir(exist_ok=True)
    (runs / spec.run_id / "DONE").write_text("{}")


def left(folder):
    return [int(path.name[-3:]) for path in sorted(folder.glob("step_*"))]


def test_points_go_once_their_branches_are_done(tmp_path, family, trunk_done):
    trunk, long, short = family
    finish(tmp_path, long)
    listed = prune(family, tmp_path)
    assert listed["kept_for_branches"] == [
        {"checkpoint": str(trunk_done / "step_0000009"), "branches": [short.run_id]}
    ]
    shown = render_pruned(listed)
    assert f"step_0000009  kept: unfinished branches start from it: {short.run_id}" in shown
    assert "step_0000018  0.00 GiB  branch point, its branches are done" in shown
    assert "step_0000030  0.00 GiB\n" in shown
    prune(family, tmp_path, really=True)
    assert left(trunk_done) == [9, 40]
    finish(tmp_path, short)
    prune([trunk], tmp_path, really=True)
    assert left(trunk_done) == [40]


def test_branches_prepared_here_count_though_not_selected(tmp_path, family, trunk_done):
    trunk, *branches = family
    for spec in branches:
        spec.save(tmp_path / spec.run_id / "run.yaml")
    (tmp_path / branches[0].run_id / "FAILED").write_text('{"reason": "diverged"}')
    prune([trunk], tmp_path, really=True)
    assert left(trunk_done) == [9, 18, 40]


def test_branches_declared_but_never_submitted_count(tmp_path, family, trunk_done):
    prune(family, tmp_path, really=True)
    assert left(trunk_done) == [9, 18, 40]
