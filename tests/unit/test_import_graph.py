"""The shape of the imports: no circle, no arrow back up, and CONTRIBUTING.md's picture is true.

`python tests/unit/test_import_graph.py` prints the picture.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("scaling", "xvla", "sweeps", "analysis", "jobs")
# Rooms within a package's own folder: what stands at its bottom, and what asks all its rooms.
FLOORS = {
    "scaling: declarations": {"config", "document", "messages", "spec"},
    "scaling: answers": {"adaptation", "best", "scores", "train"},
    "xvla: checkpoints": {"pretrained"},
    "analysis: laws": {"document", "hover", "inputs", "law", "laws", "notes"},
    "analysis: findings": {"findings"},
    "analysis: report": {"plots", "report"},
}
# Imports that run back up, and why they may: each is made within a function, when it is needed.
BACK = {
    ("jobs.executor", "jobs.local.executor"): "the dict that chooses an executor by name",
    ("jobs.executor", "jobs.slurm.executor"): "the dict that chooses an executor by name",
    ("scaling.__main__", "scaling.cli"): "`python -m scaling` is the command line",
}
BEGIN, END = "<!-- imports: begin -->\n```mermaid\n", "```\n<!-- imports: end -->"


@cache
def modules() -> dict[str, Path]:
    """Return our modules by dotted name."""
    paths = [path for package in PACKAGES for path in sorted((REPOSITORY / package).rglob("*.py"))]
    names = [".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in paths]
    return {name.removesuffix(".__init__"): path for name, path in zip(names, paths, strict=True)}


@cache
def arrows() -> frozenset[tuple[str, str]]:
    """Return (module, module that it imports), lazily too; what only types ask for is left out."""
    return frozenset((name, found) for name in modules() for found in _imports(name)) - BACK.keys()


def _imports(name: str) -> Iterator[str]:
    tree = ast.parse(modules()[name].read_text())
    typed = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in typed:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = (f"{node.module}.{alias.name}" for alias in node.names)
            found = {part if part in modules() else node.module for part in inner}
            yield from (part for part in found if part in modules() and part != name)


def room(module: str) -> str:
    """Return the room of a module: its folder, or its floor of a package's own folder."""
    package, _, rest = module.partition(".")
    floors = (name for name, held in FLOORS.items() if name.startswith(package) and rest in held)
    folder = modules()[module].parent.relative_to(REPOSITORY).parts[:2]
    return next(floors, "/".join(folder))


def room_arrows() -> set[tuple[str, str]]:
    """Return the arrows between rooms."""
    found = {(room(one), room(other)) for one, other in arrows()}
    return {(one, other) for one, other in found if one != other}


def circles(edges: set[tuple[str, str]] | frozenset[tuple[str, str]]) -> set[str]:
    """Return the nodes that lie on a circle: what is left when ends are taken away."""
    left = set(edges)
    while True:
        starts, ends = {one for one, _ in left}, {other for _, other in left}
        kept = {(one, other) for one, other in left if one in ends and other in starts}
        if kept == left:
            return {node for edge in left for node in edge}
        left = kept


def picture() -> str:
    """Return the rooms as a chart, without the arrows that others imply."""
    edges = room_arrows()
    below: dict[str, set[str]] = {}

    def reach(node: str) -> set[str]:
        if node not in below:
            direct = {other for one, other in edges if one == node}
            below[node] = direct.union(*(reach(other) for other in direct))
        return below[node]

    lines = ["flowchart TD"]
    for one, other in sorted(edges):
        between = {middle for start, middle in edges if start == one} - {other}
        if not any(other in reach(middle) for middle in between):
            lines.append(f'    {_id(one)}["{one}"] --> {_id(other)}["{other}"]')
    return "\n".join(lines) + "\n"


def _id(name: str) -> str:
    return name.replace("/", "_").replace(": ", "_")


def test_no_module_reaches_itself() -> None:
    assert not circles(arrows()), "a circle of imports goes through these"


def test_no_room_reaches_itself() -> None:
    assert not circles(room_arrows()), f"a circle goes through these of {sorted(room_arrows())}"


def test_every_arrow_back_has_a_reason_and_is_there() -> None:
    there = {(name, found) for name in modules() for found in _imports(name)}
    assert BACK.keys() <= there, "these are gone: take them off the list"


def test_the_picture_is_what_is_so() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    shown = text.partition(BEGIN)[2].partition(END)[0]
    assert shown == picture(), f"run `python {Path(__file__).name}` and paste what it prints"


if __name__ == "__main__":
    print(picture())
