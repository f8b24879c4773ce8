"""Checks of a LeRobot set's content: poses, time stamps, instructions, lengths of videos."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xvla.data.readers.base import Problem
from xvla.data.readers.tables import to_matrix
from xvla.data.readers.video import count_frames

if TYPE_CHECKING:
    from xvla.data.readers.lerobot_v3 import LeRobotV3


def lerobot_problems(dataset: "LeRobotV3") -> list[Problem]:
    """Return every defect of poses, times, instructions and videos."""
    return [
        *_not_finite(dataset),
        *_time_goes_back(dataset),
        *_missing_instructions(dataset),
        *_short_videos(dataset),
    ]


def _not_finite(dataset: "LeRobotV3") -> Iterator[Problem]:
    for key in ("observation.state", "action"):
        if key not in dataset.table.column_names:
            continue
        values = to_matrix(dataset.root, dataset.table, key)
        bad = ~np.isfinite(values.reshape(len(values), -1).astype(np.float64)).all(axis=1)
        for episode, count, frame in _by_episode(dataset, bad):
            message = f"NaN or infinite in {count} frames (first: frame {frame}); record it again"
            yield Problem(file="data", episode=episode, field=key, message=message)


def _time_goes_back(dataset: "LeRobotV3") -> Iterator[Problem]:
    stamps = to_matrix(dataset.root, dataset.table, "timestamp").astype(np.float64)
    back = np.diff(stamps, prepend=-np.inf) <= 0
    back[dataset.bounds[:-1]] = False
    back |= ~np.isfinite(stamps)
    for episode, _, frame in _by_episode(dataset, back):
        message = f"time does not advance at frame {frame}; times must increase"
        yield Problem(file="data", episode=episode, field="timestamp", message=message)


def _missing_instructions(dataset: "LeRobotV3") -> Iterator[Problem]:
    for episode in dataset.episodes:
        if not episode.task:
            message = "the episode has no instruction; every task_index needs a text there"
            yield Problem(
                file="meta/tasks.parquet", episode=episode.id, field="task", message=message
            )


def _short_videos(dataset: "LeRobotV3") -> Iterator[Problem]:
    counts: dict[Path, int] = {}
    reported: set[Path] = set()
    for episode in dataset.episodes:
        for view in dataset.views:
            path = dataset.video_file(episode.id, view)
            if path in reported:
                continue
            name = str(path.relative_to(dataset.root))
            try:
                counts.setdefault(path, -1)
                if counts[path] < 0:
                    counts[path] = count_frames(path, fps=dataset.fps)
            except ValueError as error:
                reported.add(path)
                yield Problem(file=name, episode=episode.id, field=view, message=str(error))
                continue
            first = round(dataset.slots[episode.id].clips[view].start_s * dataset.fps)
            if counts[path] < first + episode.length:
                reported.add(path)
                message = (
                    f"the video has {counts[path]} frames, the table needs "
                    f"{first + episode.length}; copy or record it again"
                )
                yield Problem(file=name, episode=episode.id, field=view, message=message)


def _by_episode(dataset: "LeRobotV3", bad: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield (episode, number of bad frames, first bad frame) of the episodes that have any."""
    rows = np.flatnonzero(bad)
    owners = np.searchsorted(dataset.bounds, rows, side="right") - 1
    for episode in np.unique(owners):
        mine = rows[owners == episode]
        yield int(episode), len(mine), int(mine[0] - dataset.bounds[episode])
