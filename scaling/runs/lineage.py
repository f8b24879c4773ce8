"""Which runs a run started from and which started from it, read from the run folders."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from scaling.document import Document, optional
from scaling.runs.checkpoints import WEIGHTS, read_manifest, step_folders
from scaling.runs.files import DamagedFileError
from scaling.runs.folder import Labels, Run, prepared_runs, run_of_checkpoint
from scaling.runs.state import Hold, State, run_status

NO_PARENT = b"checkpoint_sha256: ''"  # as run.yaml is written


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tree:
    """What is known of all runs of a folder."""

    runs_dir: Path
    links: "dict[str, _Link]"
    held: Mapping[str, Hold]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Link:
    """A run's start: the parent's run id ("" when its folder is not here), step and weights."""

    parent: str
    step: int | None
    sha256: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Start(Document):
    """The checkpoint that a run started from; `run_id` is "" where its run is not here."""

    run_id: str
    step: int | None
    sha256: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Relative(Document):
    """A run among its relatives. `step`, `val_l1`: of one that is done; `reason`: a damaged file.

    A checkpoint whose run is not in the folder is one with `run_id` "" and nothing else.
    """

    run_id: str
    study: str | None = None
    stage: str | None = None
    size: str | None = None
    state: State = "unknown"
    step: int | None = None
    val_l1: float | None = None
    reason: str | None = optional()
    from_: Start | None = optional()


@dataclass(frozen=True, slots=True, kw_only=True)
class Descendant(Relative):
    """A run with those that started from it."""

    children: "list[Descendant]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage(Relative):
    """A run, those it comes from (nearest first), and the tree of those that come from it."""

    parents: list[Relative]
    children: list[Descendant]


def lineage(
    run_id: str, runs_dir: str | Path, *, held: Mapping[str, Hold] | None = None
) -> Lineage:
    """Return the relatives of a run; `held`: what executors have.

    Raises ValueError for an unknown run.
    """
    folder = Path(runs_dir)
    if not Run.of(folder, run_id).is_prepared():
        raise ValueError(f"no run {run_id!r} in {folder}; see `scaling status STUDY`")
    tree = _Tree(runs_dir=folder, links=_links(folder), held=held or {})
    parents: list[Relative] = []
    current = run_id
    while (link := tree.links.get(current)) and link.parent not in [
        run_id,
        *(parent.run_id for parent in parents),
    ]:
        parents.append(_relative(link.parent, tree))
        current = link.parent
    me = _relative(run_id, tree)
    return Lineage(**_shallow(me), parents=parents, children=_children(run_id, tree))


def render(found: Lineage) -> str:
    """Return the lineage as text: the oldest ancestor first, children indented below the run."""
    chain = [*reversed(found.parents), found]
    lines = [_line(node, depth) for depth, node in enumerate(chain)]
    lines[-1] += "  <-"
    return "\n".join([*lines, *_child_lines(found.children, len(chain))])


def _links(runs_dir: Path) -> dict[str, _Link]:
    """Return the start of every run that started from a checkpoint."""
    starts = {run.run_id: init for run in prepared_runs(runs_dir) if (init := _origin(run))}
    saved = _saved_weights(runs_dir) if starts else {}
    return {run_id: _link(init, saved, runs_dir) for run_id, init in starts.items()}


def _origin(run: Run) -> Labels | None:
    """Return the labels of a run that started from a checkpoint; a damage is named elsewhere."""
    if NO_PARENT in run.spec_file.read_bytes():
        return None
    labels = _labels(run)
    return labels if labels.checkpoint_sha256 else None


def _labels(run: Run) -> Labels:
    try:
        return run.labels()
    except DamagedFileError:
        return Labels()


def _saved_weights(runs_dir: Path) -> dict[str, tuple[str, int]]:
    """Return sha256 of saved weights -> (run id, step)."""
    found: dict[str, tuple[str, int]] = {}
    for run in prepared_runs(runs_dir):
        for step, path in step_folders(run.checkpoints):
            if digest := _weights_digest(path):
                found[digest] = (run.run_id, step)
    return found


def _weights_digest(path: Path) -> str | None:
    try:
        manifest = read_manifest(path)
    except DamagedFileError:
        return None
    return manifest.sha256.get(WEIGHTS) if manifest else None


def _link(start: Labels, saved: dict[str, tuple[str, int]], runs_dir: Path) -> _Link:
    """Find the parent by its weights, or by the path once the checkpoint is pruned."""
    sha256, path = start.checkpoint_sha256 or "", Path(start.checkpoint or "")
    parent, step = saved.get(sha256, ("", None))
    named = run_of_checkpoint(path)
    if not parent and named is not None and path.name.removeprefix("step_").isdecimal():
        is_here = Run.of(runs_dir, named.run_id).is_prepared()
        parent, step = named.run_id if is_here else "", int(path.name.removeprefix("step_"))
    return _Link(parent=parent, step=step, sha256=sha256, path=start.checkpoint or "")


def _children(run_id: str, tree: _Tree, above: tuple[str, ...] = ()) -> list[Descendant]:
    mine = sorted(name for name, link in tree.links.items() if link.parent == run_id)
    seen = (*above, run_id)
    return [
        Descendant(**_shallow(_relative(name, tree)), children=_children(name, tree, seen))
        for name in mine
        if name not in seen
    ]


def _relative(run_id: str, tree: _Tree) -> Relative:
    if not run_id:
        return Relative(run_id="")
    run = Run.of(tree.runs_dir, run_id)
    labels, status = _labels(run), run_status(run, tree.held.get(run_id))
    is_done = status.state == "done"
    start = None
    if link := tree.links.get(run_id):
        start = Start(run_id=link.parent, step=link.step, sha256=link.sha256, path=link.path)
    return Relative(
        run_id=run_id,
        study=labels.study,
        stage=labels.stage,
        size=labels.size,
        state=status.state,
        step=status.step if is_done else None,
        val_l1=status.val_l1 if is_done else None,
        reason=status.reason if status.damaged else None,
        from_=start,
    )


def _shallow(node: Relative) -> dict[str, Any]:
    return {item.name: getattr(node, item.name) for item in fields(Relative)}


def _line(node: Relative, depth: int) -> str:
    if not node.run_id:
        return "a checkpoint of no run in this folder"
    error = "" if node.val_l1 is None else f"  val/l1 {node.val_l1:.4f}"
    text = f"{node.run_id}  {node.stage} {node.study} {node.size}  {node.state}"
    start = f"  from step {node.from_.step}" if node.from_ else ""
    why = f"  {node.reason}" if node.reason else ""
    return f"{'  ' * depth}{text}{error}{start}{why}"


def _child_lines(children: list[Descendant], depth: int) -> list[str]:
    lines = []
    for child in children:
        lines += [_line(child, depth), *_child_lines(child.children, depth + 1)]
    return lines
