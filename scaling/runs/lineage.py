"""Which runs a run started from and which started from it, read from the run folders."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scaling.runs.records import file_state, read_json

# Only labels are read, so a run.yaml of an earlier version still shows; libyaml is 40 times faster.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
NO_PARENT = "checkpoint_sha256: ''"  # as run.yaml is written


@dataclass(frozen=True, slots=True, kw_only=True)
class _Link:
    """A run's start: the parent's run id ("" when its folder is not here), step and weights."""

    parent: str
    step: int | None
    sha256: str
    path: str


def lineage(run_id: str, runs_dir: str | Path) -> dict[str, Any]:
    """Return a run with its `parents` (nearest first) and the tree of its `children`.

    Each is {"run_id", "study", "stage", "size", "state", "step", "val_l1"}; a run that started from
    another also has `from`: {"run_id", "step", "sha256", "path"}. A checkpoint whose run is not in
    `runs_dir` ends the chain with `run_id` "". Raises ValueError for an unknown run.
    """
    folder = Path(runs_dir)
    if not (folder / run_id / "run.yaml").exists():
        raise ValueError(f"no run {run_id!r} in {folder}; see `scaling status STUDY`")
    links = _links(folder)
    parents: list[dict[str, Any]] = []
    current = run_id
    while (link := links.get(current)) and link.parent not in [run_id, *_ids(parents)]:
        parents.append(_describe(link.parent, folder, links))
        current = link.parent
    return {
        **_describe(run_id, folder, links),
        "parents": parents,
        "children": _children(run_id, folder, links),
    }


def render(tree: dict[str, Any]) -> str:
    """Return the lineage as text: the oldest ancestor first, children indented below the run."""
    chain = [*reversed(tree["parents"]), tree]
    lines = [_line(node, depth) for depth, node in enumerate(chain)]
    lines[-1] += "  <-"
    return "\n".join([*lines, *_child_lines(tree["children"], len(chain))])


def _links(runs_dir: Path) -> dict[str, _Link]:
    """Return the start of every run that started from a checkpoint."""
    starts = {
        path.parent.name: _read_spec(path)["init"]
        for path in runs_dir.glob("*/run.yaml")
        if NO_PARENT not in path.read_text()
    }
    saved = _saved_weights(runs_dir) if starts else {}
    return {run_id: _link(init, saved, runs_dir) for run_id, init in starts.items()}


def _read_spec(path: Path) -> dict[str, Any]:
    try:
        spec = yaml.load(path.read_text(), Loader=LOADER)
        return {**spec, "init": dict(spec["init"])}
    except (yaml.YAMLError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not a run.yaml ({type(error).__name__})") from None


def _saved_weights(runs_dir: Path) -> dict[str, tuple[str, int]]:
    """Return sha256 of saved weights -> (run id, step)."""
    found: dict[str, tuple[str, int]] = {}
    for path in sorted(runs_dir.glob("*/checkpoints/step_*/manifest.json")):
        manifest = read_json(path) or {}
        digest = manifest.get("sha256", {}).get("model.safetensors")
        if digest:
            found[digest] = (path.parents[2].name, int(manifest["step"]))
    return found


def _link(init: dict[str, str], saved: dict[str, tuple[str, int]], runs_dir: Path) -> _Link:
    """Find the parent by its weights, or by the path once the checkpoint is pruned."""
    sha256, path = init["checkpoint_sha256"], Path(init["checkpoint"])
    parent, step = saved.get(sha256, ("", None))
    if not parent and path.parent.name == "checkpoints" and path.name.startswith("step_"):
        named = path.parent.parent.name
        parent = named if (runs_dir / named / "run.yaml").exists() else ""
        step = int(path.name.removeprefix("step_"))
    return _Link(parent=parent, step=step, sha256=sha256, path=init["checkpoint"])


def _children(
    run_id: str, runs_dir: Path, links: dict[str, _Link], above: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    mine = sorted(name for name, link in links.items() if link.parent == run_id)
    seen = (*above, run_id)
    return [
        {
            **_describe(name, runs_dir, links),
            "children": _children(name, runs_dir, links, seen),
        }
        for name in mine
        if name not in seen
    ]


def _describe(run_id: str, runs_dir: Path, links: dict[str, _Link]) -> dict[str, Any]:
    if not run_id:
        return {"run_id": "", "state": "unknown"}
    spec = _read_spec(runs_dir / run_id / "run.yaml")
    done = read_json(runs_dir / run_id / "DONE") or {}
    node = {
        "run_id": run_id,
        **{name: spec.get(name) for name in ("study", "stage", "size")},
        "state": file_state(runs_dir / run_id),
        "step": done.get("step"),
        "val_l1": done.get("metrics", {}).get("val/l1"),
    }
    if link := links.get(run_id):
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
    return f"{'  ' * depth}{text}{error}{start}"


def _child_lines(children: list[dict[str, Any]], depth: int) -> list[str]:
    lines = []
    for child in children:
        lines += [_line(child, depth), *_child_lines(child["children"], depth + 1)]
    return lines
