"""Data between functions has named fields: how many still pass free-form dicts, by package.

Counted is a function with a parameter or a return, and a dataclass field, whose annotation holds a
mapping without a value type or with the values `Any` or `object`: `dict`, `dict[str, Any]`,
`list[Mapping[str, Any]]`, `Callable[..., dict[str, Any]] | None`, in quotes as well, or a name that
stands for one of these. `dict[str, float]` is a table of numbers, and a TypedDict has named keys:
neither is counted. Where JSON is written or read a dict is right, so the limit is not zero.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

# May only fall. Below 60 in all is the aim: one edge a noun.
LIMITS = {
    "xvla": 79,
    "scaling": 24,
    "sweeps": 0,
    "jobs": 0,
    "analysis": 7,
}
MAPPINGS = {"dict", "Dict", "Mapping", "MutableMapping", "defaultdict", "OrderedDict"}
ANYTHING = {"Any", "object"}


def _name(node: ast.AST) -> str | None:
    return getattr(node, "id", None) or getattr(node, "attr", None)


def _is_free_form(annotation: ast.expr | None, aliases: frozenset[str] = frozenset()) -> bool:
    """Tell whether an annotation holds a free-form mapping, itself or inside of another type."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    if annotation is None or _name(annotation) in MAPPINGS | aliases:
        return annotation is not None
    if isinstance(annotation, ast.BinOp):
        return any(_is_free_form(side, aliases) for side in (annotation.left, annotation.right))
    parts = getattr(annotation, "elts", [])
    if isinstance(annotation, ast.Subscript):
        inner = annotation.slice
        parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
        if _name(annotation.value) == "Literal":  # its strings are no annotations
            return False
        if _name(annotation.value) in MAPPINGS and _name(parts[-1]) in ANYTHING:
            return True
    return any(_is_free_form(part, aliases) for part in parts)


def _aliases(trees: dict[str, ast.Module]) -> frozenset[str]:
    """Return the names that stand for a free-form mapping: `Row = dict[str, Any]`."""
    return frozenset(
        target.id
        for tree in trees.values()
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript)
        if _is_free_form(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    )


def _sites(tree: ast.Module, aliases: frozenset[str]) -> Iterator[tuple[int, str]]:
    # A class of the same name is another thing: `Point` is a row of numbers in one module.
    aliases -= {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            taken = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            found = [argument.annotation for argument in taken] + [node.returns]
            if any(_is_free_form(annotation, aliases) for annotation in found):
                yield node.lineno, node.name
        elif isinstance(node, ast.ClassDef) and "dataclass" in map(_decorator, node.decorator_list):
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and _is_free_form(field.annotation, aliases):
                    yield field.lineno, f"{node.name}.{_name(field.target)}"


def _decorator(node: ast.expr) -> str | None:
    return _name(node.func if isinstance(node, ast.Call) else node)


@pytest.mark.parametrize("package", LIMITS)
def test_few_functions_pass_free_form_dicts(package: str, repository: Path) -> None:
    files = sorted((repository / package).rglob("*.py"))
    trees = {str(path.relative_to(repository)): ast.parse(path.read_text()) for path in files}
    aliases = _aliases(trees)
    sites = [f"{file}:{line} {name}" for file, tree in trees.items()
             for line, name in _sites(tree, aliases)]  # fmt: skip
    assert len(sites) <= LIMITS[package], (
        f"{package} passes free-form dicts at {len(sites)} sites, {LIMITS[package]} are allowed; "
        "give the data a frozen dataclass with named fields:\n" + "\n".join(sites)
    )


@pytest.mark.parametrize(
    ("annotation", "counted"),
    {
        "dict": True,
        "dict[str, Any]": True,
        "list[Mapping[str, Any]]": True,
        "Callable[[dict[str, object]], int] | None": True,
        "'tuple[int, typing.Mapping[str, Any]]'": True,
        "Row": True,
        "dict[str, float]": False,
        "Mapping[str, list[Any]]": False,
        "list[Any]": False,
        "Literal['does not fall', 'dict']": False,
        "StudyFit": False,
    }.items(),
)
def test_what_is_counted(annotation: str, counted: bool) -> None:
    source = f"def f(a: {annotation}): ...\ndef g() -> {annotation}: ...\nRow = dict[str, Any]"
    source += f"\n@dataclass(frozen=True)\nclass C:\n    a: {annotation}"
    tree = ast.parse(source)
    assert len(list(_sites(tree, _aliases({"": tree})))) == (3 if counted else 0)
