"""A torch.profiler trace of a run's own training loop."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.config import with_overrides
from scaling.document import Document
from scaling.runs.folder import Run
from scaling.spec import RunSpec, load_spec
from scaling.training.engine import prepare_environment

WARM_UP = 2  # steps that compile, allocate and fill caches
ROWS = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile(Document):
    """Where the traces lie, that of rank 0 first named; `table`: the dearest operations."""

    run_id: str
    steps: int
    trace: str
    traces: list[str]
    table: str


class _Enough(BaseException):
    """Ends the loop after the last traced step; no error handler may take it for a failure."""


def profile_run(run_yaml: Path, *, overrides: Sequence[str] = (), steps: int = 10) -> Profile:
    """Trace `steps` training steps of a run after two of warm-up; the run itself is not touched.

    Each rank writes profile/rank<N>.json.gz (open it in ui.perfetto.dev or chrome://tracing) and
    profile/rank<N>.txt beside run.yaml. The ranks of one node are started here,
    those of several by torchrun or srun. Raises ValueError for steps < 1, RuntimeError with its
    last words where a rank fails.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}; trace at least one step")
    spec = with_overrides(load_spec(run_yaml), list(overrides)).validate()
    out = run_yaml.resolve().parent / "profile"
    if "RANK" in os.environ or spec.resources.world_size == 1:
        _trace_rank(spec, run_yaml.resolve(), out, steps)
    else:
        shutil.rmtree(out, ignore_errors=True)
        _start_ranks(spec, [str(run_yaml), *overrides, "--steps", str(steps)])
    return Profile(
        run_id=spec.run_id,
        steps=steps,
        trace=str(out / "rank0.json.gz"),
        traces=sorted(str(path) for path in out.glob("rank*.json.gz")),
        table=(out / f"rank{os.environ.get('RANK', '0')}.txt").read_text(),
    )


def _start_ranks(spec: RunSpec, arguments: list[str]) -> None:
    """Run this command again, once a rank."""
    if spec.resources.nodes > 1:
        raise ValueError(
            f"run {spec.run_id} takes {spec.resources.nodes} nodes; start `scaling profile` under "
            "torchrun or srun there, or give resources.nodes=1"
        )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += [f"--nproc-per-node={spec.resources.world_size}", "-m", "scaling", "profile"]
    done = subprocess.run([*launcher, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        named = [line for line in lines if line.startswith("error: ")] or lines[-1:]
        raise RuntimeError(f"a rank failed: {' '.join(named[:1])}")


def _trace_rank(spec: RunSpec, run_yaml: Path, out: Path, steps: int) -> None:
    """Trace as one rank and write its files."""
    prepare_environment(spec)
    out.mkdir(parents=True, exist_ok=True)
    # Beside the run, so that cached features of a frozen encoder are found.
    scratch = Path(tempfile.mkdtemp(prefix="_profile-", dir=run_yaml.parents[1]))
    try:
        profiler = _trace(spec, scratch, steps)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    rank = os.environ.get("RANK", "0")
    profiler.export_chrome_trace(str(out / f"rank{rank}.json.gz"))
    order = "self_cuda_time_total" if spec.resources.gpus_per_node else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=order, row_limit=ROWS)
    (out / f"rank{rank}.txt").write_text(table)


def _trace(spec: RunSpec, scratch: Path, steps: int) -> Any:
    """Run the loop in `scratch` until the traced steps are over; return the stopped profiler."""
    import torch
    from torch.profiler import ProfilerActivity, profile, schedule

    from scaling.training.attempt import advance

    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    profiler = profile(
        activities=activities,
        schedule=schedule(wait=1, warmup=WARM_UP - 1, active=steps),
        record_shapes=True,
        profile_memory=True,
    )
    done = 0

    def after_step() -> bool:
        nonlocal done
        done += 1
        if done == WARM_UP + steps:
            raise _Enough
        profiler.step()
        return False

    with profiler, suppress(_Enough):
        advance(_steady(spec, WARM_UP + steps), Run(scratch), after_step)
    return profiler


def _steady(spec: RunSpec, steps: int) -> RunSpec:
    """Return the run without evaluation, saving and trunk, and long enough to trace.

    A branch is traced from its own step 0: a step costs the same there, and nothing is waited for.
    A finetuning would evaluate its parent first.
    """
    silent = [f"engine.{name}=0" for name in ("eval_every", "save_every")]
    alone = ["init.trunk=''", "init.trunk_step=0", "stage=pretrain"]
    return with_overrides(spec, [*silent, *alone, f"num_steps={max(spec.num_steps, steps + 1)}"])
