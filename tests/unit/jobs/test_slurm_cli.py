"""The commands on a study and a cluster, over the fake Slurm."""

import json
import threading
import time

import pytest

from scaling.cli import plan, study
from scaling.cli.arguments import Asked

DEFAULTS = {
    study.submit: {"parallel": 0, "detach": False},
    plan.plan: {"on": None, "html": None, "memory": False},
}


@pytest.fixture
def call(tmp_path, capsys):
    """Return a caller of a command with --json that returns its document."""

    def run(command, **options):
        what = {"study": "sweeps.demo"} | {
            name: options.pop(name) for name in ("study", "overrides") if name in options
        }
        asked = Asked(**what, runs=str(tmp_path / "runs"), json=True)
        assert command(asked, **DEFAULTS.get(command, {}) | options) == 0
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


@pytest.fixture
def under_way(call, fake_slurm, tmp_path):
    """The demo on the fake Slurm: one run at work on another host, one waiting, the rest held."""
    call(study.submit, on="dev")
    running, waiting = call(plan.plan)["runs"][:2]
    folder = tmp_path / "runs" / running["run_id"]
    jobs = fake_slurm["jobs"]
    task = next(iter(jobs))
    fake_slurm.set(jobs=jobs | {task: ["RUNNING", "None"]})
    now = time.time()
    (folder / "attempts").mkdir()
    attempt = {"job_id": task, "host": "node7", "pid": 11, "start": now - 60, "end": None}
    (folder / "attempts" / "0001.json").write_text(json.dumps(attempt))
    beat = {"time": now, "host": "node7", "pid": 11, "step": 250, "num_steps": 500,
            "samples_per_s": 640.0, "eta_s": 90.0, "val_l1": 0.04}  # fmt: skip
    (folder / "heartbeat.json").write_text(json.dumps(beat))
    (folder / "train.log").write_text("step 250\n")
    return {"running": running["run_id"], "waiting": waiting["run_id"], "folder": folder}


def test_the_table_of_a_study_in_slurm(call, under_way, capsys, tmp_path):
    rows = call(study.status, select="state=running", watch=False)["runs"]
    assert [row["run_id"] for row in rows] == [under_way["running"]]
    (row,) = rows
    shown = {key: row[key] for key in ("step", "samples_per_s", "eta_s", "val_l1", "attempts")}
    assert shown == {"step": 250, "samples_per_s": 640.0, "eta_s": 90.0, "val_l1": 0.04,
                     "attempts": 1}  # fmt: skip
    assert row["job_id"]
    asked = Asked(study="sweeps.demo", runs=str(tmp_path / "runs"))
    study.status(asked, select="state=running", watch=False)
    table = capsys.readouterr().out
    assert [part for part in ("250/500  50%", "640.0", "1:30", "0.0400") if part not in table] == []


def test_logs_of_a_run_in_slurm_are_followed_to_its_end(under_way, fake_slurm, capsys, tmp_path):
    def finish() -> None:
        with open(under_way["folder"] / "train.log", "a") as stream:
            stream.write("step 500\n")
        (under_way["folder"] / "DONE").write_text('{"step": 500, "metrics": {}}')

    timer = threading.Timer(0.4, finish)
    timer.start()
    asked = Asked(runs=str(tmp_path / "runs"))
    study.logs(asked, run_id=under_way["running"][:8], follow=True)
    timer.join()
    assert capsys.readouterr().out == "step 250\nstep 500\n"
    with pytest.raises(ValueError, match="has no log, it is queued; wait for its turn"):
        study.logs(asked, run_id=under_way["waiting"], follow=False)


def test_a_selector_reaches_what_runs_in_slurm(call, under_way, fake_slurm):
    (stopped,) = call(study.cancel, select="state=running")
    assert stopped == {"run_id": under_way["running"], "was": "running", "action": "stopping"}
    assert len(fake_slurm.calls("scancel")) == 1
    assert call(study.prune, select="state=queued|cancelled", yes=True)["checkpoints"] == []
    with pytest.raises(ValueError, match=r"matches none of 22 runs \(.*21 queued.*\); keys: "):
        call(study.retry, select="size=0.3b,state=failed")


