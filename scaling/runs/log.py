"""What a run writes while it trains: metrics.jsonl, heartbeat.json, attempts; files only."""

import json
import math
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from scaling.config import write_atomic
from scaling.cost import flops_per_step
from scaling.flops import policy_flops
from scaling.runs.records import read_attempts, read_json
from scaling.spec import RunSpec

HEARTBEAT_EVERY_S = 2.0


class RunLog:
    """Appends metric lines and keeps the heartbeat of one attempt; rank 0 only."""

    def __init__(self, run_dir: Path, *, num_steps: int, attempt: int) -> None:
        self.run_dir = run_dir
        self.num_steps = num_steps
        self.attempt = attempt
        self._beat: dict[str, Any] = {"step": 0, "val_l1": None, "samples_per_s": None}
        self._began, self._born = time.monotonic(), born()
        self._next_beat = -math.inf
        self._path = run_dir / "metrics.jsonl"
        _drop_torn_line(self._path)

    def log(self, step: int, num_samples_seen: int, values: Mapping[str, float]) -> None:
        """Append one line; it is in the file (or absent whole) when this returns."""
        line = {
            "step": step,
            "num_samples_seen": num_samples_seen,
            "time": time.time(),
            "attempt": self.attempt,
            **finite(values),
        }
        with open(self._path, "a") as stream:
            stream.write(json.dumps(line) + "\n")
        for key, name in (("val/l1", "val_l1"), ("throughput/samples_per_s", "samples_per_s")):
            if key in values:
                self._beat[name] = values[key]
        if "loss/train" in values:
            self._beat["loss"] = values["loss/train"]

    def beat(self, step: int, phase: str, *, eta_s: float | None = None) -> None:
        """Refresh heartbeat.json, at most every two seconds unless the phase changes.

        `time` is for people; `elapsed_s` and `born` hold whatever is done to the clock.
        """
        now = time.monotonic()
        if phase == self._beat.get("phase") and now < self._next_beat:
            return
        self._next_beat = now + HEARTBEAT_EVERY_S
        self._beat |= {"time": time.time(), "pid": os.getpid(), "host": socket.gethostname()}
        self._beat |= {"step": step, "num_steps": self.num_steps, "phase": phase}
        self._beat |= {"eta_s": eta_s, "attempt": self.attempt}
        self._beat |= {"elapsed_s": now - self._began, "born": self._born}
        write_atomic(self.run_dir / "heartbeat.json", json.dumps(self._beat))


def mfu_percent(spec: RunSpec, samples_per_s: float, peak_flops: float, *, cached: bool) -> float:
    """Return the model's FLOPs as a percentage of what all ranks could do (PaLM, appendix B).

    `peak_flops`: one rank's; `cached`: a frozen encoder's features are looked up, not computed.
    """
    flops = flops_per_step(spec)
    if cached:
        data = spec.data
        views, size, words = data.num_views, data.image_size, data.text_length
        policy = policy_flops(spec.model, views=views, image_size=size, text_len=words)
        flops = 3 * policy * spec.global_batch_size
    rate = flops * samples_per_s / spec.global_batch_size
    return 100 * rate / (peak_flops * spec.resources.world_size)


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """Leave out what JSON cannot say, e.g. a standard error from a single episode."""
    return {name: value for name, value in values.items() if math.isfinite(value)}


class Attempt:
    """attempts/NNNN.json: when and where the run was advanced, and why it stopped."""

    def __init__(self, run_dir: Path, *, num_gpus: int = 0) -> None:
        folder = run_dir / "attempts"
        self._num_gpus, self._began = num_gpus, time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        earlier = sorted(path for path in folder.glob("*.json") if path.stem.isdecimal())
        for path in earlier:
            _close_killed(path, num_gpus)
        self.number = int(earlier[-1].stem) + 1 if earlier else 1
        self._path = folder / f"{self.number:04d}.json"
        self._record: dict[str, Any] = {
            "job_id": os.environ.get("SLURM_JOB_ID") or os.environ.get("SCALING_JOB_ID"),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "born": born(),
            "start": time.time(),
            "start_boot_s": time.clock_gettime(time.CLOCK_BOOTTIME),
            "end": None,
            "seconds": None,
            "reason": None,
            "first_step": None,
            "last_step": None,
            "gpu_hours": None,
        }

    def open(self, first_step: int | None = None) -> None:
        """Write the attempt as running, from `first_step` on; None while it gets ready."""
        self._record["first_step"] = first_step
        write_atomic(self._path, json.dumps(self._record))

    def close(self, *, reason: str, last_step: int) -> None:
        """Write end, reason, the seconds it took (by a clock that no one sets) and GPU-hours."""
        seconds = time.monotonic() - self._began
        self._record |= {"end": time.time(), "reason": reason, "last_step": last_step}
        self._record |= {"seconds": seconds, "gpu_hours": seconds / 3600 * self._num_gpus}
        write_atomic(self._path, json.dumps(self._record))


def total_gpu_hours(run_dir: Path) -> float:
    """Sum the GPU-hours of a run's closed attempts."""
    return sum(record.get("gpu_hours") or 0.0 for record in read_attempts(run_dir))


def born() -> str:
    """Return what no other process ever has: boot id and start in clock ticks since boot.

    scaling.runs.folder.birth says the same of any process. "" where there is no /proc.
    """
    try:
        ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + f"/{ticks}"
    except OSError:
        return ""


def read_heartbeat(run_dir: Path) -> dict[str, Any]:
    """Return heartbeat.json; {} where there is none that can be read: it is a sign of life only."""
    with suppress(ValueError):
        return read_json(run_dir / "heartbeat.json") or {}
    return {}


def _close_killed(path: Path, num_gpus: int) -> None:
    """Close an attempt as of its last heartbeat; without one of its own it took no time."""
    record = read_json(path) or {}
    if record.get("end", 0) is not None:
        return
    last = read_heartbeat(path.parents[1])
    if last.get("attempt") != int(path.stem):
        last = {}
    began = record["first_step"] is not None  # before, the heartbeat has no step of its own
    seconds = last.get("elapsed_s", 0.0)
    record |= {"end": last.get("time", record["start"]), "reason": "killed"}
    record |= {"last_step": last.get("step") if began else None, "seconds": seconds}
    write_atomic(path, json.dumps(record | {"gpu_hours": seconds / 3600 * num_gpus}))


def _drop_torn_line(path: Path) -> None:
    """Cut a last line that a kill left without its newline."""
    if not path.exists():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        with open(path, "r+b") as stream:
            stream.truncate(content.rfind(b"\n") + 1)
