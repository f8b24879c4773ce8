"""Branches on a fake Slurm: behind the jobs of their trunks, which they look for once more."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.cluster import Cluster, load_cluster
from jobs.queue import read_held
from jobs.slurm import trunks
from jobs.slurm.sbatch import make_arrays, render_array
from jobs.slurm.submissions import note_resubmitted
from jobs.slurm.submit import submit
from jobs.status import run_state, study_status
from scaling.branch import branched
from scaling.runs.files import write_json
from scaling.runs.folder import Run
from scaling.spec import ResourceConfig, ScheduleConfig, SeedConfig

DEV = Cluster(name="dev", gpus_per_node=8, max_gpus=16, max_cpu_ranks=4, time_limit="10")
WSD = ScheduleConfig(kind="wsd", warmup_steps=2, decay_fraction=0.1)


@pytest.fixture
def families(make_spec):
    """Return a maker of runs of 40, 20 and 10 steps for each seed, branches before trunks."""

    def make(seeds: int = 1, **changes):
        base = replace(make_spec(), schedule=WSD, **changes)
        runs = [
            replace(base, seeds=SeedConfig(init=seed), num_steps=steps)
            for seed in range(seeds)
            for steps in (10, 20, 40)
        ]
        return branched(runs)[::-1]

    return make


def dependencies(summary) -> list[str]:
    """Return the dependency of each array, "" for none."""
    found = []
    for index in range(len(summary.arrays)):
        text = Path(summary.submission, f"array-{index}.sbatch").read_text()
        lines = [line for line in text.splitlines() if "--dependency=" in line]
        found.append(lines[0].partition("--dependency=")[2] if lines else "")
    return found


def save_points(runs: Path, trunk) -> None:
    for step in trunk.engine.keep_steps:
        (runs / trunk.run_id / "checkpoints" / f"step_{step:07d}").mkdir(parents=True)


def finish(runs: Path, trunk, fake) -> None:
    save_points(runs, trunk)
    (runs / trunk.run_id / "DONE").write_text('{"step": 10, "metrics": {}}')
    fake.end("1_0")


def test_branches_depend_on_the_array_of_their_trunks(tmp_path, families, fake_slurm):
    specs = families(seeds=2)
    summary = submit(specs, tmp_path, DEV)
    shown = [(array.name, array.runs) for array in summary.arrays]
    assert shown == [("fake-tiny", 2), ("fake-tiny-branches", 4)]
    assert dependencies(summary) == ["", "afterany:1"]
    assert submit(specs, tmp_path, DEV).submitted == 0


def test_split_arrays_depend_on_those_that_hold_their_trunks(tmp_path, families, fake_slurm):
    fake_slurm.set(max_array_size=2)
    summary = submit(families(seeds=3), tmp_path, replace(DEV, max_cpu_ranks=0))
    assert [array.runs for array in summary.arrays] == [2, 1, 2, 2, 2]
    # Seeds come as 2, 1, 0: the first two trunks are in job 1, that of seed 0 in job 2.
    assert dependencies(summary) == ["", "", "afterany:1", "afterany:1", "afterany:2"]


def test_trunks_and_branches_have_the_whole_ceiling_in_turn(families, make_spec):
    specs = families(seeds=4)
    arrays = make_arrays(specs, DEV, max_array_size=1001)
    assert [array.limit for array in arrays] == [4, 4]
    beside = make_arrays([*specs, replace(make_spec(9), size="b")], DEV, max_array_size=1001)
    assert sum(array.limit for array in beside) <= 4  # another run may be under way with each


def test_a_finished_trunk_is_not_waited_for(tmp_path, families, fake_slurm):
    *branches, trunk = specs = families()
    submit(specs, tmp_path, DEV)
    finish(tmp_path, trunk, fake_slurm)
    fake_slurm.end("2_0", "2_1")
    again = submit(specs, tmp_path, DEV)
    assert (again.submitted, again.skipped_done) == (len(branches), 1)
    assert dependencies(again) == [""]


def test_a_trunk_handed_over_before_is_waited_for(tmp_path, families, fake_slurm):
    *branches, trunk = families()
    submit([trunk], tmp_path, DEV)
    summary = submit([*branches, trunk], tmp_path, DEV)
    assert (summary.submitted, summary.skipped_running) == (2, 1)
    assert dependencies(summary) == ["afterany:1_0"]
    specs = [*branches, trunk]
    assert [row.state for row in study_status(specs, tmp_path).runs] == ["queued"] * 3
    assert submit(specs, tmp_path, DEV).submitted == 0


def test_a_failed_trunk_goes_out_with_its_branches_or_they_do_not(tmp_path, families, fake_slurm):
    *branches, trunk = specs = families()
    (tmp_path / trunk.run_id).mkdir()
    Run(tmp_path / trunk.run_id).write_failed("diverged")
    with pytest.raises(ValueError, match=f"cannot start: trunk {trunk.run_id} failed .* diverged;"):
        submit(branches, tmp_path, DEV)
    assert fake_slurm.calls("sbatch") == []
    assert [row.state for row in study_status(specs, tmp_path).runs][-1] == "failed"
    summary = submit(specs, tmp_path, DEV)
    assert (summary.submitted, dependencies(summary)) == (3, ["", "afterany:1"])


def test_a_dry_run_shows_the_dependency(tmp_path, families, fake_slurm):
    shown = submit(families(), tmp_path / "runs", DEV, dry_run=True).arrays
    assert "#SBATCH --dependency=afterany:ARRAY-0\n" in shown[1].script
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def started(tmp_path, families, fake_slurm, monkeypatch):
    """Task 0 of the branches, started by Slurm: (branch, trunk, gate(), script, fake)."""
    *branches, trunk = specs = families()
    folder = Path(submit(specs, tmp_path, DEV).submission)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    branch = branches[0]
    words = [str(tmp_path / branch.run_id), str(folder), "1"]
    return branch, trunk, lambda: trunks.main(words), folder / "array-1.sbatch", fake_slurm


def test_a_task_starts_once_the_step_is_there(tmp_path, started):
    _, trunk, look, script, _ = started
    finish(tmp_path, trunk, started[-1])
    assert look() == 0
    assert "--dependency" not in script.read_text()  # the job is gone when this is sent anew
    assert look() == 0


def test_a_task_whose_trunk_goes_on_elsewhere_goes_behind_it(tmp_path, started, fake_slurm):
    branch, trunk, look, script, _ = started
    fake_slurm.set(jobs={"7_0": ["PENDING", "Priority"]})
    note_resubmitted(script.parent, run_id=trunk.run_id, task="7_0")
    assert look() == 3
    assert fake_slurm.calls("sbatch")[-1][1:3] == ["--array=0", "--dependency=afterany:7_0"]
    assert read_held(tmp_path, fresh=True)[branch.run_id].job_id == "3_0"
    assert run_state(Run(tmp_path / branch.run_id)).state == "queued"


@pytest.mark.parametrize(
    ("marker", "reason"),
    [
        (("FAILED", {"reason": "loss is nan"}), "failed before step 9: loss is nan; submit to"),
        (("FAILED", {"reason": "cancelled"}), "was cancelled before step 9"),
        (("DONE", {"step": 40, "metrics": {}}), "is past step 9 and did not keep it"),
    ],
)
def test_a_task_whose_trunk_is_lost_says_so(tmp_path, started, fake_slurm, marker, reason):
    branch, trunk, look, *_ = started
    (tmp_path / trunk.run_id / marker[0]).write_text(json.dumps(marker[1]))
    fake_slurm.end("1_0")
    assert look() == 3
    status = run_state(Run(tmp_path / branch.run_id))
    assert reason in str(status.reason)
    assert look() == 0  # with its marker `begin` turns it away


def test_a_task_behind_a_trunk_that_nobody_advances_is_left(tmp_path, started, fake_slurm, capsys):
    branch, trunk, look, *_ = started
    fake_slurm.end("1_0")
    assert look() == 3
    assert "is planned (job 1_0 has ended without starting the run); sub" in capsys.readouterr().out
    assert not (tmp_path / branch.run_id / "FAILED").exists()
    fake_slurm.end("2_0", "2_1")
    again = submit([branch, trunk], tmp_path, DEV)
    assert (again.submitted, dependencies(again)) == (2, ["", "afterany:3"])


def test_a_late_heartbeat_of_the_trunk_fails_no_branch(tmp_path, families, fake_slurm, monkeypatch):
    """The trunk trains on another host, outside Slurm, and its heartbeat is 61 s late."""
    *branches, trunk = families()
    beat = {"time": time.time() - 61, "host": "elsewhere", "pid": 1, "step": 3}
    (tmp_path / trunk.run_id).mkdir()
    write_json(tmp_path / trunk.run_id / "heartbeat.json", beat)
    summary = submit(branches, tmp_path, DEV)
    assert dependencies(summary) == [""]
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    assert trunks.main([str(tmp_path / branches[0].run_id), summary.submission, "0"]) == 3
    assert fake_slurm.calls("sbatch")[-1][1:3] == ["--array=0", "--begin=now+300"]
    assert not (tmp_path / branches[0].run_id / "FAILED").exists()


def test_the_script_of_branches(tmp_path, families, monkeypatch):
    monkeypatch.setattr("sys.executable", "/venv/bin/python")
    specs = families(global_batch_size=1024, size="0.9b",
                     resources=ResourceConfig(nodes=8, gpus_per_node=8))  # fmt: skip
    _, branches = make_arrays(specs, load_cluster("a100"), max_array_size=1001)
    where = Path("/scratch/runs/_slurm/s")
    text = render_array(branches, load_cluster("a100"), submission=where, runs_dir=where.parents[1])
    assert text == Path(__file__).with_name("golden_branches.sbatch").read_text()
