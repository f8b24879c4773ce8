"""Training recipes by name: the paper's, the released code's, and the one for small models.

Model numerics are always the released ones; a recipe sets rates, schedule, batch and length.
"""

from dataclasses import dataclass, replace
from typing import Literal

from scaling.spec import OptimConfig, RunSpec, ScheduleConfig
from xvla.config import DataConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train, apart from what: applied to a RunSpec by `with_recipe`."""

    optim: OptimConfig
    schedule: ScheduleConfig
    global_batch_size: int
    num_steps: int
    precision: Literal["fp32", "bf16"] = "bf16"
    augmentation: Literal["none", "color_jitter"] = "color_jitter"
    random_crop: bool = False
    target: Literal["absolute", "delta", "delta_xyz"] = "absolute"
    proprio_norm: Literal["none", "standardise"] = "none"


# Paper, Table 9 and section 4.2.1 (custom learning rate); appendix F. No freeze, no decay.
PRETRAIN_PAPER = Recipe(
    optim=OptimConfig(lr=1e-4, weight_decay=0.01, vlm_lr_coef=0.1, prompt_lr_coef=0.1),
    schedule=ScheduleConfig(kind="constant"),
    global_batch_size=1024,
    num_steps=200_000,
)
# For models of 0.05-1.2M policy parameters on simulated data, chosen on validation episodes. A
# decay matters (constant rates were clearly worse), which one does not; absolute targets and raw
# proprio do not reach "hold the pose" in minutes, because the identity has to be learned first;
# prompts at a tenth of the rate do not move in 500 steps. docs/LOG.md has the evidence.
PRETRAIN_SMALL = Recipe(
    optim=OptimConfig(
        lr=2e-3, weight_decay=0.01, vlm_lr_coef=0.1, prompt_lr_coef=1.0, freeze_vlm=True
    ),
    schedule=ScheduleConfig(kind="cosine", warmup_steps=40, min_lr_ratio=0.05),
    global_batch_size=16,
    num_steps=500,
    precision="fp32",
    augmentation="none",
    target="delta",
    proprio_norm="standardise",
)
# Released train.py with the README's options.
FINETUNE_RELEASED = Recipe(
    optim=OptimConfig(
        lr=1e-4, weight_decay=0.0, vlm_lr_coef=0.1, prompt_lr_coef=0.1, freeze_steps=1000
    ),
    schedule=ScheduleConfig(kind="cosine", warmup_steps=2000, min_lr_ratio=0.1),
    global_batch_size=128,
    num_steps=50_000,
)
# Appendix G: 1,000 steps prompts and heads, 1,000 steps of warm-up, then constant.
FINETUNE_PAPER = Recipe(
    optim=replace(PRETRAIN_PAPER.optim, freeze_steps=1000),
    schedule=ScheduleConfig(kind="constant", warmup_steps=1000),
    global_batch_size=128,
    num_steps=60_000,
)
# The same two steps at the scale of PRETRAIN_SMALL.
FINETUNE_SMALL = replace(
    PRETRAIN_SMALL,
    optim=replace(PRETRAIN_SMALL.optim, lr=1e-3, freeze_steps=60),
    schedule=ScheduleConfig(kind="cosine", warmup_steps=30, min_lr_ratio=0.05),
    num_steps=300,
)

RECIPES: dict[str, Recipe] = {
    "pretrain_paper": PRETRAIN_PAPER,
    "pretrain_small": PRETRAIN_SMALL,
    "finetune_released": FINETUNE_RELEASED,
    "finetune_paper": FINETUNE_PAPER,
    "finetune_small": FINETUNE_SMALL,
    # Table 11, a row each.
    "finetune_calvin": FINETUNE_PAPER,
    "finetune_libero": replace(FINETUNE_PAPER, augmentation="none"),
    "finetune_robotwin2": FINETUNE_PAPER,
    "finetune_vlabench": FINETUNE_PAPER,
    "finetune_bridge": FINETUNE_PAPER,
    # Fractal (RT-1) alone crops its images and moves relative to the current position.
    "finetune_fractal": replace(
        FINETUNE_PAPER,
        global_batch_size=256,
        num_steps=50_000,
        random_crop=True,
        target="delta_xyz",
    ),
    "finetune_softfold": replace(FINETUNE_PAPER, global_batch_size=256, num_steps=400_000),
    "finetune_peft": replace(FINETUNE_PAPER, num_steps=40_000),
}


def with_recipe(spec: RunSpec, name: str) -> RunSpec:
    """Return `spec` trained by the named recipe. Raises ValueError for an unknown name."""
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; known: {', '.join(RECIPES)}")
    recipe = RECIPES[name]
    data: DataConfig = replace(
        spec.data,
        augmentation=recipe.augmentation,
        random_crop=recipe.random_crop,
        target=recipe.target,
        proprio_norm=recipe.proprio_norm,
    )
    return replace(
        spec,
        data=data,
        optim=recipe.optim,
        schedule=recipe.schedule,
        global_batch_size=recipe.global_batch_size,
        num_steps=recipe.num_steps,
        precision=recipe.precision,
    )
