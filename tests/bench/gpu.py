"""What a GPU does with the real model, beside its ceilings and a plain transcription.

    make bench-gpu                           one GPU, about six minutes
    make bench-gpu PYTHON=python3 VENV=      without this project's environment (docs/gpu.md)
    make bench-gpu DRY=1                     every part on tiny sizes on a CPU

Parts run in the order of their worth, each in a process of its own with its own time limit, so that
a slow or broken one costs only itself. $OUT (default exports/gpu) gets results.json, table.txt and
trace.json.gz of two training steps.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BUDGET_S = 390  # with make test-gpu nine minutes
TRACE_BYTES = 15 * 2**20
PACKAGES = ("torch", "deepspeed", "transformers", "flash-attn", "triton", "numpy")
DRY_PATIENCE = 10  # times the limit, on a CPU that others use too
MARK = "part: "  # begins the line of a part's output that is its result


@dataclass(frozen=True, slots=True)
class Part:
    """A function of gpu_parts by name, with its arguments and the seconds that it may take."""

    name: str
    limit_s: int
    function: str
    arguments: dict[str, Any] = field(default_factory=dict)


PARTS = (
    Part("ceilings", 40, "ceilings"),
    Part("0.9b x 64", 110, "train", {"size": "0.9b", "micro_batch": 64, "trace": True}),
    Part("plain 0.9b x 64, autocast", 70, "plain", {"size": "0.9b", "micro_batch": 64}),
    Part("act 0.9b", 40, "act", {"size": "0.9b"}),
    Part("attention", 30, "attention"),
    Part("0.9b x 64, compiled", 110, "train",
         {"size": "0.9b", "micro_batch": 64, "words": ["engine.compile=true"]}),
    Part("0.9b x 16", 60, "train", {"size": "0.9b", "micro_batch": 16}),
    Part("0.26b x 64", 60, "train", {"size": "0.26b", "micro_batch": 64}),
)  # fmt: skip


def main() -> int:
    args = arguments()
    if args.part:
        import gpu_parts

        part = next(part for part in PARTS if part.name == args.part)
        rows = getattr(gpu_parts, part.function)(dry=args.dry, out=args.out, **part.arguments)
        print(MARK + json.dumps(rows))
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    parts = []
    for part in PARTS:
        left = BUDGET_S - (time.monotonic() - began)
        parts.append(run_part(part, args, left_s=left))
        write(parts, args)  # what is known is kept, whatever ends the script
        print(text_of(parts[-1:]), flush=True)
    return 0 if all(part["state"] in ("ok", "left out") for part in parts) else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry", action="store_true", default=os.environ.get("DRY") == "1")
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT") or "exports/gpu")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    return parser.parse_args()


def run_part(part: Part, args: argparse.Namespace, *, left_s: float) -> dict[str, Any]:
    """Return {"name", "state", "seconds", "rows", "error"} of a part in a process of its own."""
    found: dict[str, Any] = {"name": part.name, "state": "left out", "seconds": 0.0, "rows": []}
    limit = part.limit_s * DRY_PATIENCE if args.dry else min(part.limit_s, left_s)
    if limit < part.limit_s / 2:
        return found | {"error": f"{left_s:.0f} s were left of {BUDGET_S}"}
    command = [sys.executable, __file__, "--part", part.name, "--out", str(args.out)]
    command += ["--dry"] * args.dry
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
    if args.dry:  # a C++ compiler would take longer than all the rest
        environment |= {"TORCH_COMPILE_DISABLE": "1", "CUDA_VISIBLE_DEVICES": ""}
    began = time.monotonic()
    child = subprocess.Popen(
        command, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = child.communicate(timeout=limit)
        state = "ok" if child.returncode == 0 else "failed"
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)  # with its data workers
        output, state = child.communicate()[0], "late"
    found |= {"state": state, "seconds": time.monotonic() - began}
    lines = output.splitlines()
    results = [line.removeprefix(MARK) for line in lines if line.startswith(MARK)]
    if state == "ok" and results:
        return found | {"rows": json.loads(results[-1])}
    (args.out / f"failed-{PARTS.index(part)}.log").write_text(output[-20_000:])
    return found | {"error": f"over {limit:.0f} s" if state == "late" else last_words(lines)}


def last_words(lines: Sequence[str]) -> str:
    """Return the line of a failed part that says what was wrong."""
    said = [line for line in lines if line.strip()]
    return next((line for line in reversed(said) if "Error" in line), (said or ["nothing"])[-1])


def write(parts: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Write the results so far as JSON and as a table; drop a trace that is too large to keep."""
    trace = args.out / "trace.json.gz"
    if trace.exists() and trace.stat().st_size > TRACE_BYTES:
        trace.unlink()
    versions = {name: found for name in PACKAGES if (found := version_of(name))}
    document = {"schema": 1, "dry": args.dry, "python": platform.python_version(),
                "versions": versions, "parts": parts}  # fmt: skip
    (args.out / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    (args.out / "table.txt").write_text(text_of(parts) + "\n")


def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def text_of(parts: Sequence[dict[str, Any]]) -> str:
    """Return the parts as lines of text: a head a part, a line a row."""
    lines = []
    for part in parts:
        error = f": {part['error']}" if part.get("error") else ""
        lines.append(f"{part['name']} [{part['state']}, {part['seconds']:.0f} s]{error}")
        for row in part["rows"]:
            value = row["value"]
            shown = value if isinstance(value, str) else f"{value:,.4g}"
            lines.append(f"  {row['what']:<52}{shown:>14} {row['unit']}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
