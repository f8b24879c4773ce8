"""What the training engine itself costs, beside minimal loops in the same process.

    make bench-engine

tiny        our loop against a minimal DeepSpeed loop (same engine config, cached features)
50m         our loop at stage 0 against a bare PyTorch loop
1m          ZeRO-2 at one rank, minimal loop, against a bare PyTorch loop (printed, no target)
start-up    CPU seconds of a rank from the interpreter's start to an engine that can train

Blocks of steps are timed in turn, ours and the baseline's, so that both see the same machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scaling.runs.folder import Run

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
TARGETS = {"tiny": 1.05, "50m": 1.05}
STARTUP_CPU_S = 10.0
WARM_UP = 2  # blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Seconds a block of steps, baseline and ours: wall and CPU."""

    name: str
    baseline: list[tuple[float, float]]
    ours: list[tuple[float, float]]
    steps: int

    def row(self) -> dict[str, Any]:
        """Return medians a step and their ratios."""
        (base, base_cpu), (ours, ours_cpu) = (
            [statistics.median(block[i] for block in times) / self.steps for i in (0, 1)]
            for times in (self.baseline, self.ours)
        )
        each = [o[0] / b[0] for o, b in zip(self.ours, self.baseline, strict=True)]
        return {
            "name": self.name,
            "ratio": ours / base,
            "cpu_ratio": ours_cpu / base_cpu,
            "median_of_ratios": statistics.median(each),
            "baseline_s": base,
            "ours_s": ours,
            "repeats": len(self.ours),
        }


class Batches:
    """Stands for a loader: the same batches again and again, so that data costs nothing."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches, self.last_keys, self._next = batches, [], 0

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Any:
        self._next += 1
        return self.batches[self._next % len(self.batches)]

    def state_dict(self) -> dict[str, int]:
        return {"next": self._next}


class Features:
    """Stands for the cache of a frozen encoder's features."""

    def __init__(self, features: Any) -> None:
        self.features = features

    def lookup(self, *_: Any) -> Any:
        return self.features


class Enough(BaseException):
    """Ends the trainer's loop when enough blocks are timed."""


