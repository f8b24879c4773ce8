"""Closed-loop success of runs: counts read from the rollout documents in their folders."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from scaling.runs.folder import Run, run_of_checkpoint, runs_with_rollouts

COLUMNS = ("successes", "rollouts")
Counts = dict[str, int]


def success_counts(runs_dir: str | Path) -> dict[str, Counts]:
    """Return `successes` and `rollouts` by run id, from the documents of `rollout --json` in their folders.

    A run's own rollouts count; where it has none, those of the runs finetuned from it, together
    (paper, C.4: a pretrained run is judged after adaptation). A file still being written is left
    for the next time.

    Raises:
        ValueError: a document without whole counts, 0 <= successes <= episodes.
    """
    own: dict[str, Counts] = {}
    adapted: dict[str, Counts] = {}
    for run in runs_with_rollouts(runs_dir):
        counts = _sum(read_counts(path) for path in run.rollout_files())
        if not counts["rollouts"]:
            continue
        own[run.run_id] = counts
        parent = _finetuned_from(run) if run.done_file.exists() else None
        if parent:
            adapted[parent] = _sum([counts, adapted.get(parent, _sum(()))])
    return adapted | own


def read_counts(path: Path) -> Counts:
    """Return the counts of one rollout document; none of none while it is being written."""
    try:
        document = json.loads(path.read_text())
    except ValueError:
        return _sum(())
    document = document if isinstance(document, dict) else {}
    k, n = document.get("successes"), document.get("episodes")
    if not (type(k) is int and type(n) is int and 0 <= k <= n):
        raise ValueError(
            f"{path}: successes {k!r}, episodes {n!r}; whole numbers with 0 <= successes <= "
            "episodes are needed: write it with `scaling rollout --json`"
        )
    return dict(zip(COLUMNS, (k, n), strict=True))


def _sum(parts: Iterable[Counts]) -> Counts:
    total = dict.fromkeys(COLUMNS, 0)
    for part in parts:
        total = {name: total[name] + part[name] for name in COLUMNS}
    return total


def _finetuned_from(run: Run) -> str | None:
    """Return the run whose checkpoint a finetuning started from."""
    labels = run.labels()
    parent = run_of_checkpoint(labels.checkpoint or "")
    return parent.run_id if labels.stage == "finetune" and parent else None
