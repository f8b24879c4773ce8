"""The digest of the code that trains, stored beside every run: not of its places or its prose."""

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGES = ("scaling", "xvla")
ENTRY = "scaling.train"
# Earlier digest -> a later one whose runs equal its own to the bit: golden losses of both were
# compared. The first is of the rule that hashed paths and prose as well.
SAME_RUNS = {"354c476173da": "2880631d58ad", "2880631d58ad": "8b8be92e3f01"}
# bf16 left autocast for the weights' precision; then its optimizer's first state was mended.
SAME_IN_FP32 = {"8b8be92e3f01": "79ea7872005b", "79ea7872005b": "b5664486d694",
                "b5664486d694": "414075db84ff"}  # fmt: skip


def same_runs(digest: str, other: str, *, precision: str) -> bool:
    """Return whether runs in a precision made by the code of both digests are equal to the bit."""
    same = SAME_RUNS | (SAME_IN_FP32 if precision == "fp32" else {})
    return _newest(digest, same) == _newest(other, same)


@cache
def code_digest() -> str:
    """Return the digest of the code that runs here."""
    return digest_of(Path(__file__).resolve().parents[1])


def digest_of(root: Path) -> str:
    """Return 12 hex of sha256 over what `scaling.train` loads of the packages below `root`.

    Statements at the top of a module are hashed without imports, docstrings and comments, sorted
    by their text; so moving one to another module, or a module to another folder, changes nothing.
    """
    statements = [text for path in loaded_files(root) for text in _statements(path.read_text())]
    return hashlib.sha256("\n\n".join(sorted(statements)).encode()).hexdigest()[:12]


def loaded_files(root: Path) -> list[Path]:
    """Return the files below `root` that `scaling.train` imports, lazily ones and theirs as well.

    Found by reading, not by importing: training loads torch.
    """
    found: dict[str, Path] = {}
    waiting = [ENTRY]
    while waiting:
        name = waiting.pop()
        path = _file(root, name)
        if path is not None and name not in found:
            found[name] = path
            waiting += [*_imported(path), name.rpartition(".")[0]]
    found.pop(__name__, None)  # it only looks on, and holds digests itself
    return sorted(found.values())


def _newest(digest: str, same: dict[str, str]) -> str:
    while digest in same:
        digest = same[digest]
    return digest


def _file(root: Path, name: str) -> Path | None:
    if name.split(".")[0] not in PACKAGES:
        return None
    stem = root.joinpath(*name.split("."))
    return next((p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.exists()), None)


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _statements(source: str) -> Iterator[str]:
    """Yield the text of each top-level statement that does something."""
    tree = ast.parse(source)
    lines = _without_comments(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and _is_silent(node):
            for number in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                lines[number - 1] = ""
    for statement in tree.body:
        decorators = getattr(statement, "decorator_list", [])
        first = min(node.lineno for node in [statement, *decorators])
        text = "\n".join(filter(None, lines[first - 1 : statement.end_lineno]))
        if text:
            yield text


def _is_silent(node: ast.stmt) -> bool:
    """Return whether a statement is an import or a docstring."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return isinstance(node, ast.Import | ast.ImportFrom)


def _without_comments(source: str) -> list[str]:
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    return [line.rstrip() for line in lines]
