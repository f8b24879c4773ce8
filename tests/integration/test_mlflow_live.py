"""Publishing beside training and other programs: live, killed, without a tracker, one at a time."""

import fcntl
import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from scaling.cli.publisher import published_live
from scaling.tracking.ledger import Ledger, PublishedRun, PublishedStudy
from scaling.tracking.publish import find_run, publish
from scaling.tracking.store import connect
from scaling.tracking.sweep import report_mark

sys.path.insert(0, str(Path(__file__).parent))  # for the module beside this file

from mlflow_helpers import (
    QUIET,
    STUDY,
    make_spec,
    num_values,
    publisher,
    small_study,
    write_done,
)

pytestmark = pytest.mark.integration


def wait_until(condition, *, within_s: float, what: str) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def followers(pid: int) -> list[str]:
    """Return the processes that publish for a submission."""
    pattern = f"scaling.cli.publisher {pid} "
    return subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True).stdout.split()


def test_metrics_appear_before_the_runs_end_and_a_kill_leaves_them_whole(tmp_path: Path) -> None:
    environment, runs = small_study(tmp_path, num_steps=20_000), tmp_path / "runs"
    scaling = [sys.executable, "-m", "scaling"]
    words = ["small_study", "--runs", str(runs)]
    with open(tmp_path / "submit.log", "wb") as log:
        submit = subprocess.Popen(
            [*scaling, "submit", *words, "--parallel", "2"],
            cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(
            lambda: num_values(tmp_path / "mlflow.db") or submit.poll() is not None,
            within_s=300,
            what="no value in MLflow",
        )
        assert submit.poll() is None, (tmp_path / "submit.log").read_text()
        assert not list(runs.glob("*/DONE"))
    finally:
        submit.kill()
        submit.wait()
    wait_until(lambda: not followers(submit.pid), within_s=300, what="the publisher stays")
    wait_until(
        lambda: all(json.loads(path.read_text())["end"] for path in runs.glob("*/attempts/*.json")),
        within_s=300,
        what="the runs, whose submission was killed, do not save and leave",
    )
    synced = subprocess.run(
        [*scaling, "sync", *words, "--json"],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert synced.returncode == 0, synced.stderr
    client = connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small_study")
    found = client.search_runs([experiment.experiment_id], "tags.run_key LIKE '%'")
    assert [run.info.status for run in found] == ["RUNNING", "RUNNING"]  # not done
    for run in found:
        file = runs / run.data.tags["run_key"] / "metrics.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        logged = {(line["step"], line["loss/train"]) for line in lines if "loss/train" in line}
        points = client.get_metric_history(run.info.run_id, "loss/train")
        assert points
        assert {(point.step, point.value) for point in points} <= logged
        assert len({point.step for point in points}) == len(points)


def test_a_dead_tracker_is_one_warning_and_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in small_study(tmp_path, num_steps=2).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.syspath_prepend(tmp_path)
    from scaling.study import load_study

    write_done(tmp_path / "runs", load_study("small_study").expand("cpu")[0])
    warning = "warning: not published while it runs: no MLflow server answers"
    told: list[str] = []

    def has_warned() -> bool:
        told.append(capfd.readouterr().err)
        return warning in "".join(told)

    with published_live("small_study", [], tmp_path / "runs"):
        assert not has_warned()  # the block does not wait for the first look at the tracker
        wait_until(has_warned, within_s=300, what="no warning")
        assert followers(os.getpid())  # it goes on trying
    assert not followers(os.getpid())  # and is not waited for
    assert "".join(told).count("warning") == 1, told


def test_a_second_publisher_says_that_it_waits(tmp_path: Path) -> None:
    write_done(tmp_path / "runs", make_spec(0))
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    connect(uri)
    with open(tmp_path / "runs" / ".publish.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = publisher(tmp_path / "runs", uri)
        assert second.stderr is not None
        assert "another program is publishing" in second.stderr.readline()
        assert second.poll() is None
        assert num_values(tmp_path / "mlflow.db") == 0
    out, _ = second.communicate(timeout=600)
    assert int(out.split()[1]) > 0


def test_a_database_is_one_file_after_publishing_and_readable_meanwhile(tmp_path: Path) -> None:
    specs = [make_spec(seed) for seed in range(2)]
    for spec in specs:
        write_done(tmp_path / "runs", spec)
    database = tmp_path / "mlflow.db"
    (tmp_path / ".mlflow.db.new").write_bytes(b"left by a kill")
    publish(specs[:1], tmp_path / "runs", tracking_uri=f"sqlite:///{database}")
    with closing(sqlite3.connect(database)) as reader:  # as MLflow's page does
        assert reader.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        before = reader.execute("SELECT count(*) FROM metrics").fetchone()[0]
        publish(specs, tmp_path / "runs", tracking_uri=f"sqlite:///{database}")
        assert reader.execute("SELECT count(*) FROM metrics").fetchone()[0] == 2 * before
    expected = {"runs", "mlflow.db", "mlflow.db.lock", "mlflow.db.artifacts"}
    assert {path.name for path in tmp_path.iterdir()} == expected


def held(uri: str, study: str) -> dict[str, tuple[str, str, bool]]:
    """Return run key -> status, study and whether it hangs on its own study's parent run."""
    client = connect(uri)
    experiment = client.get_experiment_by_name(study)
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run.info.run_id for run in runs if run.data.tags.get("sweep") == study]
    children = [run for run in runs if "run_key" in run.data.tags]
    assert len({run.data.tags["run_key"] for run in children}) == len(children)
    return {
        run.data.tags["run_key"]: (
            run.info.status,
            run.data.tags["study"],
            run.data.tags["mlflow.parentRunId"] == parent,
        )
        for run in children
    }


def test_studies_that_share_a_run_each_keep_a_child_of_it(tmp_path: Path) -> None:
    runs, uri = tmp_path / "runs", f"sqlite:///{tmp_path / 'mlflow.db'}"
    shared = {study: replace(make_spec(0), study=study) for study in ("simulated_a", "simulated_b")}
    (run_id,) = {spec.run_id for spec in shared.values()}
    folder = write_done(runs, shared["simulated_a"])
    done = (folder / "DONE").read_text()
    (folder / "DONE").unlink()
    for spec in shared.values():
        assert publish([spec], runs, tracking_uri=uri).new_runs == 1
    (folder / "DONE").write_text(done)  # the run goes on and ends
    for spec in shared.values():
        assert publish([spec], runs, tracking_uri=uri).new_runs == 0
    for study in shared:
        assert held(uri, study) == {run_id: ("FINISHED", study, True)}
    together = publish(shared.values(), runs, tracking_uri=uri)
    assert (together.runs, together.values, together.unfinished) == (2, 0, 0)
    assert set(together.pages) == set(shared)


def test_a_run_shared_with_a_study_published_before_is_found(tmp_path: Path) -> None:
    runs, uri = tmp_path / "runs", f"sqlite:///{tmp_path / 'mlflow.db'}"
    others = {study: replace(make_spec(1), study=study) for study in ("simulated_a", "simulated_b")}
    own = replace(make_spec(0), study="simulated_a")
    for spec in (own, others["simulated_a"]):
        write_done(runs, spec)
    publish([own], runs, tracking_uri=uri)  # the experiment is there, without the shared run
    publish([others["simulated_b"]], runs, tracking_uri=uri)
    assert publish([own, others["simulated_a"]], runs, tracking_uri=uri).new_runs == 1
    found = find_run(connect(uri), others["simulated_a"])
    assert held(uri, "simulated_a")[found.data.tags["run_key"]] == ("FINISHED", "simulated_a", True)


def test_a_run_that_mlflow_lost_comes_back_after_others_were_published(tmp_path: Path) -> None:
    runs, uri = tmp_path / "runs", f"sqlite:///{tmp_path / 'mlflow.db'}"
    specs = [make_spec(seed) for seed in range(3)]
    for spec in specs:
        write_done(runs, spec)
    (runs / specs[2].run_id / "DONE").unlink()
    publish(specs, runs, tracking_uri=uri)
    client = connect(uri)
    client.delete_run(find_run(client, specs[1]).info.run_id)
    for again in (specs[:1], specs[:1], specs):
        (runs / specs[0].run_id / "env.json").touch()
        publish(again, runs, tracking_uri=uri)
        (parent,) = client.search_runs(
            [find_run(client, specs[0]).info.experiment_id], f"tags.sweep = '{STUDY}'"
        )
        assert parent.info.status == "RUNNING"  # as one of its runs still is
    assert find_run(client, specs[1]).info.status == "FINISHED"


def test_the_report_is_kept_on_the_parent_run(tmp_path: Path) -> None:
    spec, uri = make_spec(0), f"sqlite:///{tmp_path / 'mlflow.db'}"
    write_done(tmp_path / "runs", spec)
    publish([spec], tmp_path / "runs", tracking_uri=uri)
    report = tmp_path / "reports" / STUDY / "report.html"
    report.parent.mkdir(parents=True)
    client = connect(uri)
    for text in ("<p>first</p>", "<p>the second</p>"):
        report.write_text(text)
        publish([spec], tmp_path / "runs", tracking_uri=uri)
        experiment = client.get_experiment_by_name(STUDY)
        (parent,) = client.search_runs([experiment.experiment_id], f"tags.sweep = '{STUDY}'")
        kept = client.download_artifacts(parent.info.run_id, "report/report.html")
        assert Path(kept).read_text() == text
    out, errors = publisher(tmp_path / "runs", uri).communicate()
    assert out.split() == ["ready", "0", "False"], errors


def test_a_thousand_published_runs_are_answered_without_mlflow(tmp_path: Path) -> None:
    base, runs = make_spec(0), tmp_path / "runs"
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    specs = [replace(base, seeds=replace(base.seeds, init=number)) for number in range(1000)]
    for spec in specs:
        (runs / spec.run_id / "attempts").mkdir(parents=True)
        spec.save(runs / spec.run_id / "run.yaml")
        (runs / spec.run_id / "metrics.jsonl").write_text("")
        (runs / spec.run_id / "DONE").write_text('{"step": 1, "time": 1.0, "metrics": {}}')
    client = connect(uri)
    client.create_experiment(STUDY)
    ledger = Ledger(runs, uri)  # as a publisher leaves it
    published = {
        spec.run_id: PublishedRun(
            mlflow_id="simulated",
            status="FINISHED",
            mark=ledger.run_mark(spec, spec.run_id),
            last={f"metric/{number}": (1, 0.5) for number in range(20)},
        )
        for spec in specs
    }
    with ledger.writing():
        held = PublishedStudy(
            experiment_id="1",
            parent_id="simulated",
            report=report_mark(runs, STUDY),
            runs=published,
        )
        ledger.remember(STUDY, held)
    code = (
        "import sys; from pathlib import Path\n"
        "from dataclasses import replace; from scaling.spec import load_spec\n"
        "from scaling.tracking.publish import publish\n"
        "base = load_spec(next(Path(sys.argv[1]).glob('*/run.yaml')))\n"
        "specs = [replace(base, seeds=replace(base.seeds, init=n)) for n in range(1000)]\n"
        "ids, opened, science = [], [], type(base).scientific\n"
        "def note(event, words):\n"
        "    if event == 'open' and str(words[0]).startswith(sys.argv[1]):\n"
        "        opened.append(Path(words[0]).parent.name)\n"
        "sys.addaudithook(note)\n"
        "type(base).scientific = lambda spec: ids.append(spec) or science(spec)\n"
        "total = publish(specs, sys.argv[1], tracking_uri=sys.argv[2])\n"
        "heavy = [name for name in ('mlflow', 'torch', 'sqlalchemy') if name in sys.modules]\n"
        "print(total.runs, total.values, heavy, len(ids), opened)\n"
    )
    command = [sys.executable, "-c", code, str(runs), uri]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | QUIET
    )
    num_runs, values, heavy, ids, opened = done.stdout.split(maxsplit=4)
    assert (num_runs, values, heavy) == ("1000", "0", "[]")
    assert ids == "1000"  # each run is named once
    assert opened == "['_publish']\n"  # and none of its files is read
