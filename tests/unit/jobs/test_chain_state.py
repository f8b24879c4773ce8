"""Where the chain behind a study stands, and chaining behind runs that went out before."""

from pathlib import Path

import pytest

from jobs.cluster import Cluster
from jobs.slurm.chain import chain_state
from jobs.slurm.submit import submit
from jobs.slurm.task import FAILURE, GO, wait

DEV = Cluster(name="dev", time_limit="10")
THEN = [["fit", "s"], ["report", "s"], ["export", "s"]]


@pytest.fixture
def chained(tmp_path, make_spec, fake_slurm):
    """Two runs as job 1 and the chain as jobs 2 to 4: (specs, submission, fake)."""
    specs = [make_spec(seed) for seed in range(2)]
    summary = submit(specs, tmp_path, DEV, then=THEN)
    return specs, Path(summary.submission), fake_slurm


def look(submission):
    links = chain_state(submission.parents[1], "sweeps.fake", fresh=True)
    return [(link.state, link.reason) for link in links]


def states(submission):
    return [state for state, _ in look(submission)]


def test_links_wait_run_and_end(chained):
    _, submission, fake = chained
    assert states(submission) == ["waiting"] * 3
    fake.set(jobs=fake["jobs"] | {"2": ["RUNNING", "None"]})
    assert states(submission) == ["running", "waiting", "waiting"]
    fake.end("1_0", "1_1", "2", "3", "4")
    fake.set(sacct="2|COMPLETED|0:0\n3|COMPLETED|0:0\n4|COMPLETED|0:0")
    assert states(submission) == ["done"] * 3
    asked = len(fake.calls("squeue"))
    assert states(submission) == ["done"] * 3  # for good: nobody is asked again
    assert len(fake.calls("squeue")) == asked


def test_a_failing_link_says_why_and_the_rest_say_so(chained):
    _, submission, fake = chained
    fake.end("1_0", "1_1", "2", "3", "4")
    fake.set(sacct="2|FAILED|2:0\n2.batch|FAILED|2:0\n3|CANCELLED by 0|0:0\n4|CANCELLED|0:0")
    (submission / "then-0-fit.out").write_text("fitting\nerror: no usable run in s\n")
    behind = ("cancelled", "fit failed before it")
    assert look(submission) == [("failed", "error: no usable run in s"), behind, behind]


def test_without_accounting_the_outputs_decide(chained):
    _, submission, fake = chained
    fake.end("1_0", "1_1", "2", "3", "4")
    fake.set(sacct=None)
    (submission / "then-0-fit.out").write_text("")
    (submission / "then-1-report.out").write_text("")
    assert states(submission) == ["done", "unknown", "unknown"]


def test_a_silent_slurm_changes_nothing_that_is_known(chained):
    _, submission, fake = chained
    fake.set(down=True)
    assert states(submission) == ["waiting"] * 3


def test_a_chain_is_put_behind_what_runs_already(tmp_path, make_spec, fake_slurm):
    specs = [make_spec(seed) for seed in range(2)]
    assert submit(specs, tmp_path, DEV).chain == []
    summary = submit(specs, tmp_path, DEV, then=THEN)
    assert (summary.submitted, len(summary.chain)) == (0, 3)
    submission = Path(summary.submission)
    assert "--dependency=afterany:1\n" in (submission / "then-0.sbatch").read_text()
    assert submit(specs, tmp_path, DEV, then=THEN).chain == []  # asked twice, not there twice
    fake_slurm.end("1_0", "1_1")
    (tmp_path / specs[0].run_id / "DONE").write_text('{"step": 10, "metrics": {}}')
    (tmp_path / specs[1].run_id / "FAILED").write_text('{"reason": "diverged"}')
    assert wait(submission) == FAILURE
    (tmp_path / specs[1].run_id / "DONE").write_text('{"step": 10, "metrics": {}}')
    assert wait(submission) == GO


def test_new_runs_of_a_study_get_a_chain_of_their_own(chained, tmp_path, make_spec):
    specs, _, _ = chained
    more = [*specs, make_spec(7)]
    summary = submit(more, tmp_path, DEV, then=THEN)
    assert (summary.submitted, len(summary.chain)) == (1, 3)
    script = Path(summary.submission, "then-0.sbatch").read_text()
    assert "--dependency=afterany:1:5\n" in script
    for runs in (more, specs):  # the newest chain waits for all of them
        assert submit(runs, tmp_path, DEV, then=THEN).chain == []


def test_a_chain_behind_done_runs_starts_at_once(tmp_path, make_spec, fake_slurm):
    spec = make_spec()
    submit([spec], tmp_path, DEV)
    fake_slurm.end("1_0")
    (tmp_path / spec.run_id / "DONE").write_text('{"step": 10, "metrics": {}}')
    summary = submit([spec], tmp_path, DEV, then=[["fit", "s"]])
    script = (Path(summary.submission) / "then-0.sbatch").read_text()
    assert "--dependency" not in script
    assert wait(Path(summary.submission)) == GO
