"""Calls the command line and compares what it says with the goldens in tests/assets/golden.

`GOLDEN_WRITE=1` writes instead of comparing; `regenerate.py` beside this file says when to.
"""

import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from io import StringIO
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

ASSETS = Path(__file__).resolve().parents[2] / "assets" / "golden"
REPOSITORY = Path(__file__).resolve().parents[3]
WRITING = bool(os.environ.get("GOLDEN_WRITE"))
REL = 1e-6  # of floats that are only arithmetic on what is in the files
# A fit is where an optimizer stopped: where another BLAS adds sums up in another order, it stops
# elsewhere in the last digits.
FITTED = 1e-4
# Fits to part of the rows or to resampled ones. They are ill-conditioned: with the sums of another
# processor some of them end in another valley, whole percents away. Only the machine that wrote
# the golden is held to these; another is held to their keys, and to the fit to all rows.
REFITTED = re.compile(
    r"\.(backtest|bootstrap|curve|elasticity_interval|loo|next_doubling_interval|sensitivity)\b"
)
FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
LINE = 96  # characters of JSON
SHOWN = 12  # differences named by a failure
ABSENT = object()
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?(?![\w])")
FRACTION = re.compile(r"\.(\d+)")


class Said(NamedTuple):
    """What a command said: its exit code and both streams."""

    code: int
    out: str
    err: str


def call(*words: str) -> Said:
    """Run one command of the command line in this process."""
    from scaling.cli import main

    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # argparse after --help
            code = int(stop.code or 0)
    return Said(code, out.getvalue(), err.getvalue())


MLFLOW = re.compile(r"\S*bin>?/mlflow ui")


def call_done(*words: str) -> str:
    """Run one command, which must succeed, and return what it printed."""
    said = call(*words)
    assert said.code == 0, f"`scaling {' '.join(words)}` exits {said.code}: {said.err}"
    return said.out


def call_json(*words: str) -> Any:
    """Run one command with --json and return its document."""
    return json.loads(call_done(*words, "--json"))


