"""Points of a study: products, the Latin square, collisions, and the sweeps built of them."""

from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest

from scaling.describe import describe
from scaling.recipes import RECIPES
from scaling.spec import RunSpec, SeedConfig
from scaling.study import Study, latin_square, load_study, product


def study_of(*specs: RunSpec) -> Study:
    return Study(
        name="sweeps.made",
        description="",
        varies=("a",),
        holds_fixed="",
        runs={"cpu": lambda: specs},
    )


def valid(**changes: object) -> RunSpec:
    (base, *_) = load_study("sweeps.pretrain").expand("cpu")
    return replace(base, **changes)


def test_product_crosses_axes_and_lists() -> None:
    assert product({"a": (1, 2), "b": "xy"}) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]
    assert product({"a": (1, 2)}, [{"b": 3, "c": 4}]) == [
        {"a": 1, "b": 3, "c": 4},
        {"a": 2, "b": 3, "c": 4},
    ]
    assert product({"a": ()}) == []


def test_every_pair_of_levels_meets_once_in_a_latin_square() -> None:
    points = latin_square(a=(1, 2, 3), b="xyz", c=(10, 20, 30))
    assert len(points) == 9
    for first, second in combinations("abc", 2):
        pairs = Counter((point[first], point[second]) for point in points)
        assert set(pairs.values()) == {1}
        assert len(pairs) == 9
    with pytest.raises(ValueError, match="as many levels each"):
        latin_square(a=(1, 2), b=(1, 2), c=(1, 2, 3))


def test_two_points_that_are_one_run_are_refused() -> None:
    twins = [valid(axes={"a": 1}), valid(axes={"a": 2})]
    with pytest.raises(ValueError, match=r"a=1 and a=2 are the same run [0-9a-f]{12}"):
        study_of(*twins).expand()
    shared = [valid(axes={"a": 1}), valid(axes={"a": 1}), valid(axes={"b": 1})]
    assert len(study_of(*shared).expand()) == 1  # a point met on two axes is one run
    with pytest.raises(ValueError, match="override fixes it"):
        load_study("sweeps.prompt_length").expand("cpu", ["model.soft_prompt_length=8"])


@pytest.mark.parametrize(
    ("name", "scale", "count"),
    [
        ("joint", "cpu", 32),
        ("joint", "a100", 16),
        ("noise_floor", "cpu", 20),
        ("noise_floor", "a100", 14),
        ("prediction_window", "cpu", 12),
        ("prediction_window", "a100", 4),
        ("prompt_length", "cpu", 30),
        ("prompt_length", "a100", 10),
        ("prompt_and_window", "cpu", 5),
        ("prompt_and_window", "a100", 5),
    ],
)
def test_sweeps_hold_what_they_declare(name: str, scale: str, count: int) -> None:
    specs = load_study(f"sweeps.{name}").expand(scale)
    assert len(specs) == count
    assert len({spec.num_samples_seen for spec in specs}) == 1
    assert len({spec.optim.lr for spec in specs}) == 1


def test_noise_floor_varies_one_seed_at_a_time() -> None:
    for spec in load_study("sweeps.noise_floor").expand("cpu"):
        changed = [n for n in ("init", "data", "eval") if getattr(spec.seeds, n)]
        wanted = [] if spec.axes["varied"] == "none" else [spec.axes["varied"]]
        assert changed == wanted
        assert spec.seeds != SeedConfig() or spec.axes["seed"] == 0


def test_windows_change_targets_only() -> None:
    specs = load_study("sweeps.prediction_window").expand("a100")
    assert [spec.data.prediction_window_s for spec in specs] == [1.0, 2.0, 4.0, 8.0]
    same = replace(specs[0].data, prediction_window_s=4.0)
    assert {spec.size for spec in specs} == {"0.26b"}  # Florence-base and a block of 100M
    assert specs[2].data == same
    assert {(s.num_steps, s.global_batch_size, s.resources.world_size) for s in specs} == {
        (100_000, 256, 8)
    }


def test_pretrain_costs_what_the_paper_says() -> None:
    study = load_study("sweeps.pretrain")
    (spec,) = study.expand("a100")
    numbers = describe(spec)
    assert numbers["compute_flops"] == pytest.approx(4.15e20, rel=0.03)
    assert (study.paper_gpu_hours, spec.resources.world_size) == (64 * 24 * 4, 64)
    recipe = RECIPES["pretrain_paper"]
    assert (spec.optim, spec.schedule) == (recipe.optim, recipe.schedule)
    assert (spec.optim.freeze_vlm, spec.optim.freeze_steps, spec.schedule.kind) == (
        False, 0, "constant",
    )  # fmt: skip
    assert (spec.optim.vlm_lr_coef, spec.optim.prompt_lr_coef) == (0.1, 0.1)
    episodes = {entry.name: entry.num_episodes for entry in spec.data.mixture}
    assert sum(episodes.values()) == 288_000
    assert episodes["agibot"] == 141_000
