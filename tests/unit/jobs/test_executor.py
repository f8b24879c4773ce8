"""The seam: an executor that nobody has heard of runs the verbs, by a line in one dict."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs.cluster import Cluster, load_cluster
from jobs.executor import EXECUTORS, ExecutorAwayError, Order, Submitted
from jobs.handover import choose_runs, prepare
from jobs.queue import read_held
from scaling.cli import main
from scaling.runs.folder import CANCELLED, Run
from scaling.runs.state import Hold, RunStatus
from scaling.spec import RunSpec


class Recorder:
    """An executor that keeps what it is given, and starts nothing."""

    exclusive = False

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.has: dict[str, Hold] = {}
        self.cancelled: list[str] = []
        self.is_away = False

    def submit(
        self, specs: Sequence[RunSpec], runs_dir: Path, cluster: Cluster, order: Order
    ) -> Submitted:
        """Keep the runs that are not in other hands."""
        if self.is_away:
            raise ExecutorAwayError("nobody answers; nothing was submitted")
        self.orders.append(order)
        ours = choose_runs(
            specs, runs_dir, retry_failed=order.retry_failed, held=read_held(runs_dir)
        )
        prepare(ours.todo, runs_dir)
        for spec in ours.todo:
            self.has[spec.run_id] = Hold(executor="recorder", state="queued", job_id="r-1")
        return Submitted(study=specs[0].study, submitted=len(ours.todo), **ours.skipped())

    def held(
        self, runs_dir: Path, *, fresh: bool = False, but: Path | None = None
    ) -> Mapping[str, Hold]:
        """Return what was kept."""
        return self.has

    def cancel(
        self, before: Sequence[RunStatus], runs_dir: Path, *, wait_s: float
    ) -> dict[str, str]:
        """Forget the runs."""
        for status in before:
            self.has.pop(status.run_id)
            self.cancelled.append(status.run_id)
        return {status.run_id: "forgotten" for status in before}


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Recorder:
    """Return the executor behind `--on mine.yaml`."""
    one = Recorder()
    monkeypatch.setitem(EXECUTORS, "recorder", lambda: one)
    (tmp_path / "mine.yaml").write_text("backend: recorder\nname: mine\n")
    monkeypatch.chdir(tmp_path)
    return one


def _ask(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_submit_status_and_cancel_go_through_it(recorder: Recorder, tmp_path, capsys) -> None:
    summary = _ask(capsys, "submit", "sweeps.noise_floor", "--on", "mine.yaml", "--parallel", "3")
    number = summary["submitted"]
    assert number == len(recorder.has) > 1
    assert recorder.orders[0].parallel == 3
    assert recorder.orders[0].then == []
    status = _ask(capsys, "status", "sweeps.noise_floor")
    assert status["counts"] == {"queued": number}
    assert {row["job_id"] for row in status["runs"]} == {"r-1"}
    again = _ask(capsys, "submit", "sweeps.noise_floor", "--on", "mine.yaml")
    assert (again["submitted"], again["skipped_running"]) == (0, number)

    first = status["runs"][0]["run_id"]
    recorder.has[first] = Hold(executor="recorder", state="running", job_id="r-1")
    done = _ask(capsys, "cancel", "sweeps.noise_floor", "--select", f"run_id={first}")
    assert done == [{"run_id": first, "was": "running", "action": "forgotten"}]
    assert recorder.cancelled == [first]
    rest = _ask(capsys, "cancel", "sweeps.noise_floor")
    assert {item["action"] for item in rest if item["run_id"] != first} == {"forgotten"}
    for run_id in recorder.cancelled[1:]:  # waiting ones are marked before they are let go
        failed = Run.of(tmp_path / "runs", run_id).failed()
        assert failed is not None
        assert failed.reason == CANCELLED


def test_what_it_has_ended_decides_for_a_run_without_a_word(recorder, tmp_path, capsys) -> None:
    _ask(capsys, "submit", "sweeps.noise_floor", "--on", "mine.yaml")
    ids = list(recorder.has)
    recorder.has = {
        ids[0]: Hold(executor="recorder", state="ended", became="failed", reason="no fuel"),
        ids[1]: Hold(executor="recorder", state="unreachable", reason="nobody answers"),
    }
    rows = {row["run_id"]: row for row in _ask(capsys, "status", "sweeps.noise_floor")["runs"]}
    assert (rows[ids[0]]["state"], rows[ids[0]]["reason"]) == ("failed", "no fuel")
    assert (rows[ids[1]]["state"], rows[ids[1]]["reason"]) == ("unknown", "nobody answers")


def test_a_search_goes_through_it(recorder: Recorder, tmp_path, capsys, monkeypatch) -> None:
    """Each trial ends at once, with an error that its length decides."""
    keep = recorder.submit

    def submit(specs, runs_dir, cluster, order):
        found = keep(specs, runs_dir, cluster, order)
        for spec in specs:
            recorder.has.pop(spec.run_id, None)
            error = 0.1 + abs(spec.model.soft_prompt_length - 4) / 100
            done = {"step": spec.num_steps, "metrics": {"val/l1": error, "val/l1_sem": 0.01}}
            Run.of(runs_dir, spec.run_id).done_file.write_text(json.dumps(done))
        return found

    monkeypatch.setattr(recorder, "submit", submit)
    words = ["--trials", "4", "--top", "1", "--repeats", "1", "--score", "val_l1", "--no-prune"]
    document = _ask(capsys, "search", "sweeps.prompt_and_window", "--on", "mine.yaml", *words)
    assert document["counts"]["complete"] == 4
    assert all(order.background == () for order in recorder.orders)


def test_an_unknown_backend_names_those_that_there_are(tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text("backend: pbs\n")
    with pytest.raises(ValueError, match=r"backend='pbs' is not known; allowed: local, slurm"):
        load_cluster(str(path))
