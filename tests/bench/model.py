"""One training step and one `act` of X-VLA against a plain transcription, at equal numbers.

    make bench-model                         the 0.9B, 224 px, 3 views, batch 1, 2 threads
    python tests/bench/model.py --size tiny  seconds instead of minutes

Each model runs in processes of its own, in turn, so that neither sees the other's memory.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import zlib
from dataclasses import replace

MODELS = ("baseline", "ours", "ours+checkpointing")
TOLERANCE = 1e-4


def main() -> None:
    args = arguments()
    if args.child:
        print(json.dumps(measure(args)))
        return
    results: dict[str, list[dict]] = {name: [] for name in args.models}
    for turn in range(args.repeats):
        for name in args.models:
            results[name].append(run_child(name, args))
            print(f"  {turn + 1}/{args.repeats} {name}: {results[name][-1]}", file=sys.stderr)
    report({name: summarise(runs) for name, runs in results.items()}, args)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="0.9b")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2, help="processes of each model")
    parser.add_argument("--steps", type=int, default=2, help="timed steps a process")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--skip-act", action="store_true")
    parser.add_argument("--profile", action="store_true", help="print where ours spends its time")
    parser.add_argument("--child", choices=MODELS, help=argparse.SUPPRESS)
    return parser.parse_args()


def run_child(name: str, args: argparse.Namespace) -> dict:
    command = [sys.executable, __file__, "--child", name, "--size", args.size]
    command += ["--threads", str(args.threads), "--steps", str(args.steps)]
    command += ["--skip-act"] * args.skip_act + ["--profile"] * args.profile
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(args: argparse.Namespace) -> dict:
    """Time training steps (dropout as released) and acting; compute the numbers to compare."""
    import torch

    torch.set_num_threads(args.threads)
    model, batch, moment, noise = prepare(args.child, args.size)
    train = [
        timed(lambda: step(model.train(), batch, moment, noise)) for _ in range(args.steps + 1)
    ]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if args.profile:
        profile(lambda: step(model.train(), batch, moment, noise))
    losses = step(model.eval(), batch, moment, noise)
    norm = float(sum(p.grad.double().square().sum() for p in model.parameters()) ** 0.5)
    numbers = {**{k: v.item() for k, v in losses.items()}, "gradient_norm": norm}
    result = {"step_s": train[1:], "peak_bytes": peak, "numbers": numbers}
    if not args.skip_act:
        model.zero_grad()
        acts = [timed(lambda: model.act(batch, steps=10, noise=noise)) for _ in range(2)]
        result |= {"act_s": [min(acts)]}
        numbers["act_mean"] = float(model.act(batch, steps=1, noise=noise).abs().mean())
    return result


def prepare(name: str, size: str):
    """Build a model with weights that depend on parameter names only, and one batch."""
    import torch
    from model_baseline import PlainXVLA

    from scaling.sizes import SIZES
    from xvla.batch import Batch
    from xvla.model import XVLA

    config = replace(SIZES[size], action_mode="ee6d")
    with torch.device("meta"):
        model = PlainXVLA(config) if name == "baseline" else XVLA(config)
    fill(model)
    if name == "ours+checkpointing":
        model.set_activation_checkpointing(True)
    pixels, words = (96, 16) if size.startswith("tiny") else (224, 50)
    generator = torch.Generator().manual_seed(0)
    shape = (1, config.num_anchors, 20)
    batch = Batch(
        input_ids=torch.randint(4, config.text.vocab_size, (1, words), generator=generator),
        images=torch.randn(1, 3, 3, pixels, pixels, generator=generator),
        view_mask=torch.ones(1, 3, dtype=torch.bool),
        domain_id=torch.tensor([3]),
        proprio=torch.randn(1, 20, generator=generator),
        action=torch.rand(shape, generator=generator),
    )
    return model, batch, torch.tensor([0.4]), torch.randn(shape, generator=generator)


def fill(model) -> None:
    """Give every tensor of a meta-device model the same values under the same name."""
    import torch

    model.to_empty(device="cpu")
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        is_norm = "norm" in name and name.endswith("weight")
        with torch.no_grad():
            tensor.normal_(mean=1.0 if is_norm else 0.0, std=0.02, generator=generator)


def step(model, batch, moment, noise) -> dict:
    """One forward and backward pass; gradients are freed first, as a trainer does."""
    model.zero_grad(set_to_none=True)
    losses = model(batch, time=moment, noise=noise)
    sum(losses.values()).backward()
    return losses


def timed(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def profile(work) -> None:
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as trace:
        work()
    table = trace.key_averages().table(sort_by="self_cpu_time_total", row_limit=30)
    print(table, file=sys.stderr)


def summarise(runs: list[dict]) -> dict:
    return {
        "step_s": statistics.median(t for run in runs for t in run["step_s"]),
        "act_s": statistics.median([t for run in runs for t in run.get("act_s", [])] or [0.0]),
        "peak_gb": statistics.median(run["peak_bytes"] for run in runs) / 1e9,
        "numbers": runs[0]["numbers"],
    }


def report(rows: dict[str, dict], args: argparse.Namespace) -> None:
    """Print the table, then one line of JSON; exit 1 if the numbers differ."""
    base = rows.get("baseline", next(iter(rows.values())))
    print(
        f"{'model':<20}{'step s':>9}{'x':>7}{'act s':>9}{'x':>7}{'peak GB':>9}{'x':>7}{'gap':>10}"
    )
    ratios = {}
    for name, row in rows.items():
        gap = max(abs(v / base["numbers"][k] - 1) for k, v in row["numbers"].items())
        faster = base["step_s"] / row["step_s"]
        act = base["act_s"] / row["act_s"] if row["act_s"] else float("nan")
        memory = row["peak_gb"] / base["peak_gb"]
        measured_act = None if args.skip_act else act
        ratios[name] = {"step": faster, "act": measured_act, "memory": memory, "gap": gap}
        print(
            f"{name:<20}{row['step_s']:>9.2f}{faster:>7.2f}{row['act_s']:>9.2f}{act:>7.2f}"
            f"{row['peak_gb']:>9.2f}{memory:>7.2f}{gap:>10.1e}"
        )
    print(json.dumps(last_line(rows, ratios, args)))
    if any(not r["gap"] < TOLERANCE for r in ratios.values()):
        sys.exit(f"error: the models' numbers differ by more than {TOLERANCE}")


def last_line(rows: dict[str, dict], ratios: dict[str, dict], args: argparse.Namespace) -> dict:
    """Return the fields that every benchmark ends with; null where a model was left out."""
    ours, both = ratios.get("ours", {}), "baseline" in rows
    return {
        "name": "model",
        "size": args.size,
        "ratio": ours.get("step") if both else None,
        "act_ratio": ours.get("act") if both else None,
        "memory_ratio": ours.get("memory") if both else None,
        "max_rel_error": max(r["gap"] for r in ratios.values()) if both else None,
        "baseline_s": rows["baseline"]["step_s"] if both else None,
        "ours_s": rows["ours"]["step_s"] if "ours" in rows else None,
        "repeats": args.repeats * args.steps,
        "ratios": ratios,
    }


if __name__ == "__main__":
    main()
