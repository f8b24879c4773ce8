"""Prune keeps a trunk's branch points as long as a branch has to start, or restart, from them."""

import json
from dataclasses import replace

import pytest
import yaml

from jobs.prune import BranchPoint, prune, render_pruned
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
    (run_dir / "DONE").write_text('{"step": 10, "metrics": {}}')
    return run_dir / "checkpoints"


def finish(runs, spec):
    (runs / spec.run_id).mkdir(exist_ok=True)
    (runs / spec.run_id / "DONE").write_text('{"step": 10, "metrics": {}}')


def left(folder):
    return [int(path.name[-3:]) for path in sorted(folder.glob("step_*"))]


def test_points_go_once_their_branches_are_done(tmp_path, family, trunk_done):
    trunk, long, short = family
    finish(tmp_path, long)
    listed = prune(family, tmp_path)
    point = BranchPoint(checkpoint=str(trunk_done / "step_0000009"), branches=[short.run_id])
    assert listed.kept_for_branches == [point]
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


@pytest.mark.parametrize("style", ["ours", "flow"])
def test_a_parent_under_a_long_path_with_spaces_is_kept(tmp_path, make_spec, style):
    """YAML folds such a path over several lines."""
    runs = tmp_path / "/".join(["all the runs of the long study"] * 4)
    parent, child = make_spec(0), make_spec(1)
    folder = runs / parent.run_id / "checkpoints"
    for step in (10, 20):
        (folder / f"step_{step:07d}").mkdir(parents=True)
        (folder / f"step_{step:07d}" / "manifest.json").write_text("{}")
    (folder / "latest").write_text("step_0000020")
    (runs / parent.run_id / "DONE").write_text('{"step": 10, "metrics": {}}')
    used = str(folder / "step_0000010")
    init = replace(child.init, checkpoint=used, checkpoint_sha256="0" * 64)
    replace(child, init=init).save(runs / child.run_id / "run.yaml")
    if style == "flow":
        whole = yaml.safe_load((runs / child.run_id / "run.yaml").read_text())
        (runs / child.run_id / "run.yaml").write_text(json.dumps(whole))
    else:
        assert used not in (runs / child.run_id / "run.yaml").read_text()
    assert prune([parent], runs, really=True).kept_for_others == [used]
    assert left(folder) == [10, 20]


def test_nothing_is_deleted_beside_a_broken_run_yaml(tmp_path, family, trunk_done):
    (tmp_path / "0123456789ab").mkdir()
    (tmp_path / "0123456789ab" / "run.yaml").write_text("init:\n  checkpoint: 'a\nengine: {}\n")
    with pytest.raises(ValueError, match=r"cannot read `init` of .*0123456789ab/run\.yaml"):
        prune(family, tmp_path, really=True)
    assert left(trunk_done) == [9, 18, 30, 40]


def test_branches_declared_but_never_submitted_count(tmp_path, family, trunk_done):
    prune(family, tmp_path, really=True)
    assert left(trunk_done) == [9, 18, 40]
