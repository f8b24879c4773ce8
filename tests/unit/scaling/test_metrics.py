"""metrics.jsonl, heartbeat and attempts: whole lines, valid JSON, killed attempts closed."""

import json

import pytest

from scaling.runs.attempts import AttemptFile, total_gpu_hours
from scaling.runs.folder import Run
from scaling.runs.log import RunLog


def test_lines_are_whole_and_valid(tmp_path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    log = RunLog(Run(tmp_path), num_steps=10, attempt=2)
    log.log(2, 32, {"loss/train": 0.5, "val/l1_sem": float("nan")})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[1]["attempt"] == 2
    assert "val/l1_sem" not in lines[1]


def test_heartbeat_carries_the_last_validation(tmp_path) -> None:
    log = RunLog(Run(tmp_path), num_steps=10, attempt=1)
    log.log(5, 80, {"val/l1": 0.25, "throughput/samples_per_s": 3.0})
    log.beat(5, "train", eta_s=9.0)
    beat = json.loads((tmp_path / "heartbeat.json").read_text())
    assert (beat["val_l1"], beat["step"], beat["num_steps"]) == (0.25, 5, 10)
    log.beat(6, "train")
    assert json.loads((tmp_path / "heartbeat.json").read_text())["step"] == 5  # within 2 s
    log.beat(6, "save")
    assert json.loads((tmp_path / "heartbeat.json").read_text())["phase"] == "save"


def test_attempts_are_numbered_and_the_killed_one_is_closed(tmp_path) -> None:
    first = AttemptFile(Run(tmp_path))
    first.open(0)
    second = AttemptFile(Run(tmp_path), num_gpus=8)
    assert second.number == 2
    killed = json.loads((tmp_path / "attempts" / "0001.json").read_text())
    assert killed["reason"] == "killed"
    second.open(3)
    second.close(reason="done", last_step=9)
    record = json.loads((tmp_path / "attempts" / "0002.json").read_text())
    assert (record["first_step"], record["last_step"], record["reason"]) == (3, 9, "done")
    assert total_gpu_hours(Run(tmp_path)) == record["gpu_hours"] + killed["gpu_hours"] >= 0


def test_utilisation_counts_what_is_computed() -> None:
    from scaling.cost import flops_per_step, mfu_percent
    from sweeps._mixtures import simulated_run

    spec = simulated_run("tiny")
    peak = flops_per_step(spec)  # a device that does one step a second
    whole = mfu_percent(spec, spec.global_batch_size, peak, cached=False)
    assert whole == pytest.approx(100.0)
    assert mfu_percent(spec, spec.global_batch_size / 2, peak, cached=False) == whole / 2
    assert 0 < mfu_percent(spec, spec.global_batch_size, peak, cached=True) < whole


def test_an_attempt_killed_while_it_got_ready_is_counted(tmp_path) -> None:
    """Its heartbeat says step 0, of which the run may be long past."""
    first = AttemptFile(Run(tmp_path), num_gpus=8)
    first.open()
    log = RunLog(Run(tmp_path), num_steps=10, attempt=1)
    log.beat(0, "start")
    beat = json.loads((tmp_path / "heartbeat.json").read_text())
    (tmp_path / "heartbeat.json").write_text(json.dumps(beat | {"elapsed_s": 36.0}))
    assert AttemptFile(Run(tmp_path), num_gpus=8).number == 2
    killed = json.loads((tmp_path / "attempts" / "0001.json").read_text())
    assert (killed["reason"], killed["first_step"], killed["last_step"]) == ("killed", None, None)
    assert killed["gpu_hours"] == pytest.approx(0.08)


def test_garbage_beside_an_attempt(tmp_path) -> None:
    AttemptFile(Run(tmp_path)).open(0)
    (tmp_path / "heartbeat.json").write_text("{")
    (tmp_path / "attempts" / "notes.json").write_text("{}")
    assert AttemptFile(Run(tmp_path)).number == 2
    path = tmp_path / "attempts" / "0001.json"
    assert json.loads(path.read_text())["reason"] == "killed"
    path.write_text("{")
    assert AttemptFile(Run(tmp_path)).number == 2  # what cannot be read stays as it is
    assert path.read_text() == "{"
