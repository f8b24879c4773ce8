"""What a run writes while it trains: lines of metrics.jsonl, and the heartbeat."""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scaling.runs.files import write_json
from scaling.runs.folder import Run
from scaling.runs.process import birth, this_host

HEARTBEAT_EVERY_S = 2.0


class RunLog:
    """Appends metric lines and keeps the heartbeat of one attempt; rank 0 only."""

    def __init__(self, run: Run, *, num_steps: int, attempt: int) -> None:
        """Go on behind the last whole line that an earlier attempt has written."""
        self.run = run
        self.num_steps = num_steps
        self.attempt = attempt
        self._beat: dict[str, Any] = {"step": 0, "val_l1": None, "samples_per_s": None}
        self._began, self._born = time.monotonic(), birth(os.getpid()) or ""
        self._next_beat = -math.inf
        _drop_torn_line(run.metrics_file)

    def log(self, step: int, num_samples_seen: int, values: Mapping[str, float]) -> None:
        """Append one line; it is in the file (or absent whole) when this returns."""
        line = {
            "step": step,
            "num_samples_seen": num_samples_seen,
            "time": time.time(),
            "attempt": self.attempt,
            **finite(values),
        }
        with open(self.run.metrics_file, "a") as stream:
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
        self._beat |= {"time": time.time(), "pid": os.getpid(), "host": this_host()}
        self._beat |= {"step": step, "num_steps": self.num_steps, "phase": phase}
        self._beat |= {"eta_s": eta_s, "attempt": self.attempt}
        self._beat |= {"elapsed_s": now - self._began, "born": self._born}
        write_json(self.run.heartbeat_file, self._beat)


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """Leave out what JSON cannot say, e.g. a standard error from a single episode."""
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _drop_torn_line(path: Path) -> None:
    """Cut a last line that a kill left without its newline."""
    if not path.exists():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        with open(path, "r+b") as stream:
            stream.truncate(content.rfind(b"\n") + 1)
