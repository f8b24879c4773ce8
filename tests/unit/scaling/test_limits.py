"""Values that no run can have are refused by name, when the config that holds them is made."""

import math
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace

import pytest

from scaling.config import with_overrides
from scaling.spec import OptimConfig, RunSpec
from scaling.train import main
from xvla.config import DataConfig, DomainEntry, ModelConfig
from xvla.limits import FieldError


def outside(kind: type, section: str = "") -> Iterator[tuple[str, object]]:
    """Yield each limited field below a config with the nearest values that it may not hold."""
    for item in fields(kind):
        key = f"{section}{item.name}"
        if is_dataclass(item.type):
            yield from outside(item.type, f"{key}.")
        limits = item.metadata.get("limits")
        if not limits:
            continue
        step = 1 if item.type in (int, list[int], dict[str, int]) else 0.5
        for bound, value in (
            (limits.least, limits.least - step),
            (limits.most, limits.most + step),
            (limits.above, limits.above),
            (limits.below, limits.below),
        ):
            if math.isfinite(bound):
                one = int(value) if step == 1 else value
                kept = {"list": [one], "dict": {"name": one}}
                yield key, kept.get(str(item.type).partition("[")[0], one)


OUTSIDE = list(outside(RunSpec))
OTHERS = [
    ("optim.lr", math.nan),
    ("optim.lr", math.inf),
    ("optim.grad_clip", math.nan),
    ("optim.betas", [0.9, -0.1]),
]


def test_many_fields_have_limits() -> None:
    assert len({key for key, _ in OUTSIDE}) > 70


@pytest.mark.parametrize(("key", "value"), [*OUTSIDE, *OTHERS])
def test_a_wrong_number_is_named(key: str, value: object) -> None:
    said = rf"^{re.escape(key)}=\[?.*; allowed: "
    with pytest.raises(FieldError, match=said):
        with_overrides(RunSpec(), [f"{key}={value}".replace("nan", ".nan").replace("inf", ".inf")])
    node, *rest = key.split(".")
    config = RunSpec()
    for name in (node, *rest[:-1]) if rest else ():
        config = getattr(config, name)
    with pytest.raises(FieldError, match=said):
        replace(config, **{key.rpartition(".")[2]: value})


WRONG_TYPES = [
    (OptimConfig, "lr", "fast", "optim.lr='fast'; allowed: a number, above 0"),
    (OptimConfig, "freeze_vlm", 1, "optim.freeze_vlm=1; allowed: true or false"),
    (OptimConfig, "betas", 0.9, "optim.betas=0.9; allowed: a list, each entry a number"),
    (OptimConfig, "freeze_steps", True, "optim.freeze_steps=True; allowed: a whole number"),
    (ModelConfig, "vision", None, "model.vision=None; allowed: the fields of VisionConfig"),
    (ModelConfig, "depth", 2.0, "model.depth=2.0; allowed: a whole number, 1 or more"),
    (DataConfig, "target", "next", "data.target='next'; allowed: absolute, delta, delta_xyz"),
    (DataConfig, "mixture", ["sim_panda"], "each entry the fields of DomainEntry"),
    (DataConfig, "root", None, "data.root=None; allowed: a string"),
    (DomainEntry, "num_frames", 1.5, "data.mixture.num_frames=1.5; allowed: a whole number, or"),
    (RunSpec, "precision", "fp16", "precision='fp16'; allowed: fp32, bf16"),
]


@pytest.mark.parametrize(("kind", "field", "value", "said"), WRONG_TYPES)
def test_a_value_of_another_type_is_named(kind, field: str, value: object, said: str) -> None:
    named = {"name": "sim_panda"} if kind is DomainEntry else {}
    with pytest.raises(FieldError, match=re.escape(said)):
        kind(**named | {field: value})


def test_a_whole_number_will_do_for_a_number() -> None:
    assert OptimConfig(lr=1).lr == 1
    assert DomainEntry(name="sim_panda", num_frames=None).num_frames is None


def test_every_recipe_can_be_made() -> None:
    from scaling.recipes import RECIPES, with_recipe

    for name, recipe in RECIPES.items():
        made = with_recipe(RunSpec(), name)
        assert (made.optim, made.schedule) == (recipe.optim, recipe.schedule)
        assert (made.num_steps, made.precision) == (recipe.num_steps, recipe.precision)


@pytest.mark.parametrize("override", ["engine.micro_batch_size=-2", "resources.nodes=0"])
def test_a_run_is_refused_in_one_line(make_run, capsys, override: str) -> None:
    run_yaml = make_run()
    assert main([str(run_yaml), override]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {override}; allowed: ")
    assert said.count("\n") == 1
    assert list(run_yaml.parent.iterdir()) == [run_yaml]


def test_the_file_itself_is_checked(make_run, capsys) -> None:
    run_yaml = make_run()
    run_yaml.write_text(run_yaml.read_text().replace("nodes: 1", "nodes: 0"))
    assert main([str(run_yaml)]) == 2
    said = capsys.readouterr().err
    assert said == "error: resources.nodes=0; allowed: a whole number, 1 or more\n"
