"""Checks of a LeRobot v3.0 set's content: poses, time stamps, instructions, lengths of videos.

Tables are read a row group at a time, so that a set of any size can be inspected.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from xvla.data.readers.base import Problem
from xvla.data.readers.poses import rotation_area
from xvla.data.readers.video import count_frames
from xvla.data.rotation import MIN_NORM

if TYPE_CHECKING:
    from xvla.data.readers.lerobot_v3 import LeRobotV3


def lerobot_problems(dataset: "LeRobotV3") -> list[Problem]:
    """Return every defect of poses, times, instructions and videos."""
    return [
        *_not_finite(dataset),
        *_no_rotation(dataset),
        *_time_goes_back(dataset),
        *_missing_instructions(dataset),
        *_bad_videos(dataset),
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
            yield _row_problem(dataset, episode, key, message)


def _no_rotation(dataset: "LeRobotV3") -> Iterator[Problem]:
    """Yield the episodes in which an arm that is used has no rotation in some frame."""
    for arm in (0, 1):
        rows = [np.empty(0, dtype=np.int64)]
        used = np.zeros(len(dataset.slots.lengths), dtype=bool)
        for first, values in dataset.data.blocks("observation.state"):
            part = values[:, 10 * arm : 10 * arm + 10].astype(np.float64)
            moved = first + np.flatnonzero(part.any(axis=1))
            used[np.searchsorted(dataset.bounds, moved, side="right") - 1] = True
            rows.append(first + np.flatnonzero(rotation_area(part[:, 3:9]) < MIN_NORM))
        for episode, _, frame in _by_episode(dataset, np.concatenate(rows)):
            if used[episode]:
                message = (
                    f"the rotation of frame {frame} has zero norm (or its two columns are "
                    "parallel); record it again"
                )
                yield _row_problem(dataset, episode, "observation.state", message)


def _row_problem(dataset: "LeRobotV3", episode: int, field: str, message: str) -> Problem:
    file = dataset.data.file_of(int(dataset.bounds[episode]))
    return Problem(file=file, episode=episode, field=field, message=message)


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
        yield _row_problem(dataset, episode, "timestamp", message)


def _missing_instructions(dataset: "LeRobotV3") -> Iterator[Problem]:
    for episode in dataset.episodes.without_task():
        message = "the episode has no instruction; every task_index needs a text there"
        yield Problem(
            file="meta/tasks.parquet", episode=int(episode), field="task", message=message
        )


def _bad_videos(dataset: "LeRobotV3") -> list[Problem]:
    problems = [
        problem
        for view in dataset.views
        for members in _files(dataset, view)
        for problem in _bad_video(dataset, view, members)
    ]
    return sorted(problems, key=lambda problem: problem.episode or 0)


def _files(dataset: "LeRobotV3", view: str) -> list[np.ndarray]:
    """Return the episodes that share a video file, a file at a time."""
    clips = dataset.slots.clips[view]
    order = np.lexsort((clips.file, clips.chunk))
    places = np.stack([clips.chunk, clips.file])[:, order]
    cuts = np.flatnonzero((np.diff(places) != 0).any(axis=0)) + 1
    return [np.sort(members) for members in np.split(order, cuts)]


def _bad_video(dataset: "LeRobotV3", view: str, members: np.ndarray) -> Iterator[Problem]:
    """Yield every episode whose frames a video file does not hold."""
    path = dataset.video_file(int(members[0]), view)
    name = path.relative_to(dataset.root.absolute()).as_posix()
    try:
        count = count_frames(path, fps=dataset.fps)
    except ValueError as error:
        for episode in members.tolist():
            yield Problem(file=name, episode=episode, field=view, message=str(error))
        return
    first = np.round(dataset.slots.clips[view].start_s[members] * dataset.fps).astype(int)
    ends = first + dataset.slots.lengths[members]
    for episode, start, end in zip(members, first, ends, strict=True):
        if end > count:
            message = (
                f"the video has {count} frames, the table needs {end}; copy or record it again"
            )
        elif start < 0:
            message = f"begins at frame {start} of the video; write meta/episodes again"
        else:
            continue
        yield Problem(file=name, episode=int(episode), field=view, message=message)


def _by_episode(dataset: "LeRobotV3", rows: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield (episode, number of bad rows, first bad frame) of the episodes that have any."""
    owners = np.searchsorted(dataset.bounds, rows, side="right") - 1
    for episode in np.unique(owners):
        mine = rows[owners == episode]
        yield int(episode), len(mine), int(mine[0] - dataset.bounds[episode])
