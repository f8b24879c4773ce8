"""Which episodes are trained on: a seeded, nested prefix of the training split of a domain."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xvla.config import DomainEntry, SplitConfig
from xvla.data.random_streams import random_stream
from xvla.data.readers.base import Dataset

HELD_OUT_PER_TASK = 3
ON_ITS_OWN = SplitConfig()


def splits_of(dataset: Dataset, wanted: SplitConfig = ON_ITS_OWN) -> NDArray[np.str_]:
    """Return the split of each episode.

    A set that names neither "val" nor "test" (most published ones) is split here: by the shares
    that are wanted, else by task. Raises ValueError for the name of a split that it has not.
    """
    splits = dataset.episodes.splits
    if wanted.val and wanted.shares() is None:
        return _renamed(splits, wanted, path=dataset.path)
    if np.isin(splits, ("val", "test")).any():
        return splits
    if shares := wanted.shares():
        return held_out_by_share(dataset.episodes.tasks, *shares)
    return held_out_by_task(dataset.episodes.tasks)


def _renamed(splits: NDArray[np.str_], wanted: SplitConfig, *, path: str) -> NDArray[np.str_]:
    """Return the splits with those of the wanted names as "val" and "test"."""
    named = np.where(splits == "train", "train", "").astype("<U5")
    for ours, theirs in (("val", wanted.val), ("test", wanted.test)):
        named[episodes_in(splits, theirs, path=path)] = ours
    return named


def held_out_by_share(tasks: Sequence[str], val: float, test: float) -> NDArray[np.str_]:
    """Return the split of each episode: at least one of each, the rest is trained on.

    Which ones depends on the number of episodes that can be read, those with an instruction, only.
    """
    able = np.flatnonzero(np.asarray(tasks) != "")
    order = able[random_stream("held out by share", len(able)).permutation(len(able))]
    counts = [max(1, round(share * len(able))) for share in (val, test)]
    splits = np.full(len(tasks), "train", dtype="<U5")
    splits[order[: counts[0]]] = "val"
    splits[order[counts[0] : sum(counts)]] = "test"
    return splits


def episodes_in(splits: NDArray[np.str_], split: str, *, path: str) -> list[int]:
    """Return the episode numbers of a split; ValueError when the dataset at `path` has none."""
    chosen = np.flatnonzero(splits == split).tolist()
    if not chosen:
        known = sorted(set(splits.tolist()) - {""})
        raise ValueError(
            f"dataset {path} has no episodes in split {split!r}; it has "
            f"{', '.join(known) or 'no splits'}; name them in meta/info.json under splits"
        )
    return chosen


def held_out_by_task(tasks: Sequence[str]) -> NDArray[np.str_]:
    """Return the split of each episode, given their instructions.

    Of every task `HELD_OUT_PER_TASK` episodes are "val" and as many "test" (the paper: 189 tasks
    times 3); a task of few episodes keeps at least one for training. Which ones depends on the
    instruction and the number of its episodes only. Episodes without one cannot be read and are
    not held out.
    """
    members: dict[str, list[int]] = {}
    for number, task in enumerate(tasks):
        members.setdefault(task, []).append(number)
    splits = np.full(len(tasks), "train", dtype="<U5")
    members.pop("", None)
    for task, episodes in members.items():
        count = min(HELD_OUT_PER_TASK, (len(episodes) - 1) // 2)
        order = random_stream("held out", task).permutation(len(episodes))
        chosen = np.asarray(episodes)[order]
        splits[chosen[:count]] = "val"
        splits[chosen[count : 2 * count]] = "test"
    return splits


def taken(train: Sequence[int], entry: DomainEntry, *, subset_seed: int) -> list[int]:
    """Return those of the training episodes that `entry` takes, in ascending order.

    The first `num_episodes` (0: all) of a permutation keyed by (subset_seed, domain): a smaller
    number is always a subset of a larger one.

    Raises:
        ValueError: fewer training episodes than asked for.
    """
    if not 0 <= entry.num_episodes <= len(train):
        raise ValueError(
            f"domain {entry.name}: num_episodes = {entry.num_episodes}, but it has "
            f"{len(train)} training episodes; give 0 (all) to {len(train)}"
        )
    order = random_stream("subset", subset_seed, entry.name).permutation(len(train))
    chosen = order[: entry.num_episodes or len(train)]
    return sorted(np.asarray(train)[chosen].tolist())