def test_a_chain_finetunes_from_what_was_submitted(call, fake_slurm, tmp_path):
    words = ["num_steps=7", "optim.betas=[0.9,0.99]"]
    summary = call(study.submit, on="dev", overrides=words, then="fit,finetune:sim_xarm7")
    fit, finetune = (link["command"] for link in summary["chain"])
    assert fit.startswith("fit sweeps.demo num_steps=7 optim.betas=[0.9,0.99] --runs=")
    source = "best:sweeps.demo,num_steps=7,optim.betas=[0.9,0.99]"
    assert finetune.startswith(f"finetune --from {source} --domain sim_xarm7 --runs=")
    script = next((tmp_path / "runs" / "_slurm").glob("*/then-1.sbatch")).read_text()
    assert f"--from '{source}'" in script


def test_a_dry_run_shows_the_arrays_and_prunes_nothing(call, fake_slurm):
    summary = call(study.submit, on="dev", dry_run=True)
    assert summary["dry_run"]
    assert "#SBATCH --array=" in summary["arrays"][0]["script"]
    assert fake_slurm.calls("sbatch") == []
    assert call(study.prune, select="", yes=False)["checkpoints"] == []


def test_the_paper_s_run_needs_its_hours(call, fake_slurm):
    options = {"study": "sweeps.pretrain", "overrides": ["scale=a100"], "on": "a100"}
    with pytest.raises(ValueError, match="above --max-gpu-hours 10"):
        call(study.submit, **options, max_gpu_hours=10.0)
    hours = call(study.submit, **options, max_gpu_hours=1e6)["gpu_hours"]
    totals = call(plan.plan, **options)["totals"]
    assert totals["gpu_hours"] == pytest.approx(hours)
    assert totals["wall_hours"] == pytest.approx(hours / 64)


def test_a_dry_run_here_says_the_same_and_writes_nothing(call, fake_slurm, tmp_path):
    with pytest.raises(ValueError, match="--then needs a Slurm cluster"):
        call(study.submit, on="local", then="fit")
    done = call(plan.plan)["runs"][0]["run_id"]
    (tmp_path / "runs" / done).mkdir(parents=True)
    (tmp_path / "runs" / done / "DONE").write_text('{"step": 10, "metrics": {}}')
    here, there = (call(study.submit, on=name, dry_run=True) for name in ("local", "dev"))
    assert here.keys() == there.keys()
    for key in ("study", "submitted", "skipped_done", "gpu_hours", "dry_run"):
        assert here[key] == there[key], key
    assert (here["submitted"], here["skipped_done"]) == (21, 1)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [done]


def test_a_study_without_runs_is_refused(call, monkeypatch):
    monkeypatch.setattr("scaling.cli.arguments._expanded", lambda *_: [])
    with pytest.raises(ValueError, match="declares no runs"):
        call(study.submit, on="dev")


def test_other_code_is_shown(call, fake_slurm, tmp_path, capsys):
    run_id = call(plan.plan)["runs"][0]["run_id"]
    folder = tmp_path / "runs" / run_id
    folder.mkdir(parents=True)
    (folder / "DONE").write_text('{"step": 10, "metrics": {}}')
    (folder / "env.json").write_text('{"code_digest": "0123456789ab"}')
    asked = Asked(study="sweeps.demo", runs=str(tmp_path / "runs"), json=True)
    study.submit(asked, on="dev", parallel=0)
    warning = capsys.readouterr().err
    assert f"1 done runs were made by other code than {study_code()}: {run_id}" in warning


def study_code() -> str:
    from scaling.code_digest import code_digest

    return code_digest()
