"""Deletes checkpoints that nothing will ask for again, and says first what that frees."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jobs.folder import run_folder
from jobs.queue import read_queues
from jobs.status import run_state
from scaling.spec import RunSpec

GIB = 2**30


def prune(
    specs: Iterable[RunSpec], runs_dir: str | Path, *, really: bool = False
) -> dict[str, Any]:
    """Remove the step folders of done, failed and cancelled runs but for the newest.

    A checkpoint that another run started from is kept. Runs that wait or run are left alone. Only
    lists them unless `really`. Returns `{"deleted": bool, "gib", "checkpoints": [{"run_id",
    "checkpoint", "gib"}], "kept_for_others": [path]}`.
    """
    runs_dir = Path(runs_dir).resolve()
    queued = read_queues(runs_dir)
    parents = _parents(runs_dir)
    found, kept = [], []
    for spec in specs:
        run_dir = run_folder(runs_dir, spec.run_id)
        if run_state(run_dir, queued=queued).state not in ("done", "failed", "cancelled"):
            continue
        for step in _older_steps(run_dir):
            if any(parent == step or step in parent.parents for parent in parents):
                kept.append(str(step))
                continue
            found.append({"run_id": spec.run_id, "checkpoint": str(step), "gib": _gib(step)})
            if really:
                _remove(step)
    return {
        "deleted": really,
        "gib": sum(float(str(item["gib"])) for item in found),
        "checkpoints": found,
        "kept_for_others": kept,
    }


def render_pruned(document: dict[str, Any]) -> str:
    """Return what `scaling prune` prints."""
    lines = [f"{item['checkpoint']}  {item['gib']:.2f} GiB" for item in document["checkpoints"]]
    lines += [f"{path}  kept: another run started from it" for path in document["kept_for_others"]]
    count = len(document["checkpoints"])
    if document["deleted"]:
        lines.append(f"deleted {count} checkpoints, {document['gib']:.2f} GiB")
    else:
        lines.append(f"{count} checkpoints, {document['gib']:.2f} GiB; --yes deletes them")
    return "\n".join(lines)


def _older_steps(run_dir: Path) -> list[Path]:
    """Return the step folders but the one that `latest` names (all stay where that is unclear)."""
    folder = run_dir / "checkpoints"
    latest = folder / "latest"
    newest = latest.read_text().strip() if latest.exists() else ""
    if not (folder / newest / "manifest.json").exists():
        return []
    return [path for path in sorted(folder.glob("step_*")) if path.name != newest]


def _parents(runs_dir: Path) -> set[Path]:
    """Return the checkpoints that runs here started from."""
    found = set()
    for path in runs_dir.glob("*/run.yaml"):
        for line in path.read_text().splitlines():
            key, _, value = line.strip().partition(": ")
            if key == "checkpoint" and value.strip("'\""):
                found.add(Path(value.strip("'\"")).resolve())
    return found


def _remove(step: Path) -> None:
    """Delete a step folder under a name that no reader takes for a checkpoint."""
    doomed = step.with_name(f".{step.name}.deleted")
    step.rename(doomed)
    shutil.rmtree(doomed)


def _gib(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / GIB
