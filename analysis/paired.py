"""Paired comparison of two sets of runs on the same evaluation episodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.document import Document

EPISODE = ("domain", "episode")


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired(Document):
    """Mean difference `other - reference` over episodes, its standard error and their ratio.

    With fewer than two episodes the last two are NaN.
    """

    metric: str
    reference: float
    other: float
    difference: float
    sem: float
    num_episodes: int
    standard_errors: float


def paired_difference(
    reference: Iterable[pd.DataFrame],
    other: Iterable[pd.DataFrame],
    *,
    metric: str,
    domains: Sequence[str] | None = None,
) -> Paired:
    """Compare two groups of runs (one table of per-episode errors a run) episode by episode.

    Runs of a group are averaged within an episode first, so that episodes, not runs, are the
    sample; the standard error is over episodes and says nothing of other seeds. `domains` keeps
    the episodes of these only. Raises ValueError when no episode is in both.
    """
    means = [_episode_means(tables, metric) for tables in (reference, other)]
    both = pd.concat(means, axis=1, keys=("reference", "other")).dropna()
    if domains is not None:
        both = both[both.index.get_level_values("domain").isin(list(domains))]
    if both.empty:
        raise ValueError(f"no evaluation episode is in both groups of runs (domains {domains})")
    differences = (both["other"] - both["reference"]).to_numpy()
    count = len(differences)
    # over episodes: runs of a group share them, so that seeds are averaged first
    sem = float(differences.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan")
    difference = float(differences.mean())
    return Paired(
        metric=metric,
        reference=float(both["reference"].mean()),
        other=float(both["other"].mean()),
        difference=difference,
        sem=sem,
        num_episodes=count,
        standard_errors=difference / sem if sem > 0 else float("nan"),
    )


def _episode_means(tables: Iterable[pd.DataFrame], metric: str) -> pd.Series:
    return pd.concat(list(tables)).groupby(list(EPISODE))[metric].mean()
