"""From a RunSpec to a DeepSpeed engine: environment, config, parameter groups, initialisation."""

import importlib
import math
import os
import socket
import sys
from typing import Any

from packaging.version import Version

from scaling.devices import return_freed_memory
from scaling.memory import bucket_numbers
from scaling.spec import RunSpec
from xvla.params import num_params

Setting = bool | int | float
LARGE_MODEL = 100_000_000  # parameters from which a CPU run's freed memory goes back at once
SUSPECT_DEEPSPEED = ("0.18.3", "0.19.3")  # wrong ZeRO-2 gradients reported, DeepSpeed #8224


def deepspeed_problem(installed: str) -> str | None:
    """Return what is wrong with a DeepSpeed version, or None."""
    low, high = SUSPECT_DEEPSPEED
    if Version(low) <= Version(Version(installed).base_version) <= Version(high):
        return (
            f"deepspeed {installed} is reported to compute wrong ZeRO-2 gradients "
            f"({low} to {high}, issue 8224); install 0.19.8"
        )
    return None


def deepspeed_config(spec: RunSpec) -> dict[str, Setting | dict[str, Setting]]:
    """Return the DeepSpeed config; batch sizes are derived, never typed twice.

    With `engine.micro_batch_size` 0 a rank takes its share of the global batch at once.
    """
    micro, accumulation = batch_plan(spec)
    bucket = bucket_numbers(spec)
    return {
        "train_batch_size": spec.global_batch_size,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": spec.optim.grad_clip,
        # The trainer checks the gradient's norm: DeepSpeed would look at each number, and skip.
        "bf16": {"enabled": spec.precision == "bf16", "check_grad_overflow": False},
        "zero_optimization": {
            "stage": spec.engine.zero_stage,
            "overlap_comm": spec.resources.gpus_per_node > 0 and spec.resources.world_size > 1,
            "contiguous_gradients": True,
            "reduce_scatter": True,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
        },
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**12,
    }


def batch_plan(spec: RunSpec) -> tuple[int, int]:
    """Return (micro-batch a rank, accumulation steps) for the global batch."""
    per_rank = spec.global_batch_size // spec.resources.world_size
    micro = spec.engine.micro_batch_size or per_rank
    return micro, per_rank // micro


