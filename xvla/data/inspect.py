"""What a dataset holds and what is wrong with it, as one JSON document."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xvla.data.readers.base import Dataset, DatasetError, Problem
from xvla.data.readers.formats import format_of, open_dataset
from xvla.data.verify import dataset_digest

ARM_DIMS = ("x_m", "y_m", "z_m", "r00", "r01", "r10", "r11", "r20", "r21", "gripper")
DIM_NAMES = tuple(f"arm{arm}/{name}" for arm in (1, 2) for name in ARM_DIMS)
GRIPPER_DIMS = (9, 19)


def inspect_dataset(path: str | Path) -> dict[str, Any]:
    """Return the document of `data inspect --json`.

    Beside the contract's keys (format, episodes, frames, fps, views, problems): domain, splits,
    instructions with their episode counts, lengths in s, action ranges, gripper share, sha256.
    Episodes that cannot be read count in `episodes` and are left out of the rest; a dataset that
    cannot be read at all gives zeros and its problems.

    Raises:
        ValueError: there is no such folder.
    """
    try:
        dataset = open_dataset(path, check=False)
        problems = dataset.problems()
        content = _content(dataset)
    except DatasetError as error:
        dataset, problems, content = None, error.problems, {}
    return {
        "format": format_of(dataset) if dataset else "unknown",
        "episodes": len(dataset.episodes) if dataset else 0,
        "frames": sum(e.length for e in dataset.episodes) if dataset else 0,
        "fps": dataset.fps if dataset else 0.0,
        "views": list(dataset.views) if dataset else [],
        "problems": [problem.to_dict() for problem in problems],
        **content,
    }


def problem_lines(document: dict[str, Any]) -> list[str]:
    """Return the problems of an inspected dataset as one line each."""
    return [str(Problem(**problem)) for problem in document["problems"]]


def readable_states(dataset: Dataset) -> dict[int, NDArray[np.float32]]:
    """Return the poses [n, 20] of every episode that can be read."""
    states = {}
    for episode in dataset.episodes:
        try:
            states[episode.id] = dataset.episode(episode.id).states
        except DatasetError:
            continue  # among the problems
    return states


def _content(dataset: Dataset) -> dict[str, Any]:
    states = readable_states(dataset)
    splits = Counter(episode.split for episode in dataset.episodes)
    tasks = Counter(e.task for e in dataset.episodes if e.id in states)
    content: dict[str, Any] = {
        "domain": dataset.domain,
        "splits": {name or "none": count for name, count in splits.items()},
        "instructions": dict(tasks.most_common()),
    }
    if states:
        joined = np.concatenate(list(states.values()))
        lengths = np.array([len(rows) for rows in states.values()]) / dataset.fps
        content |= {
            "length_s": {
                "min": float(lengths.min()),
                "median": float(np.median(lengths)),
                "max": float(lengths.max()),
            },
            "action_ranges": _ranges(joined),
            "gripper_closed_share": [_share(joined[:, dim]) for dim in GRIPPER_DIMS],
        }
    return {**content, "sha256": dataset_digest(dataset.path)}


def _ranges(states: NDArray[np.float32]) -> dict[str, list[float] | None]:
    """Return [min, max] by dimension, over finite values; None where there are none."""
    ranges: dict[str, list[float] | None] = {}
    for dim, name in enumerate(DIM_NAMES):
        values = states[np.isfinite(states[:, dim]), dim]
        ranges[name] = [float(values.min()), float(values.max())] if len(values) else None
    return ranges


def _share(gripper: NDArray[np.float32]) -> float:
    """Return the share of frames whose gripper is more closed than open."""
    return float(np.mean(gripper > 0.5))
