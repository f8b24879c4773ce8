"""What `scaling submit` and its kin refuse: one line, exit code 2, nothing half-submitted."""

import json
import sys
from pathlib import Path

import pytest

from scaling.cli import main

DEMO = ["submit", "sweeps.demo", "--on", "dev"]
WORDS = ["--runs", "runs"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder of its own, where test modules can be imported from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def refused(capsys, words: list[str], *, code: int = 2) -> str:
    """Run a command that must end with `code` and one line; return the line."""
    assert main(words) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    return lines[0]


def counts(capsys) -> dict[str, int]:
    assert main(["status", "sweeps.demo", "--json", *WORDS]) == 0
    return json.loads(capsys.readouterr().out)["counts"]


@pytest.mark.parametrize(
    ("said", "accepted"),
    [
        ("invalid partition specified: gpuu", 0),
        ("Batch job submission failed: Invalid account or account/partition combination", 0),
        ("Batch job submission failed: Invalid job array specification", 2),
    ],
)
def test_what_sbatch_refuses_leaves_nothing(capsys, fake_slurm, said: str, accepted: int) -> None:
    fake_slurm.set(refuse=said, refuse_after=accepted)
    line = refused(capsys, [*DEMO, *WORDS])
    assert line == f"error: cluster dev: sbatch: {said}; nothing was submitted"
    assert len(fake_slurm.calls("sbatch")) == accepted + 1
    assert (
        fake_slurm["jobs"] == {}
        if accepted
        else "jobs" not in json.loads(fake_slurm.path.read_text())
    )
    assert counts(capsys) == {"planned": 22}
    assert not list(Path("runs").glob("*/run.yaml"))  # MLflow and export would call them queued
    fake_slurm.set(refuse="")
    assert main([*DEMO, "--json", *WORDS]) == 0
    assert json.loads(capsys.readouterr().out)["submitted"] == 22


def test_a_study_above_the_cap_leaves_nothing(capsys, folder, fake_slurm) -> None:
    words = ["submit", "sweeps.pretrain", "--on", "a100", "--max-gpu-hours", "10", *WORDS]
    assert "above --max-gpu-hours 10; nothing was submitted" in refused(capsys, words)
    assert not list(folder.glob("runs/*/run.yaml"))
    assert fake_slurm.calls("sbatch") == []


def test_a_chain_to_an_unknown_domain_is_refused_before_anything_runs(
    capsys, folder, fake_slurm
) -> None:
    line = refused(capsys, [*DEMO, "--then", "fit,finetune:mars", *WORDS])
    assert "domain mars: no dataset folder at" in line
    assert "sim_xarm7" in line  # what there is
    assert not (folder / "runs").exists()
    assert fake_slurm.calls("sbatch") == []


def test_more_runs_than_an_array_holds_go_in_several(capsys, fake_slurm) -> None:
    fake_slurm.set(max_array_size=3)
    assert main([*DEMO, "--json", *WORDS]) == 0
    arrays = json.loads(capsys.readouterr().out)["arrays"]
    assert sum(array["runs"] for array in arrays) == 22
    assert max(array["runs"] for array in arrays) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: mine\npartitoin: gpu\n", ["mine.yaml", "partitoin", "Cluster"]),
        ("name: mine\ntime_limit: 1h\n", ["mine.yaml", "time_limit='1h'", "24:00:00"]),
        ("name: [mine\n", ["mine.yaml", "not readable YAML"]),
        ("name: mine\ncontainer: {kind: docker}\n", ["mine.yaml", "docker", "pyxis"]),
    ],
)
def test_a_cluster_file_with_a_typo(capsys, folder, fake_slurm, text: str, words) -> None:
    (folder / "mine.yaml").write_text(text)
    line = refused(capsys, ["submit", "sweeps.demo", "--on", "mine.yaml", *WORDS])
    assert [word for word in words if word not in line] == [], line
    assert not (folder / "runs").exists()


STUDIES = """
from dataclasses import replace
from scaling.study import Study
from sweeps._mixtures import simulated_run, with_axes

def _none():
    return []

def _twice():
    for steps in (1, 2):
        yield with_axes(simulated_run(), cache=steps)

STUDY = Study(name=__name__, description="", varies=(), holds_fixed="",
              runs={"none": _none, "twice": _twice})
"""


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        ("none", ["made_study", "declares no runs with scale=none", "nothing to submit"]),
        ("twice", ["made_study", "cache=1 and cache=2 are the same run", "declare one of them"]),
        ("mars", ["made_study", "no scale 'mars'", "none, twice"]),
    ],
)
def test_a_study_without_runs_or_with_colliding_ids(capsys, folder, fake_slurm, scale, words):
    (folder / "made_study.py").write_text(STUDIES)
    sys.modules.pop("made_study", None)
    for on in ("dev", "local"):
        line = refused(capsys, ["submit", "made_study", f"scale={scale}", "--on", on, *WORDS])
        assert [word for word in words if word not in line] == [], line
    assert not (folder / "runs").exists()
    assert fake_slurm.calls("sbatch") == []


@pytest.mark.parametrize("where", [["--on", "dev"], ["--detach"]])
def test_a_run_made_by_other_code_is_said_and_kept(
    capsys, folder, fake_slurm, monkeypatch, where: list[str]
) -> None:
    def started(specs, runs_dir, **_) -> dict:
        left = [spec for spec in specs if not (runs_dir / spec.run_id / "DONE").exists()]
        return {"study": "sweeps.demo", "submitted": len(left)}

    monkeypatch.setattr("jobs.local.detach.submit_detached", started)
    assert main(["plan", "sweeps.demo", "--json", *WORDS]) == 0
    run_id = json.loads(capsys.readouterr().out)["runs"][0]["run_id"]
    done = folder / "runs" / run_id
    done.mkdir(parents=True)
    (done / "DONE").write_text('{"step": 10, "metrics": {}}')
    (done / "env.json").write_text('{"code_digest": "0123456789ab"}')
    assert main(["submit", "sweeps.demo", *where, "--json", *WORDS]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["submitted"] == 21
    assert captured.err.count("\n") == 1
    assert f"{run_id} (0123456789ab); they are kept, delete their folders" in captured.err


def test_a_journal_of_another_study(capsys, folder) -> None:
    journal = folder / "runs" / "_search" / "sweeps.prompt_and_window" / "journal.log"
    journal.parent.mkdir(parents=True)
    other = {"op_code": 0, "worker_id": "w", "study_name": "sweeps.other", "directions": [1]}
    journal.write_text(json.dumps(other) + "\n")
    line = refused(capsys, ["search", "sweeps.prompt_and_window", "--trials", "1", *WORDS])
    assert "is the journal of study sweeps.other, not of sweeps.prompt_and_window; move it" in line
    assert not list((folder / "runs").glob("*/run.yaml"))
