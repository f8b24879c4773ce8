"""How long a checkpoint stops the training: written at once, and staged with engine.async_save.

    make bench-save

A round saves once and then trains some steps, at one rank of ZeRO-2 with the 50m rung. Rounds of
both kinds, and of none, take turns. stop_s: until training goes on, on the wall and of CPU time;
round_s: until the steps are done and the checkpoint is in place.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from engine import deepspeed_step, fresh_model, make_batches, run_spec, start

from scaling.runs.checkpoints import TrainerState

TARGET = 0.10
KINDS = ("none", "at once", "staged")


def main() -> None:
    args = arguments()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    scratch = Path(tempfile.mkdtemp(prefix="bench-save-", dir=args.folder))
    try:
        report(measure(args, scratch))
    finally:
        shutil.rmtree(scratch)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="50m")
    parser.add_argument("--steps", type=int, default=8, help="steps after a save")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", help="where to write (default: the system's scratch)")
    return parser.parse_args()


def measure(args: argparse.Namespace, scratch: Path) -> dict[str, list[dict[str, float]]]:
    """Return the rounds of each kind; the first of each is warm-up and left out."""
    from scaling.config import with_overrides
    from scaling.training.checkpoint import Saver
    from scaling.training.engine import initialize

    spec = run_spec(args.size, "engine.zero_stage=2", "global_batch_size=1", "engine.keep_last=1")
    start(spec)
    engine = initialize(spec, fresh_model(spec))
    step = deepspeed_step(spec, engine, make_batches(spec))
    savers: dict[str, Any] = {"none": None}
    for kind, word in (("at once", "false"), ("staged", "true")):
        keep = with_overrides(spec, [f"engine.async_save={word}"]).engine
        savers[kind] = Saver(engine, scratch / word, keep=keep)
    rounds: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for number in range(1 + args.repeats):
        for kind in KINDS:
            rounds[kind].append(one_round(savers[kind], number, step, args.steps))
            print(f"  {kind}: {rounds[kind][-1]}", file=sys.stderr)
    return {kind: found[1:] for kind, found in rounds.items()}


def one_round(saver: Any, number: int, step: Callable[[], None], steps: int) -> dict[str, float]:
    began, cpu = time.perf_counter(), cpu_seconds()
    if saver:
        saver.save(TrainerState(step=number, world_size=1, zero_stage=2), wait=False)
    stopped, stopped_cpu = time.perf_counter() - began, cpu_seconds() - cpu
    for _ in range(steps):
        step()
    trained = time.perf_counter() - began
    if saver:
        saver.wait()
    whole = time.perf_counter() - began
    return {
        "stop_s": stopped,
        "stop_cpu_s": stopped_cpu,
        "steps_s": trained - stopped,
        "round_s": whole,
        "cpu_s": cpu_seconds() - cpu,
        "peak_rss_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def report(rounds: dict[str, list[dict[str, float]]]) -> None:
    """Print the medians and one line of JSON; exit 1 where the target is missed."""
    names = list(rounds["none"][0])
    medians = {
        kind: {name: statistics.median(one[name] for one in found) for name in names}
        for kind, found in rounds.items()
    }
    print(f"{'save':<10}" + "".join(f"{name:>14}" for name in names))
    for kind, row in medians.items():
        print(f"{kind:<10}" + "".join(f"{row[name]:>14.3f}" for name in names))
    sync, staged, none = (medians[kind] for kind in ("at once", "staged", "none"))
    ratio = staged["stop_s"] / sync["stop_s"]
    saved = 1 - (staged["round_s"] - none["round_s"]) / (sync["round_s"] - none["round_s"])
    print(f"training stops {ratio:.1%} of a save's time (target {TARGET:.0%}); of the time that a "
          f"save costs a run on these cores, staging saves {saved:.0%}")  # fmt: skip
    print(json.dumps({
        "name": "save", "ratio": ratio, "baseline_s": sync["stop_s"], "ours_s": staged["stop_s"],
        "cost_saved": saved, "repeats": len(rounds["none"]), "medians": medians,
    }))  # fmt: skip
    if ratio > TARGET:
        sys.exit(f"error: training stops {ratio:.1%} of a save's time, more than {TARGET:.0%}")


if __name__ == "__main__":
    main()