def prepare_environment(spec: RunSpec) -> None:
    """Set what torch, DeepSpeed and gloo read at import or start; call before importing torch."""
    if not spec.resources.gpus_per_node:
        os.environ["DS_ACCELERATOR"] = "cpu"
        os.environ.setdefault("OMP_NUM_THREADS", str(spec.engine.threads))
    if "RANK" not in os.environ:
        os.environ.update(
            RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(free_port()),
        )  # fmt: skip
    os.environ.setdefault("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])


def start_distributed(spec: RunSpec) -> Any:
    """Start NCCL or gloo and return torch's device for this rank.

    Raises ValueError for a DeepSpeed with wrong gradients, for other ranks than the run is for,
    and for GPUs that are not there.
    On CPU DeepSpeed would compile a shared-memory op at first use (about 100 s, and an error
    without a C++ compiler); plain gloo is used instead.
    """
    import deepspeed
    import torch

    if problem := deepspeed_problem(deepspeed.__version__):
        raise ValueError(problem)
    _check_ranks(spec)
    if spec.resources.gpus_per_node:
        device = gpu_of_rank(spec)
        torch.cuda.set_device(device)
        deepspeed.init_distributed(dist_backend="nccl", verbose=False)
        return device
    torch.set_num_threads(spec.engine.threads)
    if num_params(spec.model)["total"] > LARGE_MODEL:
        return_freed_memory()
    # Not `import deepspeed.comm.torch`: that name is torch itself inside the package.
    importlib.import_module("deepspeed.comm.torch")
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    return torch.device("cpu")


def gpu_of_rank(spec: RunSpec) -> Any:
    """Return torch's device of this local rank. Raises ValueError for a GPU that is not there."""
    import torch

    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if device.index >= torch.cuda.device_count():
        raise ValueError(
            f"resources.gpus_per_node={spec.resources.gpus_per_node}, but this machine has "
            f"{torch.cuda.device_count()} CUDA devices; ask for fewer, or set it to 0 for CPU"
        )
    return device


def _undo_first_step(optimizer: Any) -> None:
    """Undo the step on zeros by which DeepSpeed makes Adam's state in bf16 without ZeRO.

    It decays the masters, and the first real step would be corrected as the second.
    """
    optimizer.optimizer.state.clear()
    for weights, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
        for weight, master in zip(weights, masters, strict=True):
            master.data.copy_(weight.data)


def attention_kernel(spec: RunSpec, device_type: str) -> str:
    """Return the attention kernel that the run gets there; ValueError where it cannot."""
    import torch

    from xvla.attention import attention_kind, resolve

    dtype = torch.bfloat16 if spec.precision == "bf16" else torch.float32
    return resolve(attention_kind(spec.engine.attention), device=device_type, dtype=dtype)


def initialize(spec: RunSpec, model: Any) -> Any:
    """Return the DeepSpeed engine over AdamW with the named groups of `optimizer_groups`."""
    import deepspeed

    engine, *_ = deepspeed.initialize(
        model=model, optimizer=adamw(spec, model), config=deepspeed_config(spec)
    )
    if hasattr(engine.optimizer, "fp32_groups"):
        _undo_first_step(engine.optimizer)
    if spec.resources.world_size == 1 and spec.engine.zero_stage == 0 and spec.precision == "fp32":
        # Alone there is nothing to sum, and DeepSpeed would copy all gradients out and back.
        engine.enable_backward_allreduce = False
    return engine


def adamw(spec: RunSpec, model: Any) -> Any:
    """Return torch's AdamW over `optimizer_groups`, in one kernel a group on a GPU.

    DeepSpeed's own fused kernel would be compiled on the machine.
    """
    import torch

    return torch.optim.AdamW(
        optimizer_groups(spec, model),
        lr=spec.optim.lr,
        betas=(spec.optim.betas[0], spec.optim.betas[1]),
        eps=spec.optim.eps,
        weight_decay=spec.optim.weight_decay,
        fused=True if spec.resources.gpus_per_node else None,
    )


def optimizer_groups(spec: RunSpec, model: Any) -> list[dict[str, str | list[Any]]]:
    """Return the parameter groups, named; a frozen VLM is in none and needs no gradient."""
    from xvla.model import parameter_groups

    groups = parameter_groups(model)
    if spec.optim.freeze_vlm:
        for parameter in groups.pop("vlm"):
            parameter.requires_grad_(False)
    return [{"params": list(p), "name": name} for name, p in groups.items() if len(p)]


def held_groups(engine: Any) -> list[list[Any]]:
    """Return the module's parameters by group; the optimizer's own may be copies in fp32."""
    for name in ("bit16_groups", "fp16_groups"):  # under ZeRO; in bf16 without it
        if hasattr(engine.optimizer, name):
            return getattr(engine.optimizer, name)
    return [group["params"] for group in engine.optimizer.param_groups]


def update(engine: Any) -> Any:
    """Make the update of accumulated gradients; return their norm over all ranks before clipping.

    It is infinite or nan where a gradient is no number. DeepSpeed keeps it for us, but not at
    stage 0 in fp32.
    """
    kept = engine.zero_optimization() or engine.bfloat16_enabled()
    norm = None if kept else _norm([p for group in held_groups(engine) for p in group])
    engine.step()
    return engine.get_global_grad_norm() if kept else norm


def gradient_norms(engine: Any) -> dict[str, float]:
    """Return the norm of each optimizer group's gradient and `total`, before clipping."""
    optimizer = engine.optimizer
    names = [group["name"] for group in optimizer.param_groups]
    if hasattr(optimizer, "averaged_gradients"):
        norms = [
            float(optimizer.get_grad_norm_direct(gradients, optimizer.params_in_partition[index]))
            for index, gradients in optimizer.averaged_gradients.items()
        ]
    else:
        norms = [float(_norm(parameters)) for parameters in held_groups(engine)]
    result = {"vlm": 0.0, **dict(zip(names, norms, strict=True))}  # a frozen VLM is in no group
    return {**result, "total": math.sqrt(sum(norm**2 for norm in norms))}


def _norm(parameters: list[Any]) -> Any:
    import torch

    gradients = [p.grad for p in parameters if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients) if gradients else 0.0


def _check_ranks(spec: RunSpec) -> None:
    started, wanted = int(os.environ["WORLD_SIZE"]), spec.resources.world_size
    if started != wanted:
        raise ValueError(
            f"{started} ranks were started, the run is for {wanted}; start as many, or set "
            "resources.nodes and resources.gpus_per_node (on CPUs resources.processes_per_node)"
        )


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
