"""Checks of a LeRobot v3.0 set's content: poses, time stamps, instructions, lengths of videos.

Tables are read a row group at a time, so that a set of any size can be inspected.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from xvla.data.readers.base import Problem
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
        if key == "action" and key not in dataset.data_columns:
            continue
        rows = [np.empty(0, dtype=np.int64)]
        for first, values in dataset.data.blocks(key):
            if key != "action":
                dataset.check_width(values)
            flat = values.reshape(len(values), -1).astype(np.float64)
            rows.append(first + np.flatnonzero(~np.isfinite(flat).all(axis=1)))
        for episode, count, frame in _by_episode(dataset, np.concatenate(rows)):
            message = f"NaN or infinite in {count} frames (first: frame {frame}); record it again"
            yield Problem(file="data", episode=episode, field=key, message=message)


def _time_goes_back(dataset: "LeRobotV3") -> Iterator[Problem]:
    rows = [np.empty(0, dtype=np.int64)]
    before = -np.inf
    for first, values in dataset.data.blocks("timestamp"):
        stamps = values.astype(np.float64).reshape(len(values), -1)[:, 0]
        back = np.diff(stamps, prepend=before) <= 0
        starts = dataset.bounds[:-1] - first
        back[starts[(starts >= 0) & (starts < len(back))]] = False
        rows.append(first + np.flatnonzero(back | ~np.isfinite(stamps)))
        before = stamps[-1] if len(stamps) else before
    for episode, _, frame in _by_episode(dataset, np.concatenate(rows)):
        message = f"time does not advance at frame {frame}; times must increase"
        yield Problem(file="data", episode=episode, field="timestamp", message=message)


def _missing_instructions(dataset: "LeRobotV3") -> Iterator[Problem]:
    for episode in dataset.episodes.without_task():
        message = "the episode has no instruction; every task_index needs a text there"
        yield Problem(
            file="meta/tasks.parquet", episode=int(episode), field="task", message=message
        )


def _short_videos(dataset: "LeRobotV3") -> list[Problem]:
    problems = [
        problem
        for view in dataset.views
        for members in _files(dataset, view)
        if (problem := _short_video(dataset, view, members))
    ]
    return sorted(problems, key=lambda problem: problem.episode or 0)


def _files(dataset: "LeRobotV3", view: str) -> list[np.ndarray]:
    """Return the episodes that share a video file, a file at a time."""
    clips = dataset.slots.clips[view]
    order = np.lexsort((clips.file, clips.chunk))
    places = np.stack([clips.chunk, clips.file])[:, order]
    cuts = np.flatnonzero((np.diff(places) != 0).any(axis=0)) + 1
    return [np.sort(members) for members in np.split(order, cuts)]


def _short_video(dataset: "LeRobotV3", view: str, members: np.ndarray) -> Problem | None:
    path = dataset.video_file(int(members[0]), view)
    name = path.relative_to(dataset.root.absolute()).as_posix()
    try:
        count = count_frames(path, fps=dataset.fps)
    except ValueError as error:
        return Problem(file=name, episode=int(members[0]), field=view, message=str(error))
    first = np.round(dataset.slots.clips[view].start_s[members] * dataset.fps).astype(int)
    ends = first + dataset.slots.lengths[members]
    short = np.flatnonzero(ends > count)
    if not len(short):
        return None
    message = (
        f"the video has {count} frames, the table needs {ends[short[0]]}; copy or record it again"
    )
    return Problem(file=name, episode=int(members[short[0]]), field=view, message=message)


def _by_episode(dataset: "LeRobotV3", rows: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield (episode, number of bad rows, first bad frame) of the episodes that have any."""
    owners = np.searchsorted(dataset.bounds, rows, side="right") - 1
    for episode in np.unique(owners):
        mine = rows[owners == episode]
        yield int(episode), len(mine), int(mine[0] - dataset.bounds[episode])
