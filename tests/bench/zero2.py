"""Peak memory of real models on two CPU ranks of ZeRO-2, beside the formula and beside stage 0.

    make bench-zero2                        the 0.26B whole, the 0.9B with its VLM frozen, fp32
    python tests/bench/zero2.py --sizes 50m seconds instead of minutes

Measured: a rank's peak RSS from before the model is built to the end of the last step, minus the
RSS at that moment, summed over ranks.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CASES = {"0.26b": False, "0.9b": True, "50m": False}  # size: is its VLM frozen?
TOLERANCE = 0.10
RANKS = 2


def main() -> None:
    args = arguments()
    if args.rank:
        print(json.dumps(measure(args)))
        return
    rows = [compare(size, stage, args) for size in args.sizes for stage in args.stages]
    report(rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["0.26b", "0.9b"], choices=list(CASES))
    parser.add_argument("--stages", nargs="+", type=int, default=[2, 0], choices=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--micro-batch", type=int, default=1)
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def compare(size: str, stage: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train a few steps on two ranks; return the measured and the computed bytes of both."""
    from scaling.memory import memory

    began = time.perf_counter()
    ranks = run_ranks(size, stage, args)
    estimate = memory(run_spec(size, stage, args.micro_batch))
    row = {
        "size": size,
        "frozen_vlm": CASES[size],
        "stage": stage,
        "measured_gib": sum(rank["peak"] for rank in ranks) / 2**30,
        "formula_gib": RANKS * estimate.total / 2**30,
        "parts_gib": {name: RANKS * gib for name, gib in estimate.to_dict().items()},
        "phases_gib": ranks[0]["phases"],
        "seconds": time.perf_counter() - began,
        "loss": ranks[0]["loss"],
    }
    print(f"  {size} stage {stage}: {row}", file=sys.stderr)
    return row


def run_ranks(size: str, stage: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Start the ranks, each a process of its own; raise RuntimeError if one fails."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, __file__, "--rank", "--sizes", size, "--stages", str(stage)]
    command += ["--steps", str(args.steps), "--micro-batch", str(args.micro_batch)]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(RANKS)}
    processes = [
        subprocess.Popen(
            command,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(RANKS)
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError(f"a rank of {size} at stage {stage} failed; see above")
    return [json.loads(output.strip().splitlines()[-1]) for output in outputs]


def run_spec(size: str, stage: int, micro_batch: int):
    """Return the run: the rung as it is, one micro-batch a rank and step."""
    from scaling.sizes import SIZES
    from scaling.spec import EngineConfig, OptimConfig, ResourceConfig, RunSpec
    from xvla.config import DataConfig, DomainEntry

    domain = "sim_kinova3_dual"
    return RunSpec(
        size=size,
        model=SIZES[size],
        data=DataConfig(mixture=[DomainEntry(name=domain)], anchor_domain=domain),
        optim=OptimConfig(freeze_vlm=CASES[size]),
        global_batch_size=RANKS * micro_batch,
        engine=EngineConfig(zero_stage=stage, micro_batch_size=micro_batch),
        resources=ResourceConfig(processes_per_node=RANKS),
    ).validate()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Be one rank: train and return the peak bytes over the whole and by phase."""
    from scaling.devices import forget_peak, resident_bytes, return_freed_memory
    from scaling.training.engine import initialize, prepare_environment, start_distributed

    spec = run_spec(args.sizes[0], args.stages[0], args.micro_batch)
    prepare_environment(spec)
    start_distributed(spec)
    import xvla.model  # noqa: F401  (its code is no part of the model's memory)

    return_freed_memory()
    batch = make_batch(spec)
    before = resident_bytes()
    peaks: dict[str, float] = {}

    def note(phase: str) -> None:
        peaks[phase] = max(peaks.get(phase, 0), resident_bytes(peak=True) - before)
        forget_peak()

    forget_peak()
    model = build(spec)
    note("model")
    engine = initialize(spec, model)
    note("engine")
    losses = []
    for _ in range(args.steps):
        losses.append(one_step(spec, engine, batch, note))
    return {
        "peak": max(peaks.values()),
        "phases": {name: round(peak / 2**30, 3) for name, peak in peaks.items()},
        "loss": losses,
    }


def one_step(spec: Any, engine: Any, batch: Any, note: Any) -> float:
    from scaling.training.trainer import training_mode

    training_mode(spec, engine)
    losses = engine(batch)
    total = sum(losses.values())
    note("forward")
    engine.backward(total)
    note("backward")
    engine.step()
    note("update")
    return float(total.detach())


def build(spec: Any):
    """Build the model with plain random weights: the rungs' own initialisation takes minutes."""
    import torch

    from xvla.model import build_on_meta

    torch.manual_seed(0)
    model = build_on_meta(spec.model).to_empty(device="cpu")
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.normal_(std=0.02)
    return model


def make_batch(spec: Any):
    """Return one micro-batch of random pixels and words, every view present."""
    import torch

    from xvla.batch import Batch

    size, data = spec.engine.micro_batch_size, spec.data
    side = data.image_size
    return Batch(
        input_ids=torch.randint(4, spec.model.text.vocab_size, (size, data.text_length)),
        images=torch.randn(size, data.num_views, 3, side, side),
        view_mask=torch.ones(size, data.num_views, dtype=torch.bool),
        domain_id=torch.full((size,), 15),
        proprio=torch.randn(size, 20),
        action=torch.rand(size, spec.model.num_anchors, 20),
    )


def report(rows: list[dict[str, Any]]) -> None:
    """Print the table and one line of JSON; exit 1 if a formula is off by more than 10 %."""
    columns = ("weights", "gradients", "optimizer", "buckets", "activations", "update", "process")
    print(f"GiB over {RANKS} ranks, fp32\n{'size':<8}{'VLM':<8}{'stage':>5}{'measured':>10}"
          f"{'formula':>9}{'off':>7}  " + "".join(f"{name:>12}" for name in columns))  # fmt: skip
    for row in rows:
        row["off"] = row["formula_gib"] / row["measured_gib"] - 1
        parts = "".join(f"{row['parts_gib'][name]:>12.2f}" for name in columns)
        print(f"{row['size']:<8}{'frozen' if row['frozen_vlm'] else 'trained':<8}"
              f"{row['stage']:>5}{row['measured_gib']:>10.2f}{row['formula_gib']:>9.2f}"
              f"{row['off']:>+7.1%}  {parts}")  # fmt: skip
    worst = max(abs(row["off"]) for row in rows)
    print(json.dumps({"name": "zero2", "ratio": 1 + worst, "ranks": RANKS, "rows": rows}))
    if worst > TOLERANCE:
        sys.exit(f"error: the formula is off by {worst:.1%}, more than {TOLERANCE:.0%}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    main()
