"""Deletes checkpoints that nothing will ask for again, and says first what that frees."""

import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from jobs.queue import read_held
from jobs.status import run_state
from scaling.document import Document
from scaling.runs.checkpoints import step_folders
from scaling.runs.files import known
from scaling.runs.folder import MANIFEST, Run, prepared_runs
from scaling.spec import InitConfig, RunSpec
from scaling.study import trunk_point

GIB = 2**30
INIT = re.compile(r"^init:.*(?:\n(?:[ #].*)?)*", re.MULTILINE)  # as far as lines are indented
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Uses:
    """Who needs which step folder: `parents` were finetuned from; branches go on from `points`.

    `points`: step folder -> the unfinished branches that start there (none: all are done).
    """

    parents: set[Path] = field(default_factory=set)
    points: dict[Path, set[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OldCheckpoint(Document):
    """A step folder that nothing will ask for again; `branch_point`: all its branches are done."""

    run_id: str
    checkpoint: str
    gib: float
    branch_point: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchPoint(Document):
    """A step folder from which unfinished branches start."""

    checkpoint: str
    branches: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned(Document):
    """The step folders deleted, or to be deleted, and those kept: paths, GiB."""

    deleted: bool
    gib: float
    checkpoints: list[OldCheckpoint]
    kept_for_others: list[str]
    kept_for_branches: list[BranchPoint]


def prune(specs: Iterable[RunSpec], runs_dir: str | Path, *, really: bool = False) -> Pruned:
    """Remove the step folders of done, failed and cancelled runs but for the newest.

    A checkpoint that another run started from is kept, and a trunk's branch point until its
    branches, declared in `specs` or prepared here, are done. Runs that wait or run are left alone.
    Only lists them unless `really`.
    """
    specs, runs_dir = list(specs), Path(runs_dir).resolve()
    held = read_held(runs_dir)
    uses = _uses(specs, runs_dir)
    found: list[OldCheckpoint] = []
    kept, points = [], []
    for spec in specs:
        run = Run.of(runs_dir, spec.run_id)
        if run_state(run, held).state not in ("done", "failed", "cancelled"):
            continue
        for step in _older_steps(run):
            if any(parent == step or step in parent.parents for parent in uses.parents):
                kept.append(str(step))
            elif branches := uses.points.get(step):
                points.append(BranchPoint(checkpoint=str(step), branches=sorted(branches)))
            else:
                found.append(
                    OldCheckpoint(
                        run_id=spec.run_id,
                        checkpoint=str(step),
                        gib=_gib(step),
                        branch_point=step in uses.points,
                    )
                )
                if really:
                    _remove(step)
    return Pruned(
        deleted=really,
        gib=sum(item.gib for item in found),
        checkpoints=found,
        kept_for_others=kept,
        kept_for_branches=points,
    )


def render_pruned(pruned: Pruned) -> str:
    """Return what `scaling prune` prints."""
    lines = [
        f"{item.checkpoint}  {item.gib:.2f} GiB"
        + ("  branch point, its branches are done" if item.branch_point else "")
        for item in pruned.checkpoints
    ]
    lines += [f"{path}  kept: another run started from it" for path in pruned.kept_for_others]
    lines += [
        f"{item.checkpoint}  kept: unfinished branches start from it: {', '.join(item.branches)}"
        for item in pruned.kept_for_branches
    ]
    count = len(pruned.checkpoints)
    if pruned.deleted:
        lines.append(f"deleted {count} checkpoints, {pruned.gib:.2f} GiB")
    else:
        lines.append(f"{count} checkpoints, {pruned.gib:.2f} GiB; --yes deletes them")
    return "\n".join(lines)


def _older_steps(run: Run) -> list[Path]:
    """Return the step folders but the one that `latest` names (all stay where that is unclear)."""
    newest = run.latest_name()
    if not newest or not (run.checkpoints / newest / MANIFEST).exists():
        return []
    return [path for _, path in step_folders(run.checkpoints) if path.name != newest]


def _uses(specs: Iterable[RunSpec], runs_dir: Path) -> _Uses:
    """Return what the runs of the study and all those prepared here need of others."""
    uses = _Uses()
    branches = {spec.run_id: trunk_point(spec, runs_dir) for spec in specs if spec.init.trunk}
    for run_id, init in _prepared(runs_dir):
        if init.checkpoint:
            uses.parents.add(Path(init.checkpoint).resolve())
        if init.trunk:
            branches[run_id] = Run.of(runs_dir, init.trunk).step_folder(init.trunk_step)
    for run_id, point in branches.items():
        waiting = uses.points.setdefault(point, set())
        if not Run.of(runs_dir, run_id).done_file.exists():
            waiting.add(run_id)
    return uses


def _prepared(runs_dir: Path) -> Iterator[tuple[str, InitConfig]]:
    """Yield id and `init` of every run here; only that block is parsed, as files may be many.

    Raises ValueError for a broken file: what that run started from is not known.
    """
    for run in prepared_runs(runs_dir):
        path, text = run.spec_file, run.spec_file.read_text()
        block = INIT.search(text)
        try:
            found = yaml.load(block.group() if block else text, Loader=_Loader) or {}
            yield run.run_id, known(InitConfig, found.get("init") or {})
        except (yaml.YAMLError, AttributeError, TypeError, ValueError):
            raise ValueError(f"cannot read `init` of {path}; nothing was deleted") from None


def _remove(step: Path) -> None:
    """Delete a step folder under a name that no reader takes for a checkpoint."""
    doomed = step.with_name(f".{step.name}.deleted")
    step.rename(doomed)
    shutil.rmtree(doomed)


def _gib(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / GIB
