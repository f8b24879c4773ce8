"""Fits the micro-batch to the machine: the memory model, calibrated by one measured step."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.config import with_overrides, write_atomic
from scaling.document import Document
from scaling.spec import RunSpec, load_spec

RECORD = "micro_batch.json"
WAIT_S = 900


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted(Document):
    """micro_batch.json: what fits and why; `launch` is what its ranks have in common.

    Bytes are of one sample's activations, measured and by the formula; `calibration` is their
    ratio.
    """

    launch: str
    micro_batch_size: int
    grad_accum_steps: int
    calibration: float
    capacity_gib: float
    estimate_gib: dict[str, float]
    activation_bytes: float
    formula_bytes: float
    capacity_bytes: float


def fitted_micro_batch(run_yaml: Path, overrides: list[str]) -> int:
    """Return the largest micro-batch a rank that fits; write micro_batch.json beside run.yaml.

    Rank 0 measures, the others of the node wait for its record. Raises ValueError, saying what to
    change, when not even one sample fits or a GPU is asked for that is not there.
    """
    spec = with_overrides(load_spec(run_yaml), overrides).validate()
    record = run_yaml.resolve().parent / RECORD
    if os.environ.get("RANK", "0") != "0":
        return _wait_for(record)
    record.unlink(missing_ok=True)
    found = fit(spec, run_yaml.resolve(), overrides)
    write_atomic(record, json.dumps(found.to_dict(), indent=1))
    return found.micro_batch_size


def fit(spec: RunSpec, run_yaml: Path, overrides: list[str]) -> Fitted:
    """Measure one sample's activations in a process of its own; return what fits and why."""
    from scaling.memory import GIB, fit_micro_batch, memory
    from scaling.training.engine import gpu_of_rank

    if spec.resources.gpus_per_node:
        gpu_of_rank(spec)  # refused here, in one line
    device: Any = "gpu" if spec.resources.gpus_per_node else "cpu"
    measured = measure_apart(run_yaml, overrides)
    calibration = measured["activation_bytes"] / measured["formula_bytes"]
    capacity = measured["capacity_bytes"]
    micro = fit_micro_batch(spec, capacity, device=device, calibration=calibration)
    return Fitted(
        launch=_launch(),
        micro_batch_size=micro,
        grad_accum_steps=spec.global_batch_size // spec.resources.world_size // micro,
        calibration=calibration,
        capacity_gib=capacity / GIB,
        estimate_gib=memory(spec, micro_batch=micro, device=device).to_dict(),
        **measured,
    )


def measure_apart(run_yaml: Path, overrides: list[str]) -> dict[str, float]:
    """Run `measure` in a fresh process, whose memory is gone when it ends."""
    command = [sys.executable, "-m", "scaling.machine.micro_batch", str(run_yaml), *overrides]
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    done = subprocess.run(
        command, env=os.environ | alone, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the measured step failed: {' | '.join(done.stderr.splitlines()[-2:])}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(spec: RunSpec) -> dict[str, float]:
    """Return bytes that autograd keeps of one sample, by count and by formula, and what is free."""
    import torch

    from scaling.devices import memory_available
    from scaling.machine.doctor_rank import draw
    from scaling.memory import activation_bytes
    from scaling.training.engine import gpu_of_rank
    from scaling.training.initial import build_model

    on_gpu = spec.resources.gpus_per_node > 0
    device = gpu_of_rank(spec) if on_gpu else "cpu"
    local = 1 if on_gpu else spec.resources.processes_per_node
    capacity = memory_available(device, ranks=local)
    bare = with_overrides(spec, ["init.encoder=none", "init.checkpoint_sha256=''"])
    dtype = torch.bfloat16 if spec.precision == "bf16" else torch.float32
    model = build_model(bare).to(device, dtype)
    model.train()
    if spec.optim.freeze_vlm:
        model.vlm.requires_grad_(False).eval()
    batch, moment, noise = draw(spec, torch.device(device), every_view=True)
    kept = saved_bytes(model, lambda: model(batch, moment, noise))
    return {
        "activation_bytes": kept,
        "formula_bytes": activation_bytes(spec, 1, device="gpu" if on_gpu else "cpu"),
        "capacity_bytes": capacity,
    }


def saved_bytes(model: Any, run: Any) -> int:
    """Return the bytes that `run` keeps for its backward pass: each storage once, no weights."""
    import torch

    seen = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: list[Any] = []  # alive, so that no address is used twice

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    del result
    return sum(tensor.untyped_storage().nbytes() for tensor in kept)


def _launch() -> str:
    """Return what the ranks of one launch have in common."""
    names = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")
    return ":".join(os.environ.get(name, "") for name in names)


def _wait_for(record: Path) -> int:
    """Return the micro-batch that rank 0 of this launch has written."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        if record.exists():
            found = json.loads(record.read_text())
            if found["launch"] == _launch():
                return int(found["micro_batch_size"])
        time.sleep(0.2)
    raise RuntimeError(f"rank 0 has not written {record} in {WAIT_S} s")


def main(argv: list[str] | None = None) -> int:
    """Print `measure` of run.yaml as one line of JSON."""
    from scaling.training.engine import prepare_environment

    run_yaml, *overrides = sys.argv[1:] if argv is None else argv
    spec = with_overrides(load_spec(run_yaml), overrides).validate()
    prepare_environment(spec)
    print(json.dumps(measure(spec)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
