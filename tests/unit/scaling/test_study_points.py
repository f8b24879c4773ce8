"""Points of a study: products, the Latin square, collisions, and the sweeps built of them."""

import csv
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from analysis.figures.grid import levels
from scaling.cost import cost_of
from scaling.recipes import RECIPES
from scaling.spec import RunSpec, SeedConfig
from scaling.study import Study, known_studies, latin_square, load_study, product
from xvla.data.augment import JITTER_STRENGTH


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
        ("model_size", "cpu", 12),
        ("model_size", "a100", 6),
        ("data_diversity", "cpu", 15),
        ("data_diversity", "a100", 5),
        ("data_volume", "cpu", 12),
        ("data_volume", "a100", 6),
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


# What a study may say that it holds fixed -> what must then be the same in all its runs.
FIXED = {
    "samples seen": lambda s: s.num_samples_seen,
    "recipe": lambda s: (s.optim, s.schedule.kind, s.global_batch_size, s.precision, s.data.target),
    "model": lambda s: s.model,
    "size": lambda s: s.size,
    "mixture": lambda s: s.data.mixture,
    "sources": lambda s: [entry.name for entry in s.data.mixture],
    "episodes": lambda s: s.num_unique_episodes,
    "episodes of each source": lambda s: s.data.mixture[0].num_episodes,
    "anchors a window": lambda s: s.data.num_anchors,
}
# An axis under another name than the one that a study gives to what it varies.
ALSO_CALLED = {"episodes_per_domain": "episodes", "fraction": "episodes"}


@pytest.mark.parametrize("name", known_studies())
def test_studies_vary_and_hold_what_they_say(name: str) -> None:
    study = load_study(name)
    assert study.description
    for scale in study.runs:
        specs = study.expand(scale)
        values = levels(spec.axes for spec in specs)
        varied = {axis for axis, found in values.items() if len(found) > 1}
        said = set(study.varies)
        assert {axis if axis in said else ALSO_CALLED[axis] for axis in varied} == said, scale
        for claim in study.holds_fixed.split(", "):
            found = [FIXED[claim](spec) for spec in specs]
            assert all(value == found[0] for value in found), (scale, claim)
        if scale == "cpu" and name not in ("sweeps.pretrain", "sweeps.prompt_and_window"):
            assert len({spec.seeds for spec in specs}) > 1, "the search repeats with seeds itself"


def test_the_issues_studies_exist_at_both_scales() -> None:
    listed = ("pretrain", "model_size", "data_diversity", "data_volume", "joint", "noise_floor",
              "prediction_window", "prompt_length", "prompt_and_window")  # fmt: skip
    studies = {name: load_study(f"sweeps.{name}") for name in listed}
    assert all(set(study.runs) == {"cpu", "a100"} for study in studies.values())
    assert studies["prediction_window"].scores == ("horizon_l1", "adapted_success")
    assert studies["prompt_and_window"].search is not None
    for scale in ("cpu", "a100"):
        points = levels(s.axes for s in studies["prompt_length"].expand(scale))
        assert points["soft_prompt_length"] == [4, 8, 16, 32, 64]
        assert len(points["size"]) == 2
        windows = levels(s.axes for s in studies["prediction_window"].expand(scale))
        assert windows["prediction_window_s"] == [1.0, 2.0, 4.0, 8.0]


def published(repository: Path, number: int) -> list[dict[str, str]]:
    """Return the rows of one of the paper's tables as printed."""
    with open(repository / "analysis" / "published" / f"table_{number}.csv") as stream:
        return list(csv.DictReader(stream))


def test_pretrain_is_table_9_field_by_field(repository: Path) -> None:
    (spec,) = load_study("sweeps.pretrain").expand("a100")
    jitter = ", ".join([str(JITTER_STRENGTH)] * 3)
    ours = {
        "Optimizer": "AdamW",  # the only one: scaling.training.engine
        "Batch size": str(spec.global_batch_size),
        "Learning rate": f"{spec.optim.lr:.0e}".replace("e-0", "e-"),
        "Weight decay": str(spec.optim.weight_decay),
        "Optimizer momentum": "beta1, beta2 = {}, {}".format(*spec.optim.betas),
        "Training iterations": f"{spec.num_steps // 1000}K",
        "Model precision": {"bf16": "bfloat16"}[spec.precision],
        "Image Resize": f"{spec.data.image_size}x{spec.data.image_size}",
        "Image Augmentation": {"color_jitter": f"ColorJitter({jitter}, 0)"}[spec.data.augmentation],
    }
    assert ours == {row["configuration"]: row["value"] for row in published(repository, 9)}


def test_pretrain_has_table_10s_sources_and_weights(repository: Path) -> None:
    (spec,) = load_study("sweeps.pretrain").expand("a100")
    printed = Counter(
        (int(row["num_trajectories"]), float(row["sampling_weight"]))
        for row in published(repository, 10)
    )
    assert Counter((e.num_episodes, e.weight) for e in spec.data.mixture) == printed
    assert sum(entry.weight for entry in spec.data.mixture) == pytest.approx(1.0)
    ours = {entry.name: entry.weight for entry in spec.data.mixture}
    alias = {"agibot": "AGIBOT", "droid_left": "Droid-Left", "robomind_franka": "RoboMind-Franka",
             "robomind_franka_dual": "RoboMind-Dual-Franka", "robomind_ur": "RoboMind-UR",
             "robomind_agilex": "RoboMind-Agilex"}  # fmt: skip
    weights = {r["data_source"]: float(r["sampling_weight"]) for r in published(repository, 10)}
    assert {alias[name]: ours[name] for name in alias} == weights
    assert ours["droid_right"] == ours["droid_left"]  # printed as Droid-Left a second time


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
    numbers = cost_of(spec)
    assert numbers.compute_flops == pytest.approx(4.15e20, rel=0.03)
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
