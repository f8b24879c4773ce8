"""Closed-loop success of runs: counts read from the rollout documents in their folders."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PATTERN = "rollout*.json"
COLUMNS = ("successes", "rollouts")
Counts = dict[str, int]


def success_counts(runs_dir: str | Path) -> dict[str, Counts]:
    """Return `successes` and `rollouts` by run id, from `<run>/rollout*.json` (`rollout --json`).

    A run's own rollouts count; where it has none, those of the runs finetuned from it, together
    (paper, C.4: a pretrained run is judged after adaptation). A file still being written is left
    for the next time.

    Raises:
        ValueError: a document without whole counts, 0 <= successes <= episodes.
    """
    own: dict[str, Counts] = {}
    adapted: dict[str, Counts] = {}
    folders = sorted({path.parent for path in Path(runs_dir).glob(f"*/{PATTERN}")})
    for folder in folders:
        counts = _sum(read_counts(path) for path in sorted(folder.glob(PATTERN)))
        if not counts["rollouts"]:
            continue
        own[folder.name] = counts
        parent = _finetuned_from(folder) if (folder / "DONE").exists() else None
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


def _finetuned_from(folder: Path) -> str | None:
    """Return the run whose checkpoint a finetuning started from: <runs>/<id>/checkpoints/<step>."""
    spec = read_yaml(folder / "run.yaml")
    parts = Path(str(parent_checkpoint(spec) or "")).parts
    return parts[-3] if spec.get("stage") == "finetune" and len(parts) >= 3 else None


def parent_checkpoint(spec: dict[str, Any]) -> str | None:
    """Return the checkpoint that a run of this run.yaml started from."""
    init = spec.get("init")
    return (init.get("checkpoint") or None) if isinstance(init, dict) else None


def read_yaml(path: Path) -> dict[str, Any]:
    """Return what a run.yaml says, empty where it is absent or not a mapping.

    ValueError for a file that is damaged.
    """
    if not path.exists():
        return {}
    import yaml

    try:
        value = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())[:120]
        raise ValueError(
            f"{path} is damaged ({said}); delete it, and `scaling submit` writes it again"
        ) from None
    return value if isinstance(value, dict) else {}