def scrub(value: Any, places: Mapping[str, Path | str]) -> Any:
    """Return JSON or text with machine paths replaced by the names of `places`, longest first."""
    if isinstance(value, str):
        for name, place in sorted(places.items(), key=lambda item: -len(str(item[1]))):
            value = value.replace(str(place), f"<{name}>")
        # The command is said relative to the current folder where it lies below it.
        return MLFLOW.sub("<bin>/mlflow ui", value)
    if isinstance(value, Mapping):
        return {scrub(key, places): scrub(item, places) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [scrub(item, places) for item in value]
    return value


def usual_places(tmp_path: Path) -> dict[str, Path | str]:
    """Return the paths that differ between machines, by the name that replaces them."""
    executable = Path(sys.executable)
    return {
        "tmp": tmp_path,
        "repository": REPOSITORY,
        "python": executable,
        "bin": executable.parent,
    }


def without(document: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return a document less some of its top keys, each of which must be there."""
    for name in names:
        assert name in document, f"the document has no {name!r} to leave out"
    return {key: value for key, value in document.items() if key not in names}


def check_json(name: str, document: Any, *, rel: float = REL) -> None:
    """Compare a document with the golden `name`; a failure names the JSON paths that differ.

    Strings, whole numbers, types and the order of keys are compared exactly, floats to `rel`.
    Where `rel` is looser than REL, so are numbers inside of strings, as in `check_text`.
    """
    path = ASSETS / name
    now = json.loads(json.dumps(document))
    if WRITING:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_dump(now) + "\n")
        return
    found = differences(read_golden(name), now, rel=rel)
    _complain(name, list(islice(found, SHOWN + 1)))


def check_fitted(name: str, document: Mapping[str, Any]) -> None:
    """Compare what was fitted with the golden `name`, more loosely on another machine (REFITTED).

    The same machine finds the same numbers, to the last bits.
    """
    here = machine("numpy", "scipy")
    now = json.loads(json.dumps({"machine": here, **document}))
    golden = now if WRITING else read_golden(name)
    if golden["machine"] == here:
        check_json(name, now)
        return
    now["machine"] = golden["machine"]
    found = differences(golden, now, rel=FITTED, free=REFITTED)
    _complain(name, list(islice(found, SHOWN + 1)))


def machine(*packages: str) -> dict[str, Any]:
    """Return what the last bit of a sum depends on: the processor, and versions of packages."""
    words: dict[str, str] = {}
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            words.setdefault(key.strip(), value.strip())
    flags = words.get("flags", "").split()
    return {
        "processor": [words.get(name, "") for name in ("model name", "cpu family", "model")],
        "flags": [flag for flag in FLAGS if flag in flags],
        "versions": {name: version(name) for name in packages},
    }


def check_text(name: str, text: str, *, exact: bool = True, numbers: bool = True) -> None:
    """Compare text with the golden `name`, line by line.

    Not `exact`: blanks and rules count as one blank, and numbers may differ by two of their last
    printed digit, since a fitted number may round to the other side; not `numbers`: only words.
    """
    path = ASSETS / name
    if WRITING:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return
    same = str.__eq__ if exact else _same_line if numbers else _same_words
    lines = zip_longest(_read(name).splitlines(), text.splitlines())
    found = (
        f"line {number}:\n    golden {a!r}\n    now    {b!r}"
        for number, (a, b) in enumerate(lines, 1)
        if a is None or b is None or not same(a, b)
    )
    _complain(name, list(islice(found, SHOWN + 1)))


def read_golden(name: str) -> Any:
    """Return a golden document."""
    return json.loads(_read(name))


def check_names(what: str, golden: Iterable[str], now: Iterable[str]) -> None:
    """Compare two sets of names; a failure says which came and which went."""
    had, has = set(golden), set(now)
    came, went = sorted(has - had), sorted(had - has)
    assert had == has, f"{what} that came: {came or 'none'}; that went: {went or 'none'}"


def _read(name: str) -> str:
    path = ASSETS / name
    assert path.exists(), f"there is no golden {name}; regenerate.py says how one is made"
    return path.read_text()


def differences(
    golden: Any,
    now: Any,
    path: str = "$",
    *,
    rel: float = REL,
    free: re.Pattern[str] | None = None,
) -> Iterator[str]:
    """Yield a line for each JSON path at which two documents differ.

    Where `free` is found in a path, leaves may have any value, but containers the same keys.
    """
    if isinstance(golden, dict) and isinstance(now, dict):
        if list(golden) != list(now) and golden.keys() == now.keys():
            yield f"{path}: keys in another order: golden {list(golden)}, now {list(now)}"
        for key in dict.fromkeys((*golden, *now)):
            pair = (golden.get(key, ABSENT), now.get(key, ABSENT))
            yield from differences(*pair, f"{path}.{key}", rel=rel, free=free)
    elif isinstance(golden, list) and isinstance(now, list):
        for index, pair in enumerate(zip_longest(golden, now, fillvalue=ABSENT)):
            yield from differences(*pair, f"{path}[{_label(index, pair[0])}]", rel=rel, free=free)
    elif free and free.search(path) and _is_leaf(golden) and _is_leaf(now):
        return
    elif not _same(golden, now, rel):
        yield f"{path}: golden {_shown(golden)}, now {_shown(now)}"


def _is_leaf(value: Any) -> bool:
    return value is not ABSENT and not isinstance(value, dict | list)


def _dump(value: Any, depth: int = 0) -> str:
    """Return JSON in which what fits into a line is one."""
    line = json.dumps(value)
    if not isinstance(value, dict | list) or len(line) + depth <= LINE:
        return line
    gap = "\n" + " " * (depth + 1)
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}: {_dump(item, depth + 1)}" for key, item in value.items()]
        return "{" + gap + f",{gap}".join(parts) + "\n" + " " * depth + "}"
    parts = [_dump(item, depth + 1) for item in value]
    return "[" + gap + f",{gap}".join(parts) + "\n" + " " * depth + "]"


def _complain(name: str, found: list[str]) -> None:
    if not found:
        return
    more = "\n  ..." if len(found) > SHOWN else ""
    text = "\n  ".join(found[:SHOWN])
    raise AssertionError(f"not what golden {name} holds:\n  {text}{more}")


def _label(index: int, item: Any) -> str:
    run_id = item.get("run_id") if isinstance(item, dict) else None
    return f"{index} run {run_id}" if run_id else str(index)


def _same(golden: Any, now: Any, rel: float) -> bool:
    if type(golden) is not type(now):
        return False
    if isinstance(golden, str) and rel > REL:
        return _same_line(golden, now)
    if not isinstance(golden, float):
        return bool(golden == now)
    if math.isnan(golden) or math.isnan(now):
        return math.isnan(golden) and math.isnan(now)
    # The absolute floor is for differences of numbers of order one that cancel.
    return math.isclose(golden, now, rel_tol=rel, abs_tol=1e-12 if rel else 0.0)


def _shown(value: Any) -> str:
    return "nothing" if value is ABSENT else json.dumps(value)[:200]


def _same_words(golden: str, now: str) -> bool:
    return _words(golden) == _words(now)


def _same_line(golden: str, now: str) -> bool:
    if not _same_words(golden, now):
        return False
    pairs = zip(NUMBER.findall(golden), NUMBER.findall(now), strict=True)
    return all(_same_printed(a, b) for a, b in pairs)


def _words(line: str) -> str:
    """Return a line without its numbers, its rules and the width of its columns."""
    return " ".join(NUMBER.sub("#", re.sub(r"[─━═-]{2,}", " ", line)).split())


def _same_printed(golden: str, now: str) -> bool:
    if golden == now:
        return True
    if not FRACTION.search(golden):
        return False  # whole numbers are counts
    mantissa, _, exponent = golden.partition("e")
    last = 10.0 ** (int(exponent or 0) - len(FRACTION.search(mantissa)[1]))
    a, b = (float(text.replace(",", "")) for text in (golden, now))
    return abs(a - b) <= 2.000001 * last
