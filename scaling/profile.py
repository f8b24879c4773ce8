"""A torch.profiler trace of a run's own training loop."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from scaling.config import with_overrides
from scaling.engine import prepare_environment
from scaling.spec import RunSpec, load_spec

WARM_UP = 2  # steps that compile, allocate and fill caches
ROWS = 25


class _Enough(BaseException):
    """Ends the loop after the last traced step; no error handler may take it for a failure."""


def profile_run(
    run_yaml: Path, *, overrides: Sequence[str] = (), steps: int = 10
) -> dict[str, Any]:
    """Trace `steps` training steps of a run after two of warm-up; the run itself is not touched.

    Writes profile/rank<N>.json.gz (open it in ui.perfetto.dev or chrome://tracing) and
    profile/rank<N>.txt beside run.yaml. Returns {"run_id", "steps", "trace", "table"}. Under
    torchrun each rank traces itself. Raises ValueError for steps < 1.
    """
    if steps < 1:
        raise ValueError(f"steps={steps}; trace at least one step")
    declared = load_spec(run_yaml)
    spec = with_overrides(declared, list(overrides)).validate()
    prepare_environment(spec)
    out = run_yaml.resolve().parent / "profile"
    out.mkdir(parents=True, exist_ok=True)
    # Beside the run, so that cached features of a frozen encoder are found.
    scratch = Path(tempfile.mkdtemp(prefix="_profile-", dir=run_yaml.resolve().parents[1]))
    try:
        profiler = _trace(spec, scratch, steps)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return _write(spec, profiler, out, steps)


def _trace(spec: RunSpec, scratch: Path, steps: int) -> Any:
    """Run the loop in `scratch` until the traced steps are over; return the stopped profiler."""
    import torch
    from torch.profiler import ProfilerActivity, profile, schedule

    from scaling.run import advance

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
        advance(_steady(spec, WARM_UP + steps), scratch, after_step)
    return profiler


def _steady(spec: RunSpec, steps: int) -> RunSpec:
    """Return the run without evaluation and saving, and long enough to trace."""
    silent = [f"engine.{name}=0" for name in ("eval_every", "save_every")]
    return with_overrides(spec, [*silent, f"num_steps={max(spec.num_steps, steps + 1)}"])


def _write(spec: RunSpec, profiler: Any, out: Path, steps: int) -> dict[str, Any]:
    rank = os.environ.get("RANK", "0")
    trace, text = out / f"rank{rank}.json.gz", out / f"rank{rank}.txt"
    profiler.export_chrome_trace(str(trace))
    order = "self_cuda_time_total" if spec.resources.gpus_per_node else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=order, row_limit=ROWS)
    text.write_text(table)
    return {"run_id": spec.run_id, "steps": steps, "trace": str(trace), "table": table}
