"""Which runs a run started from and which started from it, read from the run folders."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.runs.checkpoints import WEIGHTS, read_manifest, step_folders
from scaling.runs.files import DamagedFileError
from scaling.runs.folder import Run, prepared_runs, run_of_checkpoint
from scaling.runs.state import Hold, run_status

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


def lineage(
    run_id: str, runs_dir: str | Path, *, held: Mapping[str, Hold] | None = None
) -> dict[str, Any]:
    """Return a run with its `parents` (nearest first) and the tree of its `children`.

    Each is {"run_id", "study", "stage", "size", "state", "step", "val_l1"}; a run that started from
    another also has `from`: {"run_id", "step", "sha256", "path"}. A checkpoint whose run is not in
    `runs_dir` ends the chain with `run_id` "". A run with a damaged file is "unknown" and has the
    line about it as `reason`. `held`: what executors have. Raises ValueError for an unknown run.
    """
    folder = Path(runs_dir)
    if not Run.of(folder, run_id).is_prepared():
        raise ValueError(f"no run {run_id!r} in {folder}; see `scaling status STUDY`")
    tree = _Tree(runs_dir=folder, links=_links(folder), held=held or {})
    links = tree.links
    parents: list[dict[str, Any]] = []
    current = run_id
    while (link := links.get(current)) and link.parent not in [run_id, *_ids(parents)]:
        parents.append(_describe(link.parent, tree))
        current = link.parent
    return {
        **_describe(run_id, tree),
        "parents": parents,
        "children": _children(run_id, tree),
    }


def render(tree: dict[str, Any]) -> str:
    """Return the lineage as text: the oldest ancestor first, children indented below the run."""
    chain = [*reversed(tree["parents"]), tree]
    lines = [_line(node, depth) for depth, node in enumerate(chain)]
    lines[-1] += "  <-"
    return "\n".join([*lines, *_child_lines(tree["children"], len(chain))])


def _links(runs_dir: Path) -> dict[str, _Link]:
    """Return the start of every run that started from a checkpoint."""
    starts = {run.run_id: init for run in prepared_runs(runs_dir) if (init := _init(run))}
    saved = _saved_weights(runs_dir) if starts else {}
    return {run_id: _link(init, saved, runs_dir) for run_id, init in starts.items()}


def _init(run: Run) -> dict[str, Any]:
    """Return what a run started from, {} where from nothing; its description names a damage."""
    if NO_PARENT in run.spec_file.read_bytes():
        return {}
    init = _labels(run).get("init")
    return dict(init) if isinstance(init, dict) and init.get("checkpoint_sha256") else {}


def _labels(run: Run) -> dict[str, Any]:
    try:
        return run.labels()
    except DamagedFileError:
        return {}


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
        manifest = read_manifest(path) or {}
    except DamagedFileError:
        return None
    return manifest.get("sha256", {}).get(WEIGHTS)


def _link(init: dict[str, str], saved: dict[str, tuple[str, int]], runs_dir: Path) -> _Link:
    """Find the parent by its weights, or by the path once the checkpoint is pruned."""
    sha256, path = init["checkpoint_sha256"], Path(init.get("checkpoint") or "")
    parent, step = saved.get(sha256, ("", None))
    named = run_of_checkpoint(path)
    if not parent and named is not None and path.name.removeprefix("step_").isdecimal():
        is_here = Run.of(runs_dir, named.run_id).is_prepared()
        parent, step = named.run_id if is_here else "", int(path.name.removeprefix("step_"))
    return _Link(parent=parent, step=step, sha256=sha256, path=init.get("checkpoint") or "")


def _children(run_id: str, tree: _Tree, above: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    mine = sorted(name for name, link in tree.links.items() if link.parent == run_id)
    seen = (*above, run_id)
    return [
        {
            **_describe(name, tree),
            "children": _children(name, tree, seen),
        }
        for name in mine
        if name not in seen
    ]


def _describe(run_id: str, tree: _Tree) -> dict[str, Any]:
    if not run_id:
        return {"run_id": "", "state": "unknown"}
    run = Run.of(tree.runs_dir, run_id)
    labels, status = _labels(run), run_status(run, tree.held.get(run_id))
    is_done = status.state == "done"
    node: dict[str, Any] = {
        "run_id": run_id,
        **{name: labels.get(name) for name in ("study", "stage", "size")},
        "state": status.state,
        "step": status.step if is_done else None,
        "val_l1": status.val_l1 if is_done else None,
    }
    if status.damaged:
        node["reason"] = status.reason
    if link := tree.links.get(run_id):
        start = {"run_id": link.parent, "step": link.step}
        node["from"] = {**start, "sha256": link.sha256, "path": link.path}
    return node


def _ids(nodes: list[dict[str, Any]]) -> list[str]:
    return [node["run_id"] for node in nodes]


def _line(node: dict[str, Any], depth: int) -> str:
    if not node["run_id"]:
        return "a checkpoint of no run in this folder"
    error = "" if node["val_l1"] is None else f"  val/l1 {node['val_l1']:.4f}"
    text = f"{node['run_id']}  {node['stage']} {node['study']} {node['size']}  {node['state']}"
    start = f"  from step {node['from']['step']}" if "from" in node else ""
    why = f"  {node['reason']}" if node.get("reason") else ""
    return f"{'  ' * depth}{text}{error}{start}{why}"


def _child_lines(children: list[dict[str, Any]], depth: int) -> list[str]:
    lines = []
    for child in children:
        lines += [_line(child, depth), *_child_lines(child["children"], depth + 1)]
    return lines
