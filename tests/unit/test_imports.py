"""Import directions, and what stands in one room only (CONTRIBUTING.md has the table)."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

OURS = ("xvla", "scaling", "sweeps", "jobs", "analysis")
TORCH_FREE = ("scaling.spec", "scaling.study", "scaling.config", "scaling.sizes", "scaling.flops",
              "scaling.recipes", "scaling.cost", "scaling.memory", "scaling.cli.parser",
              "xvla.config", "xvla.params", "sweeps.demo", "sweeps.model_size", "jobs.plan",
              "jobs.status", "analysis.fit")  # fmt: skip
ALLOWED: dict[str, tuple[str, ...]] = {
    "xvla": ("xvla",),
    "scaling": ("xvla", "scaling"),
    "sweeps": ("sweeps", "scaling.spec", "scaling.study", "scaling.branch", "scaling.sizes",
               "scaling.flops", "scaling.recipes", "xvla.config"),
    "jobs": ("jobs", "scaling.spec", "scaling.runs", "scaling.study", "scaling.config",
             "scaling.flops", "scaling.memory", "scaling.cost", "scaling.document",
             "scaling.feature_sizes", "scaling.messages"),
    "analysis": ("analysis",),
}  # fmt: skip
# Rooms: a folder and those of our packages that it may not know.
CLOSED: dict[str, tuple[str, ...]] = {
    "scaling/runs": ("scaling.training", "scaling.tracking", "scaling.search", "scaling.machine",
                     "scaling.cli", "scaling.study", "scaling.branch"),
    "scaling/training": ("scaling.tracking", "scaling.search", "scaling.machine", "scaling.cli"),
    "scaling/tracking": ("scaling.training", "scaling.search", "scaling.machine", "scaling.cli"),
    "scaling/machine": ("scaling.tracking", "scaling.search", "scaling.cli"),
    "scaling/search": ("scaling.training", "scaling.machine", "scaling.cli", "scaling.scores"),
    "jobs/local": ("jobs.slurm",),
    "jobs/slurm": ("jobs.local",),
    "analysis/success": ("analysis.pages", "analysis.figures", "analysis.report"),
    "analysis/figures": ("analysis.pages", "analysis.report"),
    "analysis/solving": ("analysis.pages", "analysis.figures", "analysis.report", "analysis.study"),
}  # fmt: skip
# Rooms in which no module reaches itself, type annotations included, and that print nothing.
UNCIRCLED = ("scaling/search", "scaling/tracking")
FOR_PEOPLE = {"argparse", "rich"}
# What only these may import: an executor is known to the dict that chooses it and to its own room,
# drawing and words to those who write a report or print.
ONLY: dict[str, tuple[str, ...]] = {
    "jobs.slurm": ("jobs/slurm/", "jobs/executor.py"),
    "jobs.local": ("jobs/local/", "jobs/executor.py"),
    "analysis.pages": ("analysis/pages/", "analysis/report.py", "scaling/cli/"),
    "analysis.figures": (
        "analysis/figures/",
        "analysis/pages/",
        "analysis/plots.py",
        "analysis/report.py",
        "scaling/",
    ),
}
# A declaration reaches no torch, however far one follows it.
NEVER_REACHED = {"sweeps": "scaling.training"}
# Names of a run's files, which stand in scaling/runs/ and nowhere else.
RUN_FILES = re.compile(
    r"(?:.*/)?(?:run\.yaml|env\.json|heartbeat\.json|metrics\.jsonl|val_episodes\.parquet|train\.log|"
    r"lives\.jsonl|manifest\.json|trainer\.json|DONE|attempts|checkpoints|latest|rollout\*?\.json|"
    r"step_[0-9*{].*)(?:/.*)?"
)
# Words that are something else where they stand: columns and keys of documents.
NOT_FILES = {("jobs/prune.py", "checkpoints"), ("jobs/status.py", "attempts"),
             ("scaling/tracking/registry.py", "checkpoints/")}  # fmt: skip
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


def _sources(repository: Path) -> list[Path]:
    return [path for package in OURS for path in sorted((repository / package).rglob("*.py"))]


def _name(path: Path, repository: Path) -> str:
    parts = path.relative_to(repository).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


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


@pytest.mark.parametrize("room", UNCIRCLED)
def test_no_module_of_a_room_reaches_itself(room: str, repository: Path) -> None:
    files = {_name(path, repository): path for path in (repository / room).glob("*.py")}
    assert len(files) > 1
    graph = {
        name: {
            found if found in files else found.rpartition(".")[0]
            for found in _imports(path)
            if _allowed(found, (room.replace("/", "."),))
        }
        for name, path in files.items()
    }
    assert any(graph.values())
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names it


@pytest.mark.parametrize("room", UNCIRCLED)
def test_a_room_below_the_roof_prints_nothing(room: str, repository: Path) -> None:
    for path in sorted((repository / room).glob("*.py")):
        tree = ast.parse(path.read_text())
        called = [n.func for n in ast.walk(tree) if isinstance(n, ast.Call)]
        printed = [n.lineno for n in called if isinstance(n, ast.Name) and n.id == "print"]
        assert not printed, f"{path.relative_to(repository)} prints in line {printed[0]}"
        names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        wrong = FOR_PEOPLE & {name.partition(".")[0] for name in names}
        assert not wrong, f"{path.relative_to(repository)} imports {sorted(wrong)}"


@pytest.mark.parametrize("package", ONLY)
def test_an_executor_is_known_to_its_room_and_to_one_dict(package: str, repository: Path) -> None:
    for path in _sources(repository):
        relative = path.relative_to(repository).as_posix()
        if not relative.startswith(ONLY[package]):
            wrong = {name for name in _imports(path) if _allowed(name, (package,))}
            assert not wrong, f"{relative} imports {sorted(wrong)}; only {ONLY[package]} may"


@pytest.mark.parametrize("package", NEVER_REACHED)
def test_what_a_declaration_reaches(package: str, repository: Path) -> None:
    files = {_name(path, repository): path for path in _sources(repository)}
    waiting = [name for name in files if _allowed(name, (package,))]
    assert waiting
    reached: dict[str, str] = {}
    while waiting:
        module = waiting.pop()
        for name in _imports(files[module]):
            found = name if name in files else name.rpartition(".")[0]
            if found in files and found not in reached:
                reached[found] = module
                waiting.append(found)
    wrong = {f"{a} by {b}" for a, b in reached.items() if _allowed(a, (NEVER_REACHED[package],))}
    assert not wrong, f"{package} reaches {sorted(wrong)}"


def test_names_of_a_runs_files_stand_in_one_room(repository: Path) -> None:
    found = []
    for path in _sources(repository):
        relative = path.relative_to(repository).as_posix()
        if relative.startswith(("scaling/runs/", "xvla/", "sweeps/")):  # data sets have manifests
            continue
        found += [
            f"{relative}:{node.lineno} {node.value!r}"
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and RUN_FILES.fullmatch(node.value)
            and "<" not in node.value  # a help text
            and (relative, node.value) not in NOT_FILES
        ]
    assert not found, "use scaling.runs.folder.Run: " + "; ".join(found)


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
        assert lines <= 600, f"{path.relative_to(repository)} has {lines} lines; split it"
