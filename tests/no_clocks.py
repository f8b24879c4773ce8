"""Finds asserts on how long something took: on a slower or busier machine they would fail.

`python tests/no_clocks.py` prints the place of each and exits 1 where there is one. Flagged is an
assert that compares by size what was read off a clock, or what is named like a duration. Exempt are
tests/bench, which measures, and asserts within a `while`, which end a poll that hangs.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent
CLOCK = re.compile(
    r"(time\.)?(monotonic|perf_counter|process_time|thread_time|time)(_ns)?|time\.clock_gettime|"
    r"(resource\.)?getrusage|(datetime\.)?datetime\.(utc)?now"
)
DURATION = re.compile(r"(.*_)?(elapsed|duration|seconds|took|wall)(_m?s|_ns)?")
# A time is still one when these have had it; what another function makes of a time is not.
ARITHMETIC = re.compile(r"(.*\.)?(abs|float|int|round|min|max|sum|sorted|mean|median|get)")
BY_SIZE = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
ADVICE = "no test has a clock: count calls, reads or commands, or fake the time (CONTRIBUTING.md)"


def clocks_in(source: str) -> list[int]:
    """Return the lines of the asserts on a time in a test module."""
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef)]
    helpers: set[str] = set()  # that return a time: clocks to those that call them
    for function in functions:
        returned = [n for n in ast.walk(function) if isinstance(n, ast.Return)]
        times = _times(function, set()) if returned else set()
        if any(_is_time(node, times) for node in returned):
            helpers.add(function.name)
    found: set[int] = set()
    for function in functions:
        asserted = list(_asserted(function))
        times = _times(function, helpers) if asserted else set()
        found |= {line for line, comparison in asserted if _is_time(comparison, times)}
    return sorted(found)


def _times(function: ast.FunctionDef, known: set[str]) -> set[str]:
    """Return the names that hold a time in a function, and those `known`."""
    times, before, bound = set(known), -1, list(_bindings(function))
    while before < (before := len(times)):  # a name may get it from a name bound further down
        for target, value in bound:
            if _is_time(value, times):
                times |= _held(target)
    return times


def _bindings(function: ast.FunctionDef) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Yield each (target, value): assignments, loops and what is appended to a list."""
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
                yield from zip(targets, values, strict=False)
            case ast.Assign(targets=targets, value=value):
                yield from ((target, value) for target in targets)
            case ast.AnnAssign(value=ast.AST()) | ast.AugAssign() | ast.NamedExpr():
                yield node.target, node.value
            case ast.For() | ast.comprehension():
                yield node.target, node.iter
            case ast.Call(func=ast.Attribute(attr="append", value=target), args=[value]):
                yield target, value


def _held(target: ast.AST) -> set[str]:
    """Return the names that an assignment to `target` gives a value."""
    match target:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return {name}
        case ast.Subscript(value=inner) | ast.Starred(value=inner):
            return _held(inner)
    return {name for part in ast.iter_child_nodes(target) for name in _held(part)}


def _asserted(function: ast.FunctionDef) -> Iterator[tuple[int, ast.Compare]]:
    """Yield the line and each comparison by size of the asserts outside of `while`."""
    loops = [node for node in ast.walk(function) if isinstance(node, ast.While)]
    guards = {id(node) for loop in loops for node in ast.walk(loop)}
    for node in ast.walk(function):
        if isinstance(node, ast.Assert) and id(node) not in guards:
            for part in ast.walk(node.test):
                if isinstance(part, ast.Compare) and any(isinstance(o, BY_SIZE) for o in part.ops):
                    yield node.lineno, part


def _is_time(node: ast.AST, times: set[str]) -> bool:
    """Return whether an expression is computed from a clock, a name of `times` or a duration."""
    match node:
        case ast.Name(id=word) | ast.Attribute(attr=word) | ast.Constant(value=str(word)):
            if word in times or DURATION.fullmatch(word):
                return True
        case ast.Call(func=function):
            called = ast.unparse(function)
            if not ARITHMETIC.fullmatch(called):
                return bool(CLOCK.fullmatch(called)) or _is_time(function, times)
        case ast.Dict():
            return False
    return any(_is_time(part, times) for part in ast.iter_child_nodes(node))


def main() -> int:
    """Print what is found below tests/ and return the exit code."""
    places = [
        f"{path.relative_to(TESTS.parent)}:{line}"
        for path in sorted(TESTS.rglob("*.py"))
        if not path.is_relative_to(TESTS / "bench")
        for line in clocks_in(path.read_text())
    ]
    for place in places:
        print(f"{place}: {ADVICE}", file=sys.stderr)
    return 1 if places else 0


if __name__ == "__main__":
    sys.exit(main())
