"""Numbers that no run can have are refused by name before anything starts."""

import math

import pytest

from scaling.config import with_overrides
from scaling.limits import LIMITS, check_limits
from scaling.spec import RunSpec
from scaling.train import main

WRONG = [
    *(f"{key}={low - 1}" for key, (low, _) in LIMITS.items()),
    *(f"{key}={high + 1}" for key, (_, high) in LIMITS.items() if math.isfinite(high)),
    "optim.lr=0",
    "optim.lr=nan",
    "optim.lr=inf",
    "optim.grad_clip=nan",
    "optim.eps=0",
    "optim.betas=[0.9]",
    "optim.betas=[0.9,1.0]",
    "engine.keep_steps=[0]",
]


@pytest.mark.parametrize("override", WRONG)
def test_a_wrong_number_is_named(override: str) -> None:
    with pytest.raises(ValueError, match=rf"^{override.split('=')[0]}=.*(allowed|greater|begin)"):
        check_limits(with_overrides(RunSpec(), [override]))


def test_recipes_and_defaults_are_within() -> None:
    from scaling.recipes import RECIPES, with_recipe

    check_limits(RunSpec())
    for name in RECIPES:
        check_limits(with_recipe(RunSpec(), name))


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
    assert capsys.readouterr().err == "error: resources.nodes=0; allowed: 1 and more\n"
