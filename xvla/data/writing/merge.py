"""Joins complete LeRobot v3.0 sets of one robot into one set, a file of each for a file of all."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xvla.data.writing.lerobot import (
    DATA_PATH,
    EPISODES_PATH,
    FIRST,
    VIDEO_PATH,
    aside,
    split_spans,
    tasks_table,
    write_frames_table,
    write_json,
)

FILES_PER_CHUNK = 1000


def merge_datasets(
    parts: Sequence[Path],
    target: Path,
    *,
    splits: Mapping[str, int],
    extra_info: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the episodes of `parts`, in their order, as one set at `target`; return its info.json.

    The parts (as `write_dataset` writes them: one file each) are left as they are; their videos
    are linked where the file system can. `splits` gives episode counts in order.

    Raises:
        ValueError: an existing target, or splits that do not add up.
    """
    with aside(target) as root:
        tasks: dict[str, int] = {}
        rows: list[dict[str, Any]] = []
        for number, part in enumerate(parts):
            rows += _take(root, part, number, tasks, rows)
        if sum(splits.values()) != len(rows):
            raise ValueError(f"splits {dict(splits)} must add up to {len(rows)} episodes")
        info = _read_json(parts[0] / "meta/info.json")
        info |= {
            "total_episodes": len(rows),
            "total_frames": rows[-1]["dataset_to_index"],
            "total_tasks": len(tasks),
            "splits": split_spans(splits),
            **(extra_info or {}),
        }
        episodes = root / EPISODES_PATH.format(**FIRST)
        episodes.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), episodes, compression="zstd")
        pq.write_table(tasks_table(tasks), root / "meta/tasks.parquet")
        write_json(root / "meta/info.json", info)
        stats = [_read_json(part / "meta/stats.json") for part in parts]
        write_json(root / "meta/stats.json", {key: _pooled(stats, key) for key in stats[0]})
    return info


def _take(
    root: Path,
    part: Path,
    number: int,
    tasks: dict[str, int],
    before: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Bring one part's files over; return its rows of meta/episodes, renumbered."""
    place = {"chunk_index": number // FILES_PER_CHUNK, "file_index": number % FILES_PER_CHUNK}
    frames = before[-1]["dataset_to_index"] if before else 0
    table = pq.read_table(part / DATA_PATH.format(**FIRST), partitioning=None)
    target = root / DATA_PATH.format(**place)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_frames_table(_renumbered(table, len(before), frames, _task_map(part, tasks)), target)
    rows = pq.read_table(part / EPISODES_PATH.format(**FIRST), partitioning=None).to_pylist()
    for row in rows:
        row["episode_index"] += len(before)
        row["dataset_from_index"] += frames
        row["dataset_to_index"] += frames
        for key in row:
            if key.startswith(("data/", "videos/")) and key.endswith(tuple(place)):
                row[key] = place[key.rsplit("/", 1)[1]]
    for view in (key.split("/")[1] for key in rows[0] if key.endswith("/from_timestamp")):
        _link(
            part / VIDEO_PATH.format(video_key=view, **FIRST),
            root / VIDEO_PATH.format(video_key=view, **place),
        )
    return rows


def _task_map(part: Path, tasks: dict[str, int]) -> np.ndarray:
    """Return the number in `tasks` (grown here) of each of the part's task numbers."""
    own = pq.read_table(part / "meta/tasks.parquet").to_pylist()
    mapped = np.zeros(len(own), dtype=np.int64)
    for row in sorted(own, key=lambda row: row["task_index"]):
        mapped[row["task_index"]] = tasks.setdefault(row["task"], len(tasks))
    return mapped


def _renumbered(table: pa.Table, episodes: int, frames: int, tasks: np.ndarray) -> pa.Table:
    """Return a table of frames whose index columns count on from what came before."""
    new = {
        "episode_index": table["episode_index"].to_numpy() + episodes,
        "index": table["index"].to_numpy() + frames,
        "task_index": tasks[table["task_index"].to_numpy()],
    }
    for name, values in new.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    return table


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _pooled(stats: Sequence[dict[str, Any]], key: str) -> dict[str, Any]:
    """Return the statistics of one feature over all parts."""
    counts = np.array([part[key]["count"][0] for part in stats], dtype=np.float64)
    share = counts / counts.sum()
    moments = {name: np.array([part[key][name] for part in stats]) for name in stats[0][key]}
    mean = np.tensordot(share, moments["mean"], axes=1)
    square = np.tensordot(share, moments["std"] ** 2 + moments["mean"] ** 2, axes=1)
    return {
        "min": moments["min"].min(axis=0).tolist(),
        "max": moments["max"].max(axis=0).tolist(),
        "mean": mean.tolist(),
        "std": np.sqrt(np.maximum(square - mean**2, 0.0)).tolist(),
        "count": [int(counts.sum())],
    }


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