def main() -> None:
    args = arguments()
    if args.startup:
        print(json.dumps({"cpu_s": startup()}))
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    cpu_s = statistics.median(startup_apart() for _ in range(args.startups))
    rows = [PAIRS[name](args).row() for name in args.pairs]
    report(rows, cpu_s)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), choices=list(PAIRS))
    parser.add_argument("--repeats", type=int, default=0, help="timed blocks (0: each pair's own)")
    parser.add_argument("--startups", type=int, default=3)
    parser.add_argument("--startup", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def tiny(args: argparse.Namespace) -> Pair:
    """Our loop against a minimal DeepSpeed loop: the demo's centre, features from the cache."""
    import torch

    from scaling.training.engine import initialize

    spec = run_spec("tiny", "optim.freeze_vlm=true", "engine.log_every=20")
    device = start(spec)
    batches = make_batches(spec)
    with torch.no_grad():
        features = fresh_model(spec).encode(batches[0])
    engine = initialize(spec, fresh_model(spec).to(device))
    engine.train()
    base = deepspeed_step(spec, engine, batches, features=features)
    return against_trainer(
        "tiny", spec, base, batches, features=features, blocks=args.repeats or 15
    )


def fifty_million(args: argparse.Namespace) -> Pair:
    """Our loop at stage 0 against a bare PyTorch loop, the whole model, two samples.

    Metrics are logged every 5 steps here, four times as often as in any recipe.
    """
    spec = run_spec("50m", "engine.zero_stage=0", "global_batch_size=2", "engine.log_every=5")
    start(spec)
    batches = make_batches(spec)
    base = bare_step(spec, fresh_model(spec), batches)
    return against_trainer("50m", spec, base, batches, blocks=args.repeats or 6)


def one_million(args: argparse.Namespace) -> Pair:
    """ZeRO-2 at one rank against a bare PyTorch loop at 1M parameters, both minimal."""
    from scaling.training.engine import initialize

    spec = run_spec("tiny-h16", "engine.zero_stage=2", "engine.log_every=10")
    start(spec)
    batches = make_batches(spec)
    engine = initialize(spec, fresh_model(spec))
    engine.train()
    ours = deepspeed_step(spec, engine, batches)
    base = bare_step(spec, fresh_model(spec), batches)
    steps = spec.engine.log_every
    times: list[list[tuple[float, float]]] = [[], []]
    for _ in range(WARM_UP + (args.repeats or 10)):
        for store, step in zip(times, (base, ours), strict=True):
            store.append(timed(step, steps))
    return Pair(name="1m", baseline=times[0][WARM_UP:], ours=times[1][WARM_UP:], steps=steps)


PAIRS: dict[str, Callable[[argparse.Namespace], Pair]] = {
    "tiny": tiny,
    "50m": fifty_million,
    "1m": one_million,
}


def run_spec(size: str, *overrides: str) -> Any:
    """Return one rank's run of a rung with the recipe of the small studies; no dropout noise."""
    from scaling.config import with_overrides
    from scaling.sizes import SIZES
    from sweeps._mixtures import simulated_run

    spec = simulated_run("tiny")
    if not size.startswith("tiny"):
        data = replace(spec.data, image_size=224, text_length=50)
        spec = replace(spec, data=data)
    spec = replace(spec, size=size, model=SIZES[size])
    fixed = ["init.encoder=none", "init.encoder_sha256=''", "num_steps=100000",
             "optim.freeze_vlm=false", "engine.eval_every=0", "engine.save_every=0"]  # fmt: skip
    return with_overrides(spec, [*fixed, *overrides]).validate()


def start(spec: Any) -> Any:
    import torch

    from scaling.training.engine import prepare_environment, start_distributed

    prepare_environment(spec)
    if torch.distributed.is_initialized():
        return torch.device("cpu")
    return start_distributed(spec)


def fresh_model(spec: Any) -> Any:
    import torch

    from scaling.training.initial import build_model

    torch.manual_seed(0)
    return build_model(spec)


def make_batches(spec: Any, number: int = 4) -> list[Any]:
    """Return random whole batches of the run."""
    import torch

    from xvla.batch import Batch

    size, data, model = spec.global_batch_size, spec.data, spec.model
    torch.manual_seed(0)
    return [
        Batch(
            input_ids=torch.randint(4, model.text.vocab_size, (size, data.text_length)),
            images=torch.randn(size, data.num_views, 3, data.image_size, data.image_size),
            view_mask=torch.ones(size, data.num_views, dtype=torch.bool),
            domain_id=torch.full((size,), 15),
            proprio=torch.randn(size, 20),
            action=torch.rand(size, model.num_anchors, 20),
        )
        for _ in range(number)
    ]


def deepspeed_step(
    spec: Any, engine: Any, batches: list[Any], *, features: Any = None
) -> Callable[[], None]:
    """Return DeepSpeed's own three lines as a step."""
    import torch

    shape = batches[0].action.shape
    loader = Batches(batches)

    def step() -> None:
        losses = engine(next(loader), torch.rand(shape[0]), torch.randn(shape), features)
        engine.backward(sum(losses.values()))
        engine.step()

    return step


def bare_step(spec: Any, model: Any, batches: list[Any]) -> Callable[[], None]:
    """Return torch's own lines as a step: AdamW in the same groups, the same clipping."""
    import torch

    from scaling.training.engine import optimizer_groups

    optim, shape, loader = spec.optim, batches[0].action.shape, Batches(batches)
    optimizer = torch.optim.AdamW(
        optimizer_groups(spec, model), lr=optim.lr, betas=tuple(optim.betas),
        eps=optim.eps, weight_decay=optim.weight_decay,
    )  # fmt: skip
    model.train()

    def step() -> None:
        losses = model(next(loader), torch.rand(shape[0]), torch.randn(shape))
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim.grad_clip)
        optimizer.step()
        optimizer.zero_grad()

    return step


