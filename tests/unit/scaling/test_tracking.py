"""Reading run folders for publishing: offsets, torn lines, replays, thinning, states, names."""

import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from scaling.cli.arguments import publish as publish_kindly
from scaling.runs.curves import MAX_POINTS, Point, final_points, read_points, thin
from scaling.runs.files import read_json
from scaling.runs.folder import Done
from scaling.spec import RunSpec
from scaling.tracking import publish as tracking
from scaling.tracking.publish import Summary, publish, publish_while, ui_command
from scaling.tracking.run import metric_name, run_name
from scaling.tracking.store import TrackingError, connect, page, without_password


def line(step: int, attempt: int = 1, **values: object) -> str:
    """Return one line of metrics.jsonl."""
    stamp = {"step": step, "num_samples_seen": 4 * step, "time": 10.5 + step, "attempt": attempt}
    return json.dumps({**stamp, **values}) + "\n"


def curve(steps: range, metric: str = "loss/train") -> list[Point]:
    """Return a simulated curve whose value is its step."""
    return [Point(metric, step, step, float(step)) for step in steps]


def test_only_complete_lines_after_the_offset_are_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first, torn = (
        line(1, **{"loss/train": 2.0, "note": "text", "val/l1": None, "flag": True}),
        (line(2, **{"loss/train": 1.5})),
    )
    path.write_text(first + torn[:20])
    points, offset = read_points(path)
    assert points == [Point("loss/train", 1, 11500, 2.0)]
    assert offset == len(first)
    path.write_text(first + torn)
    points, offset = read_points(path, offset)
    assert [point.step for point in points] == [2]
    assert read_points(path, offset) == ([], offset)


def test_a_replaced_file_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1, **{"loss/train": 2.0}))
    points, offset = read_points(path, offset=10_000)
    assert (len(points), offset) == (1, path.stat().st_size)
    assert read_points(tmp_path / "absent.jsonl") == ([], 0)


def test_a_broken_line_is_skipped_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1, x=1.0) + '{"step": 2, "ti\n' + line(3, x=3.0))
    with caplog.at_level(logging.WARNING):
        points, _ = read_points(path)
    assert [point.step for point in points] == [1, 3]
    assert "no metric line" in caplog.text


def test_of_replayed_steps_the_first_counts() -> None:
    replay = [Point("a", step, 0, value) for step, value in ((1, 1.0), (2, 2.0), (2, 2.5), (3, 3))]
    assert [(p.step, p.value) for p in thin(replay, {}, num_steps=10)] == [(1, 1), (2, 2), (3, 3)]
    assert [(p.step, p.value) for p in thin(replay, {"a": 2}, num_steps=10)] == [(3, 3)]
    assert len(thin(replay, {"b": 2}, num_steps=10)) == 3


@pytest.mark.parametrize(("num_steps", "every"), [(100, 1), (200, 1), (1000, 1), (12_345, 20)])
def test_curves_keep_at_most_200_points_and_the_last(num_steps: int, every: int) -> None:
    steps = [*range(0, num_steps, every), num_steps]
    kept = thin([Point("a", step, 0, 0.0) for step in steps], {}, num_steps=num_steps)
    assert len(kept) <= MAX_POINTS
    assert len(kept) >= min(len(steps), 190)
    assert kept[-1].step == num_steps


@pytest.mark.parametrize("block", [1, 7, 333])
def test_thinning_live_picks_the_points_of_thinning_once(block: int) -> None:
    whole = curve(range(0, 5001, 5))
    last: dict[str, int] = {}
    live: list[Point] = []
    for start in range(0, len(whole), block):
        live += thin(whole[start : start + block], last, num_steps=5000)
        last = {"loss/train": live[-1].step}
    assert live == thin(whole, {}, num_steps=5000)


def test_final_points_carry_the_step_of_done() -> None:
    done = Done(step=7, time=2.0, metrics={"val/l1": 0.5, "note": None})
    assert final_points(done, time_s=9.0) == [Point("val/l1", 7, 2000, 0.5)]


def test_a_broken_json_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "DONE").write_text('{"step":')
    with pytest.raises(ValueError, match="DONE is not valid JSON"):
        read_json(tmp_path / "DONE")


