"""What a dataset holds and what is wrong with it, as one JSON document."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xvla.data.readers.base import Dataset, DatasetError, Problem
from xvla.data.readers.formats import open_dataset
from xvla.data.splits import HELD_OUT_PER_TASK, splits_of
from xvla.data.verify import dataset_digest

ARM_DIMS = ("x_m", "y_m", "z_m", "r00", "r01", "r10", "r11", "r20", "r21", "gripper")
DIM_NAMES = tuple(f"arm{arm}/{name}" for arm in (1, 2) for name in ARM_DIMS)
GRIPPER_DIMS = (9, 19)
SPLITS = ("train", "val", "test")


def inspect_dataset(path: str | Path) -> dict[str, Any]:
    """Return the document of `data inspect --json`.

    Beside the contract's keys (format, episodes, frames, fps, views, problems): domain, the splits
    that a run makes with a sentence on them, instructions with their episode counts, lengths in s,
    action ranges, gripper share, sha256.
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
        "format": dataset.format if dataset else "unknown",
        "episodes": len(dataset.episodes) if dataset else 0,
        "frames": dataset.episodes.num_frames if dataset else 0,
        "fps": dataset.fps if dataset else 0.0,
        "views": list(dataset.views) if dataset else [],
        "problems": [problem.to_dict() for problem in problems],
        **content,
    }


def problem_lines(document: dict[str, Any]) -> list[str]:
    """Return the problems of an inspected dataset as one line each."""
    return [str(Problem(**problem)) for problem in document["problems"]]


def readable_states(dataset: Dataset) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield the number and the poses [n, 20] of every episode that can be read, one at a time."""
    for number in range(len(dataset.episodes)):
        try:
            yield number, dataset.episode(number).states
        except DatasetError:
            continue  # among the problems


def _content(dataset: Dataset) -> dict[str, Any]:
    lengths, tasks = [], Counter[str]()
    low, high = np.full(len(DIM_NAMES), np.inf), np.full(len(DIM_NAMES), -np.inf)
    closed = np.zeros(len(GRIPPER_DIMS), dtype=np.int64)
    for number, states in readable_states(dataset):
        lengths.append(len(states))
        tasks.update({text for _, text in dataset.episodes.stretches(number)})
        low, high = np.minimum(low, states.min(axis=0)), np.maximum(high, states.max(axis=0))
        closed += (states[:, GRIPPER_DIMS] > 0.5).sum(axis=0)  # more closed than open
    splits = Counter(splits_of(dataset).tolist())
    content: dict[str, Any] = {
        "domain": dataset.domain,
        "splits": {name or "none": splits[name] for name in sorted(splits, key=_split_order)},
        "splits_note": _splits_note(dataset, splits),
        "instructions": dict(tasks.most_common()),
    }
    if lengths:
        seconds = np.array(lengths) / dataset.fps
        spans = zip(DIM_NAMES, low.tolist(), high.tolist(), strict=True)
        content |= {
            "length_s": {
                "min": float(seconds.min()),
                "median": float(np.median(seconds)),
                "max": float(seconds.max()),
            },
            "action_ranges": {name: [least, most] for name, least, most in spans},
            "gripper_closed_share": (closed / sum(lengths)).tolist(),
        }
    return {**content, "sha256": dataset_digest(dataset.path)}


def _splits_note(dataset: Dataset, splits: Counter[str]) -> str:
    """Return what a run does with the episodes, and why where the set does not say."""
    used = (
        f"{len(dataset.episodes)} episodes; a run trains on {splits['train']}, validates on "
        f"{splits['val']}, tests on {splits['test']}"
    )
    if {*SPLITS[1:]} & {*dataset.episodes.splits.tolist()}:
        return f"{used}: as the set's splits say"
    most = max(Counter(dataset.episodes.tasks).values(), default=0)
    return (
        f"{used}: no task has more than {most} episodes, and of each task up to "
        f"{HELD_OUT_PER_TASK} are held out for val and for test, as the set names no such splits"
    )


def _split_order(name: str) -> tuple[int, str]:
    return (SPLITS.index(name) if name in SPLITS else len(SPLITS), name)
