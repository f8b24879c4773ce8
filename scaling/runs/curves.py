"""Curves of a run: the lines of metrics.jsonl as points, and the few of them that are published."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from scaling.runs.files import json_lines
from scaling.runs.folder import Done, Run

MAX_POINTS = 200  # points published of one metric's curve; the whole file is kept beside it
NOT_METRICS = frozenset({"step", "num_samples_seen", "time", "attempt"})


class Point(NamedTuple):
    """One value of one metric; `time_ms` is Unix time in milliseconds."""

    metric: str
    step: int
    time_ms: int
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricLine:
    """One line of metrics.jsonl: metrics by name as they stand at a step; `time` in unix s."""

    step: int
    num_samples_seen: float | None
    time: float | None
    values: dict[str, float]


def metric_lines(run: Run) -> list[MetricLine]:
    """Return the whole lines of metrics.jsonl; what is no metric line is left out."""
    if not run.metrics_file.exists():
        return []
    found = (_line(content) for content in json_lines(run.metrics_file.read_bytes()))
    return [line for line in found if line is not None]


def numbers(content: Mapping[str, Any]) -> dict[str, float]:
    """Return what is a metric of a line or of DONE: a number under a name of its own."""
    return {
        name: float(value)
        for name, value in content.items()
        if name not in NOT_METRICS
        and isinstance(value, int | float)
        and not isinstance(value, bool)  # which is an int in Python
    }


def read_points(path: Path, offset: int = 0) -> tuple[list[Point], int]:
    """Return the points of the complete lines after byte `offset`, and the offset behind them.

    A file shorter than `offset` was replaced and is read from its start.
    """
    if not path.exists():
        return [], 0
    with open(path, "rb") as stream:
        size = stream.seek(0, 2)
        start = offset if offset <= size else 0
        stream.seek(start)
        block = stream.read()
    block = block[: block.rfind(b"\n") + 1]
    points: list[Point] = []
    for content in json_lines(block):
        line = _line(content)
        if line is not None and line.time is not None:
            points.extend(_points(line.step, line.time, line.values))
        else:
            logging.getLogger(__name__).warning("%s: skipped a line that is no metric line", path)
    return points, start + len(block)


def final_points(done: Done, *, time_s: float) -> list[Point]:
    """Return the final metrics of a run as points; `time_s`: when, where DONE does not say."""
    return _points(done.step, done.time or time_s, numbers(done.metrics))


def thin(points: Iterable[Point], last: Mapping[str, int], *, num_steps: int) -> list[Point]:
    """Return the points to publish after those at step `last[metric]`, at most 200 a curve.

    The steps are cut into equal buckets that depend on `num_steps` only, and the first point of
    each is kept, and the last step always; so publishing while a run goes on picks the same points
    as publishing at its end. Of a replayed step the first line counts: a publisher that was killed
    may have sent it without leaving a record, and a later one would stand beside it.
    """
    reached = dict(last)
    kept = []
    for point in points:
        before = reached.get(point.metric)
        if before is None or _bucket(point.step, num_steps) > _bucket(before, num_steps):
            kept.append(point)
            reached[point.metric] = point.step
    return kept


def _bucket(step: int, num_steps: int) -> int:
    if step >= num_steps:
        return MAX_POINTS - 1
    return step * (MAX_POINTS - 1) // num_steps


def _line(content: dict[str, Any] | None) -> MetricLine | None:
    """Return what a line of the log says, None for one that is not of metrics."""
    if content is None or not isinstance(content.get("step"), int):
        return None
    return MetricLine(
        step=content["step"],
        num_samples_seen=_number(content.get("num_samples_seen")),
        time=_number(content.get("time")),
        values=numbers(content),
    )


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) else None


def _points(step: int, time_s: float, values: Mapping[str, float]) -> list[Point]:
    time_ms = round(1000 * time_s)
    return [Point(name, step, time_ms, value) for name, value in values.items()]