def against_trainer(
    name: str,
    spec: Any,
    base: Callable[[], None],
    batches: list[Any],
    *,
    blocks: int,
    features: Any = None,
) -> Pair:
    """Run the real Trainer; after each of its blocks of steps run and time one of the baseline."""
    from scaling.runs.log import RunLog
    from scaling.training.engine import initialize
    from scaling.training.trainer import Trainer
    from scaling.training.watchdog import Watchdog

    size, ours, others = spec.engine.log_every, [], []
    engine = initialize(spec, fresh_model(spec))
    state = {"steps": 0, "mark": clocks()}

    def after_step() -> bool:
        state["steps"] += 1
        if state["steps"] % size == 0:
            ours.append(since(state["mark"]))
            others.append(timed(base, size))
            if len(ours) == WARM_UP + blocks:
                raise Enough
            state["mark"] = clocks()
        return False

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        watchdog = Watchdog(spec.engine.hang_timeout_s, lambda *_: None)
        trainer = Trainer(
            spec,
            engine,
            Batches(batches),
            log=RunLog(Run(folder), num_steps=spec.num_steps, attempt=1),
            validation=None,
            cache=Features(features) if features is not None else None,
            home=Run(folder),
            watchdog=watchdog,
        )
        with suppress(Enough):
            trainer.fit(after_step)
        watchdog.stop()
    return Pair(name=name, baseline=others[WARM_UP:], ours=ours[WARM_UP:], steps=size)


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def since(mark: tuple[float, float]) -> tuple[float, float]:
    now = clocks()
    return now[0] - mark[0], now[1] - mark[1]


def timed(step: Callable[[], None], steps: int) -> tuple[float, float]:
    mark = clocks()
    for _ in range(steps):
        step()
    return since(mark)


def startup() -> float:
    """Return this process's CPU seconds once an engine stands."""
    from scaling.training.engine import initialize

    spec = run_spec("tiny")
    device = start(spec)
    initialize(spec, fresh_model(spec).to(device))
    return time.process_time()


def startup_apart() -> float:
    command = [sys.executable, __file__, "--startup"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout.strip().splitlines()[-1])["cpu_s"])


def report(rows: list[dict[str, Any]], cpu_s: float) -> None:
    """Print the table and one line of JSON; exit 1 where a target is missed."""
    print(f"{'pair':<8}{'baseline s':>12}{'ours s':>10}{'ratio':>8}{'CPU':>7}{'target':>8}")
    missed = []
    for row in rows:
        target = TARGETS.get(row["name"])
        shown = f"{target:.2f}" if target else "-"
        print(f"{row['name']:<8}{row['baseline_s']:>12.4f}{row['ours_s']:>10.4f}"
              f"{row['ratio']:>8.3f}{row['cpu_ratio']:>7.3f}{shown:>8}")  # fmt: skip
        if target and row["ratio"] > target:
            missed.append(f"{row['name']} at {row['ratio']:.3f} x")
    print(f"start-up: {cpu_s:.1f} CPU-s a rank (target {STARTUP_CPU_S:.0f})")
    missed += [f"start-up at {cpu_s:.1f} CPU-s"] if cpu_s > STARTUP_CPU_S else []
    ratio = max((row["ratio"] for row in rows if row["name"] in TARGETS), default=None)
    first = rows[0]
    print(json.dumps({
        "name": "engine", "ratio": ratio, "baseline_s": first["baseline_s"],
        "ours_s": first["ours_s"], "repeats": first["repeats"], "startup_cpu_s": cpu_s,
        "pairs": rows,
    }))  # fmt: skip
    if missed:
        sys.exit(f"error: missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