def test_refused_characters_leavemetric_names() -> None:
    assert metric_name("val/l1/sim_panda") == "val/l1/sim_panda"
    assert metric_name("wait (%)") == "wait ___"


def test_run_name_shows_axis_values_first() -> None:
    spec = RunSpec(size="tiny", axes={"size": "tiny", "num_domains": 3})
    assert run_name(spec, spec.run_id) == f"tiny num3 s0 {spec.run_id}"


def test_publishing_what_has_not_started_touches_nothing(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    total = publish([RunSpec(study="s")], tmp_path / "runs", tracking_uri=f"sqlite:///{database}")
    assert (total.runs, total.planned) == (0, 1)
    assert list(tmp_path.iterdir()) == []


def rounds(monkeypatch: pytest.MonkeyPatch, outcomes: Sequence[int | Exception]) -> list[int]:
    """Let looks at the run folders end so (a number: of unfinished runs); return those to come."""
    left = list(outcomes)

    def publish_once(*_: object, **__: object) -> Summary:
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return Summary(tracking_uri="simulated://", values=10, unfinished=outcome)

    monkeypatch.setattr(tracking, "_publish_once", publish_once)
    return left


def test_following_warns_once_of_failures_in_a_row_and_ends_with_the_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    away, torn = TrackingError("MLflow is away"), ValueError("DONE is not valid JSON")
    left = rounds(monkeypatch, [2, away, away, 1, torn, OSError("no space"), 0, 7])
    told: list[str] = []
    total = publish(
        [], tmp_path, tracking_uri="simulated://", follow=True, poll_s=0, say=told.append
    )
    assert (total.unfinished, total.values, left) == (0, 30, [7])
    assert [line.partition(": ")[0] for line in told] == ["warning", "warning"]
    assert str(away) in told[0]
    assert str(torn) in told[1]


def test_only_the_first_round_of_following_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    left = rounds(monkeypatch, [TrackingError("MLflow is away"), 0])
    with pytest.raises(TrackingError):
        publish([], "runs", tracking_uri="simulated://", follow=True)
    assert left == [0]


def test_publishing_ends_when_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    left, go = rounds(monkeypatch, [OSError("away"), 1, 1]), iter([True, True, False])
    total = publish_while(lambda: next(go), [], "runs", tracking_uri="simulated://")
    assert total is not None
    assert (total.values, left) == (10, [1])


def test_unknown_and_dead_addresses_are_told(tmp_path: Path) -> None:
    for address in ("mlflow.db", "ftp://x", "file:///x"):
        with pytest.raises(ValueError, match="not of a known form"):
            connect(address)
    (tmp_path / "notes.db").write_text("no database")
    with pytest.raises(ValueError, match=r"notes\.db is not a SQLite database; move it away"):
        connect(f"sqlite:///{tmp_path / 'notes.db'}")
    with pytest.raises(TrackingError, match="cannot make a folder for"):
        connect(f"sqlite:///{tmp_path / 'notes.db' / 'mlflow.db'}")
    with pytest.raises(
        TrackingError, match=r"no MLflow server answers at http://127\.0\.0\.1:9"
    ) as e:
        connect("http://user:secret@127.0.0.1:9")
    assert "secret" not in str(e.value)


def test_a_wrong_address_does_not_spoil_what_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere")
    spec = RunSpec(study="sweeps.simulated")
    spec.save(tmp_path / spec.run_id / "run.yaml")
    assert publish_kindly([spec], tmp_path, quiet=True) is None
    assert "warning: not published to MLflow: tracking address 'nowhere'" in capsys.readouterr().err


def test_addresses_and_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ui_command(f"sqlite:///{tmp_path / 'mlflow.db'}").endswith("sqlite:///mlflow.db")
    assert ui_command("http://user:secret@host:5000/x") == "http://host:5000/x"
    assert without_password("sqlite:////tmp/mlflow.db") == "sqlite:////tmp/mlflow.db"
    assert page("3", "http://host:1/").startswith("http://host:1/#/experiments/3/runs?")
    assert page("3", "sqlite:///x.db").startswith("http://127.0.0.1:5000/#/experiments/3/runs?")


def test_no_heavy_import() -> None:
    code = (
        "import sys, scaling.tracking.publish, scaling.best, scaling.runs.lineage; "
        "print([name for name in ('torch', 'mlflow', 'deepspeed') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
