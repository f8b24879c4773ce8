"""Finding, selecting and reading runs by hand."""

import io
import json
import threading
import time

import pytest

from jobs.control import cancel, find_run, select
from jobs.handover import prepare
from jobs.local import queue
from jobs.status import status_row, study_status
from scaling.cli.run_log import PROGRESS_EVERY_S, print_log
from scaling.runs.files import write_json
from scaling.runs.folder import Run
from scaling.runs.process import this_host
from scaling.runs.state import RunStatus
from scaling.spec import RunSpec


@pytest.fixture
def three(tmp_path):
    """Three run folders, two with a common beginning, and folders that are no runs."""
    for name in ("abc000000000", "abd000000000", "f00000000000", "_local", "abc-not-a-run"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_a_run_is_found_by_its_first_digits(three):
    assert find_run("f", three).run_id == "f00000000000"
    assert find_run("abc", three).run_id == "abc000000000"


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("ab", "ambiguous.*abc000000000, abd000000000; give more digits"),
        ("9", "no run '9' in .*scaling status"),
        ("", "no run ''"),
        ("_local", "no run '_local'"),
        ("*", r"no run '\*'"),
    ],
)
def test_what_names_no_single_run_is_refused(three, prefix, message):
    with pytest.raises(ValueError, match=message):
        find_run(prefix, three)


def row(run_id, state, **axes):
    spec = RunSpec(axes=axes)
    status = RunStatus(run_id=run_id, state=state, step=5)
    return status_row(spec, status)


ROWS = [
    row("a0", "failed", size="tiny", lr=1e-3),
    row("b0", "done", size="tiny", lr=1e-4),
    row("b1", "failed", size="50m", lr=1e-4),
]


@pytest.mark.parametrize(
    ("selector", "ids"),
    [
        ("size=tiny,state=failed", ["a0"]),
        ("state=failed", ["a0", "b1"]),
        ("size=tiny|50m", ["a0", "b0", "b1"]),
        ("lr=0.0001", ["b0", "b1"]),
        ("run_id=b", ["b0", "b1"]),
        ("state=running", []),
        ("", ["a0", "b0", "b1"]),
    ],
)
def test_selectors(selector, ids):
    assert [found.run_id for found in select(ROWS, selector)] == ids


def test_broken_selectors_are_refused():
    with pytest.raises(ValueError, match="selector 'failed' is not of the form key=value"):
        select(ROWS, "failed")
    with pytest.raises(
        ValueError, match=r"'colour' is unknown; allowed: attempts, .*, lr, .*, size"
    ):
        select(ROWS, "colour=red")


def test_labels_of_the_specs_can_be_selected(tmp_path, make_spec):
    specs = [make_spec(0), make_spec(1)]
    rows = study_status(specs, tmp_path).runs
    assert len(select(rows, "size=tiny,stage=pretrain", specs)) == 2
    assert select(rows, "seed=1,scale=cpu", specs)[0].run_id == specs[1].run_id


def test_the_log_is_printed_and_followed_to_the_end(tmp_path, make_spec):
    spec = make_spec()
    run = Run.of(tmp_path, spec.run_id)
    prepare([spec], tmp_path)
    with pytest.raises(ValueError, match="has no log, it is planned; submit it first"):
        print_log(run, io.StringIO())
    log = tmp_path / spec.run_id / "train.log"
    log.write_text("first\n")
    out = io.StringIO()
    print_log(run, out)
    assert out.getvalue() == "first\n"

    path = queue.queue_path(tmp_path)
    queue.write_queue(path, [spec.run_id])

    def write_later() -> None:
        with open(log, "a") as stream:
            stream.write("last\n")
        path.unlink()

    timer = threading.Timer(0.3, write_later)
    timer.start()
    out = io.StringIO()
    print_log(run, out, follow=True)
    timer.join()
    assert out.getvalue() == "first\nlast\n"


def test_a_followed_run_that_prints_nothing_says_how_far_it_is(tmp_path, make_spec, monkeypatch):
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] > 5 * PROGRESS_EVERY_S:
            path.unlink()

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    spec = make_spec()
    run = Run.of(tmp_path, spec.run_id)
    prepare([spec], tmp_path)
    folder, path = tmp_path / spec.run_id, queue.queue_path(tmp_path)
    (folder / "train.log").write_text("starts\n")
    beat = {"step": 4, "num_steps": 10, "samples_per_s": 32.0, "phase": "train", "val_l1": 0.5}
    (folder / "heartbeat.json").write_text(json.dumps(beat))
    queue.write_queue(path, [spec.run_id])
    out = io.StringIO()
    print_log(run, out, follow=True)
    first, *told = out.getvalue().splitlines()
    assert first == "starts"
    assert [line.partition("] ")[2] for line in told] == ["step 4/10 32 samples/s val l1 0.5000"]


def test_a_run_on_another_host_is_not_marked_cancelled(tmp_path, make_spec):
    spec = make_spec()
    prepare([spec], tmp_path)
    beat = {"time": time.time(), "pid": 1, "host": f"not-{this_host()}", "step": 1}
    write_json(tmp_path / spec.run_id / "heartbeat.json", beat)
    result = cancel([spec], tmp_path)[0]
    assert result.was == "running"
    assert result.action == f"not reachable: cancel it on host not-{this_host()}"
    assert not (tmp_path / spec.run_id / "FAILED").exists()
