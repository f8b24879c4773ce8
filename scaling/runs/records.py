"""Reads what a run leaves in its folder: marker files, attempts and the lines of metrics.jsonl."""

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

MAX_POINTS = 200  # points published of one metric's curve; the whole file is kept beside it
NOT_METRICS = frozenset({"step", "num_samples_seen", "time", "attempt"})
CANCELLED = "cancelled"


class Point(NamedTuple):
    """One value of one metric; `time_ms` is Unix time in milliseconds."""

    metric: str
    step: int
    time_ms: int
    value: float


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, or None when there is no file.

    Raises ValueError naming the file when it is not a JSON object.
    """
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}); delete it and retry the run"
        ) from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {type(value).__name__}, not a JSON object")
    return value


def read_attempts(run_dir: Path) -> list[dict[str, Any]]:
    """Return the attempts of a run, oldest first."""
    records = (read_json(path) for path in sorted((run_dir / "attempts").glob("*.json")))
    return [record for record in records if record]


def file_state(run_dir: Path) -> str:
    """Return planned, queued, running, done, failed or cancelled, judged by files alone.

    A killed process leaves "running": whether one still lives is for `scaling status` to say.
    """
    if (run_dir / "DONE").exists():
        return "done"
    failed = read_json(run_dir / "FAILED")
    if failed is not None:
        return CANCELLED if failed.get("reason") == CANCELLED else "failed"
    if any((run_dir / "attempts").glob("*.json")) or (run_dir / "metrics.jsonl").exists():
        return "running"
    return "queued" if (run_dir / "run.yaml").exists() else "planned"


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
    for line in block.splitlines():
        try:
            points.extend(_line_points(json.loads(line)))
        except (ValueError, KeyError, TypeError):
            logging.getLogger(__name__).warning("%s: skipped a line that is no metric line", path)
    return points, start + len(block)


def final_points(done: Mapping[str, Any]) -> list[Point]:
    """Return the final metrics of a DONE file as points."""
    stamp = {"step": done["step"], "time": done["time"]}
    return _line_points({**done.get("metrics", {}), **stamp})


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


def _line_points(line: Mapping[str, Any]) -> list[Point]:
    step, time_ms = int(line["step"]), round(1000 * line["time"])
    return [
        Point(name, step, time_ms, float(value))
        for name, value in line.items()
        if name not in NOT_METRICS
        and isinstance(value, int | float)
        and not isinstance(value, bool)
    ]
