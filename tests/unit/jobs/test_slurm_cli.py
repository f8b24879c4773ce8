"""The commands on a study and a cluster, over the fake Slurm."""

import json
from argparse import Namespace

import pytest

from scaling.commands import plan, study


@pytest.fixture
def call(tmp_path, capsys):
    """Return a caller of a command with --json that returns its document."""

    def run(command, **options):
        words = {"study": "sweeps.demo", "overrides": [], "runs": str(tmp_path / "runs"),
                 "json": True, "parallel": 0, "detach": False}  # fmt: skip
        assert command(Namespace(**(words | options))) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_submit_status_cancel_and_retry(call, fake_slurm):
    planned = call(plan.plan)["totals"]["num_runs"]
    summary = call(study.submit, on="dev", then="sync,report")
    assert summary["submitted"] == planned
    assert [array["name"] for array in summary["arrays"]][:1] == ["demo-tiny-h16"]
    assert summary["chain"][1]["command"].startswith("report sweeps.demo --runs=")
    state = {"select": "", "watch": False}
    assert call(study.status, **state)["counts"] == {"queued": planned}
    stopped = call(study.cancel, select="size=tiny-h16")
    assert {item["action"] for item in stopped} == {"removed from the queue"}
    assert call(study.status, **state)["counts"]["cancelled"] == len(stopped)
    assert len(call(study.retry, select="state=cancelled")) == len(stopped)
    again = call(study.submit, on="dev")
    assert (again["submitted"], again["skipped_running"]) == (len(stopped), planned - len(stopped))


def test_a_dry_run_shows_the_arrays_and_prunes_nothing(call, fake_slurm):
    summary = call(study.submit, on="dev", dry_run=True)
    assert summary["dry_run"]
    assert "#SBATCH --array=" in summary["arrays"][0]["script"]
    assert fake_slurm.calls("sbatch") == []
    assert call(study.prune, yes=False)["checkpoints"] == []


def test_the_paper_s_run_needs_its_hours(call, fake_slurm):
    options = {"study": "sweeps.pretrain", "overrides": ["scale=a100"], "on": "a100"}
    with pytest.raises(ValueError, match="above --max-gpu-hours 10"):
        call(study.submit, **options, max_gpu_hours=10.0)
    hours = call(study.submit, **options, max_gpu_hours=1e6)["gpu_hours"]
    totals = call(plan.plan, **options)["totals"]
    assert totals["gpu_hours"] == pytest.approx(hours)
    assert totals["wall_hours"] == pytest.approx(hours / 64)


def test_options_of_a_cluster_are_refused_here(call):
    with pytest.raises(ValueError, match="--dry-run needs a Slurm cluster"):
        call(study.submit, on="local", dry_run=True)


def test_a_study_without_runs_is_refused(call, monkeypatch):
    monkeypatch.setattr(study, "declared", lambda _: [])
    with pytest.raises(ValueError, match="declares no runs"):
        call(study.submit, on="dev")


def test_other_code_is_shown(call, fake_slurm, tmp_path, capsys):
    run_id = call(plan.plan)["runs"][0]["run_id"]
    folder = tmp_path / "runs" / run_id
    folder.mkdir(parents=True)
    (folder / "DONE").write_text("{}")
    (folder / "env.json").write_text('{"code_digest": "0123456789ab"}')
    words = {"study": "sweeps.demo", "overrides": [], "runs": str(tmp_path / "runs"),
             "json": True, "parallel": 0, "detach": False, "on": "dev"}  # fmt: skip
    study.submit(Namespace(**words))
    warning = capsys.readouterr().err
    assert f"1 done runs were made by other code than {study_code()}: {run_id}" in warning


def study_code() -> str:
    from scaling.code_digest import code_digest

    return code_digest()
