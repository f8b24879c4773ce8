"""Overrides on many runs: the copied values are those OmegaConf gives each run by itself."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from omegaconf import OmegaConf

from scaling.config import with_overrides
from scaling.overrides import overrider
from scaling.spec import RunSpec, SeedConfig
from scaling.study import Study, known_studies, load_study

OVERRIDES = ["engine.save_every=7", "optim={lr: 1e-3, betas: [0.8, 0.9]}", "seeds.init=3",
             "model.soft_prompt_length=8", "data.blind=true"]  # fmt: skip


@pytest.fixture(scope="module")
def base() -> RunSpec:
    (spec,) = load_study("sweeps.pretrain").expand("a100")
    return spec


@pytest.mark.parametrize("name", known_studies())
def test_every_study_gets_what_omegaconf_gives(name: str) -> None:
    study = load_study(name)
    for declare in study.runs.values():
        declared = list(declare())
        override = overrider(OVERRIDES)
        for spec in declared[:: max(1, len(declared) // 2)]:
            ours, wanted = override(spec), with_overrides(spec, OVERRIDES)
            assert ours == wanted
            assert ours.run_id == wanted.run_id


def test_shared_parts_stay_shared_and_others_apart(base: RunSpec) -> None:
    other = replace(base, optim=replace(base.optim, weight_decay=0.5))
    override = overrider(["optim.lr=1e-3", "data.blind=true"])
    first, second, third = (override(spec) for spec in (base, replace(base, num_steps=9), other))
    assert first.optim is second.optim
    assert first.data is third.data
    assert (third.optim.lr, third.optim.weight_decay, first.optim.weight_decay) == (1e-3, 0.5, 0.01)
    assert (first.model, second.num_steps) == (base.model, 9)


def test_values_that_depend_on_the_run_are_worked_out_for_each(base: RunSpec) -> None:
    runs = [replace(base, num_steps=n, axes={"n": n}) for n in (100, 200)]
    override = overrider(["schedule.warmup_steps=${num_steps}", "axes.more=1"])
    found = [override(spec) for spec in runs]
    assert [spec.schedule.warmup_steps for spec in found] == [100, 200]
    assert [spec.axes for spec in found] == [{"n": 100, "more": 1}, {"n": 200, "more": 1}]


@pytest.mark.parametrize(
    "words", ["optim.lr=fast", "optim.rate=1", "modle.x=1", "optim.betas[0]=1", "seeds", "stage=x"]
)
def test_mistakes_read_as_before(base: RunSpec, words: str) -> None:
    with pytest.raises(ValueError) as wanted:  # noqa: PT011
        with_overrides(base, [words])
    with pytest.raises(ValueError) as found:  # noqa: PT011
        overrider([words])(base)
    assert str(found.value) == str(wanted.value)
    assert "\n" not in str(found.value)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return how often OmegaConf was asked for what."""
    found: Counter[str] = Counter()

    def ask(name: str, real: Callable[..., Any], *words: Any, **named: Any) -> Any:
        found[name] += 1
        return real(*words, **named)

    for name in ("create", "structured", "from_dotlist", "merge", "to_object", "to_container"):
        monkeypatch.setattr(OmegaConf, name, partial(ask, name, getattr(OmegaConf, name)))
    return found


def of_seeds(base: RunSpec, number: int) -> Study:
    runs = [replace(base, seeds=SeedConfig(init=i)) for i in range(number)]
    return Study(name="x", description="", varies=("seed",), holds_fixed="",
                 runs={"cpu": lambda: runs})  # fmt: skip


def test_an_override_costs_a_run_more_next_to_nothing(base: RunSpec, num_calls, asked) -> None:
    """10,000 runs took 380 CPU-s through OmegaConf, which now sees the first of them alone."""

    def cost(number: int, *words: str) -> int:
        return num_calls(partial(of_seeds(base, number).expand, "cpu", words))

    bare = cost(60) - cost(10)
    assert not asked
    words = ("engine.save_every=7", "optim.lr=1e-3")
    few, of_few = cost(10, *words), asked.copy()
    asked.clear()
    many = cost(60, *words)
    assert asked == of_few
    assert asked["merge"] == 1
    assert many - few < 2 * bare
