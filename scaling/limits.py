"""What numbers of a RunSpec may be; torch-free."""

import math
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scaling.spec import RunSpec

# Key -> least and greatest value allowed, both included.
LIMITS: dict[str, tuple[float, float]] = {
    "optim.weight_decay": (0, math.inf),
    "optim.grad_clip": (0, math.inf),
    "optim.vlm_lr_coef": (0, math.inf),
    "optim.prompt_lr_coef": (0, math.inf),
    "optim.freeze_steps": (0, math.inf),
    "schedule.warmup_steps": (0, math.inf),
    "schedule.decay_fraction": (0, 1),
    "schedule.min_lr_ratio": (0, 1),
    "seeds.init": (0, math.inf),
    "seeds.data": (0, math.inf),
    "seeds.eval": (0, math.inf),
    "engine.micro_batch_size": (0, math.inf),
    "engine.threads": (1, math.inf),
    "engine.num_workers": (0, math.inf),
    "engine.log_every": (0, math.inf),
    "engine.eval_every": (0, math.inf),
    "engine.save_every": (0, math.inf),
    "engine.keep_last": (0, math.inf),
    "engine.keep_every": (0, math.inf),
    "engine.eval_batch_size": (1, math.inf),
    "engine.hang_timeout_s": (0, math.inf),
    "resources.nodes": (1, math.inf),
    "resources.gpus_per_node": (0, math.inf),
    "resources.processes_per_node": (1, math.inf),
}
POSITIVE = (
    "global_batch_size", "num_steps", "optim.lr", "optim.eps", "data.prediction_window_s",
    "model.hidden_size", "model.num_heads",
)  # fmt: skip


def check_limits(spec: "RunSpec") -> None:
    """Raise ValueError naming the key, its value and what is allowed."""
    for key, (low, high) in LIMITS.items():
        value = attrgetter(key)(spec)
        if not (low <= value <= high and math.isfinite(value)):
            allowed = f"{low} and more" if high == math.inf else f"{low} to {high}"
            raise ValueError(f"{key}={value}; allowed: {allowed}")
    for key in POSITIVE:
        value = attrgetter(key)(spec)
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{key}={value} must be a finite number greater than 0")
    betas = spec.optim.betas
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"optim.betas={list(betas)}; allowed: two numbers from 0 to below 1")
    if any(step < 1 for step in spec.engine.keep_steps):
        raise ValueError(f"engine.keep_steps={list(spec.engine.keep_steps)}; steps begin with 1")
