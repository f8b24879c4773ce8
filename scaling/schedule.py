"""Learning rates: a pure function of the step for each parameter group."""

import math

from scaling.spec import OptimConfig, RunSpec, ScheduleConfig


def learning_rates(spec: RunSpec, step: int) -> dict[str, float]:
    """Return the rate of each group at `step` (0-based).

    During the first `freeze_steps` the VLM and the core have rate 0 while prompts and heads
    train at their full rate; afterwards all groups follow the schedule (released train.py).
    """
    base = base_rates(spec.optim)
    if step < spec.optim.freeze_steps:
        return {
            name: rate if name in ("soft_prompts", "action_heads") else 0.0
            for name, rate in base.items()
        }
    factor = schedule_factor(
        spec.schedule, step - spec.optim.freeze_steps, spec.num_steps - spec.optim.freeze_steps
    )
    return {name: rate * factor for name, rate in base.items()}


def base_rates(optim: OptimConfig) -> dict[str, float]:
    """Return the full rate of each group: coefficients for the VLM and the prompts."""
    return {
        "vlm": 0.0 if optim.freeze_vlm else optim.lr * optim.vlm_lr_coef,
        "transformer_core": optim.lr,
        "soft_prompts": optim.lr * optim.prompt_lr_coef,
        "action_heads": optim.lr,
    }


def schedule_factor(schedule: ScheduleConfig, step: int, total: int) -> float:
    """Return the multiple of the base rate at `step` of `total`: warm-up, then the kind's rule."""
    if step < schedule.warmup_steps:
        # The released schedule starts at 0; so does ours, one step of no change.
        return step / schedule.warmup_steps
    if schedule.kind == "constant":
        return 1.0
    ratio = schedule.min_lr_ratio
    if schedule.kind == "cosine":
        progress = (step - schedule.warmup_steps) / max(1, total - schedule.warmup_steps)
        return ratio + (1 - ratio) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    decay_steps = max(1, round(total * schedule.decay_fraction))
    into = step - (total - decay_steps)
    return 1.0 if into <= 0 else 1 - (1 - ratio) * min(1.0, into / decay_steps)
