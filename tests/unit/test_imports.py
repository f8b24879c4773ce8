"""Import directions: which package may import which of ours (CONTRIBUTING.md, the table)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

OURS = ("xvla", "scaling", "sweeps", "jobs", "analysis")
TORCH_FREE = ("scaling.spec", "scaling.study", "scaling.config", "scaling.sizes", "scaling.flops",
              "scaling.recipes", "scaling.cost", "scaling.memory", "scaling.cli",
              "xvla.config", "xvla.params", "sweeps.demo", "sweeps.model_size", "jobs.plan",
              "jobs.status", "analysis.fit")  # fmt: skip
ALLOWED: dict[str, tuple[str, ...]] = {
    "xvla": ("xvla",),
    "scaling": ("xvla", "scaling"),
    "sweeps": ("sweeps", "scaling.spec", "scaling.study", "scaling.branch", "scaling.sizes",
               "scaling.flops", "scaling.recipes", "xvla.config"),
    "jobs": ("jobs", "scaling.spec", "scaling.runs", "scaling.study", "scaling.config",
             "scaling.flops", "scaling.memory"),
    "analysis": ("analysis",),
}  # fmt: skip
# Rooms: a folder and those of our packages that it may not know.
CLOSED: dict[str, tuple[str, ...]] = {
    "scaling/training": ("scaling.tracking", "scaling.search", "scaling.machine",
                         "scaling.cli"),
    "scaling/tracking": ("scaling.training", "scaling.search", "scaling.machine",
                         "scaling.cli"),
    "scaling/machine": ("scaling.tracking", "scaling.search", "scaling.cli"),
    "scaling/search": ("scaling.machine", "scaling.cli"),
    "analysis/solving": ("analysis.pages", "analysis.figures", "analysis.report", "analysis.study"),
}  # fmt: skip
# The roof: the command line sees every package.
ROOF = ("scaling/cli/",)


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] in OURS}


def _allowed(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


@pytest.mark.parametrize("package", OURS)
def test_package_imports_only_what_it_may(package: str, repository: Path) -> None:
    files = sorted((repository / package).rglob("*.py"))
    assert files
    for path in files:
        relative = path.relative_to(repository).as_posix()
        if relative.startswith(ROOF):
            continue
        wrong = {name for name in _imports(path) if not _allowed(name, ALLOWED[package])}
        assert not wrong, f"{relative} imports {sorted(wrong)}; allowed: {ALLOWED[package]}"


@pytest.mark.parametrize("room", CLOSED)
def test_room_knows_nothing_of_those_above_it(room: str, repository: Path) -> None:
    files = sorted((repository / room).glob("*.py"))
    assert len(files) > 1
    for path in files:
        wrong = {name for name in _imports(path) if _allowed(name, CLOSED[room])}
        assert not wrong, f"{path.relative_to(repository)} imports {sorted(wrong)}"


def test_planning_never_loads_torch(repository: Path) -> None:
    code = f"import sys\nfor m in {TORCH_FREE}: __import__(m)\nprint('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=repository
    )
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize("package", OURS)
def test_files_stay_small(package: str, repository: Path) -> None:
    for path in sorted((repository / package).rglob("*.py")):
        lines = len(path.read_text().splitlines())
        assert lines <= 400, f"{path.relative_to(repository)} has {lines} lines; split it"
