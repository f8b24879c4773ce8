"""Below the command line nothing prints and nothing knows how it was asked."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("scaling", "xvla", "sweeps", "analysis", "jobs")
ROOF = "scaling/cli/"
# Programs of their own, started by `python -m`: what they print is their answer.
PROGRAMS = {
    "jobs/local/detach.py",
    "jobs/local/forkserver.py",
    "jobs/slurm/task.py",
    "scaling/machine/micro_batch.py",
    "scaling/messages.py",  # where their warnings go
    "scaling/train.py",
    "xvla/sim/ship.py",
}


def _below(repository: Path) -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((repository / package).rglob("*.py")):
            name = path.relative_to(repository).as_posix()
            if not name.startswith(ROOF) and name not in PROGRAMS:
                yield name, ast.parse(path.read_text())


def test_nothing_prints_below_the_roof(repository: Path) -> None:
    found = [
        f"{name}:{node.lineno}"
        for name, tree in _below(repository)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "print"
    ]
    assert not found, f"these print: {found}; warn through logging, or answer with a document"


def _imports(tree: ast.Module, package: str) -> bool:
    """Tell whether a module imports a package, or something of it, anywhere in its code."""
    named = [
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
        )
    ]
    return any(name.split(".")[0] == package for name in named)


def test_nothing_draws_on_the_terminal_below_the_roof(repository: Path) -> None:
    found = [name for name, tree in _below(repository) if _imports(tree, "rich")]
    assert not found, f"{found} import rich; report through xvla.progress or the caller's callback"


def test_argparse_ends_in_the_parser(repository: Path) -> None:
    files = [(name, tree) for name, tree in _below(repository)]
    files += [
        (path.relative_to(repository).as_posix(), ast.parse(path.read_text()))
        for path in (repository / ROOF).glob("*.py")
        if path.name not in ("parser.py", "fit_arguments.py")
    ]
    found = [name for name, tree in files if _imports(tree, "argparse")]
    assert not found, f"{found} know argparse; verbs take their options by name"
