"""Learning rates by step: freeze, warm-up and the three kinds, by hand-computed values."""

import pytest

from scaling.recipes import RECIPES, with_recipe
from scaling.schedule import learning_rates, schedule_factor
from scaling.spec import OptimConfig, RunSpec, ScheduleConfig


@pytest.mark.parametrize(
    ("kind", "step", "expected"),
    [
        ("constant", 0, 0.0),
        ("constant", 5, 0.5),
        ("constant", 10, 1.0),
        ("constant", 99, 1.0),
        ("cosine", 10, 1.0),
        ("cosine", 55, 0.55),  # half way: the mean of 1 and 0.1
        ("cosine", 100, 0.1),
        ("wsd", 80, 1.0),
        ("wsd", 90, 0.55),
        ("wsd", 100, 0.1),
    ],
)
def test_schedule_factor(kind, step, expected) -> None:
    schedule = ScheduleConfig(kind=kind, warmup_steps=10, decay_fraction=0.2, min_lr_ratio=0.1)
    assert schedule_factor(schedule, step, 100) == pytest.approx(expected)


def test_freeze_trains_prompts_and_heads_alone() -> None:
    spec = RunSpec(
        num_steps=100,
        optim=OptimConfig(lr=1.0, vlm_lr_coef=0.1, prompt_lr_coef=0.1, freeze_steps=20),
        schedule=ScheduleConfig(kind="constant", warmup_steps=10),
    )
    frozen = learning_rates(spec, 19)
    assert frozen == {"vlm": 0, "transformer_core": 0, "soft_prompts": 0.1, "action_heads": 1.0}
    assert set(learning_rates(spec, 20).values()) == {0.0}
    assert learning_rates(spec, 25)["vlm"] == pytest.approx(0.05)
    assert learning_rates(spec, 30) == pytest.approx(
        {"vlm": 0.1, "transformer_core": 1.0, "soft_prompts": 0.1, "action_heads": 1.0}
    )


def test_recipes_are_the_published_ones() -> None:
    paper = RECIPES["pretrain_paper"]
    assert (paper.optim.lr, paper.optim.weight_decay, paper.optim.freeze_steps) == (1e-4, 0.01, 0)
    assert paper.schedule == ScheduleConfig(kind="constant")
    released = RECIPES["finetune_released"]
    assert (released.optim.weight_decay, released.optim.freeze_steps) == (0.0, 1000)
    table_11 = {
        "calvin": (128, 60_000, "color_jitter"),
        "libero": (128, 60_000, "none"),
        "robotwin2": (128, 60_000, "color_jitter"),
        "vlabench": (128, 60_000, "color_jitter"),
        "bridge": (128, 60_000, "color_jitter"),
        "softfold": (256, 400_000, "color_jitter"),
        "peft": (128, 40_000, "color_jitter"),
    }
    for name, expected in table_11.items():
        recipe = RECIPES[f"finetune_{name}"]
        assert (recipe.global_batch_size, recipe.num_steps, recipe.augmentation) == expected


def test_unknown_recipe() -> None:
    with pytest.raises(ValueError, match="unknown recipe 'secret'; known: pretrain_paper"):
        with_recipe(RunSpec(), "secret")
