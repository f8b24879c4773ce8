"""The policy as a whole: modes, parts, parameter counts and complaints."""

from dataclasses import replace

import pytest
import torch
from policy_cases import NO_DROPOUT, TINY, VARIANTS, make_batch

from xvla.config import ModelConfig
from xvla.model import XVLA, count_parameters, parameter_groups
from xvla.params import num_params

LOSSES = {
    "ee6d": {"position_loss", "rotate6D_loss", "gripper_loss"},
    "joint": {"joints_loss", "gripper_loss"},
    "agibot_ee6d": {"position_loss", "rotate6D_loss", "gripper_loss"},
    "auto": {"joints_loss"},
    "velocity": {"velocity_loss"},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_and_acts(name: str) -> None:
    config = VARIANTS[name]
    torch.manual_seed(0)
    model = XVLA(config)
    batch = make_batch(config)
    losses = model(batch)
    assert set(losses) == LOSSES.get(name, LOSSES["ee6d"])
    sum(losses.values()).backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert not missing
    action = model.act(batch, steps=3)
    assert action.shape == batch.action.shape
    assert torch.isfinite(action).all()


@pytest.mark.parametrize("config", VARIANTS.values(), ids=list(VARIANTS))
def test_closed_form_counts_equal_the_built_model(config: ModelConfig) -> None:
    assert num_params(config) == count_parameters(config)


def test_parameter_groups_cover_the_model_once() -> None:
    model = XVLA(TINY)
    groups = parameter_groups(model)
    ids = [id(p) for params in groups.values() for p in params]
    assert list(groups) == ["vlm", "transformer_core", "soft_prompts", "action_heads"]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    assert any(p is model.transformer.vlm_proj.weight for p in groups["transformer_core"])


def test_time_and_noise_make_the_loss_reproducible() -> None:
    model, batch = XVLA(TINY).eval(), make_batch(TINY)
    time, noise = torch.tensor([0.1, 0.5, 0.9]), torch.randn(batch.action.shape)
    first, second = (model(batch, time=time, noise=noise) for _ in range(2))
    other = model(batch, time=time, noise=noise + 1)
    assert first == second
    assert other["position_loss"] != first["position_loss"]


def test_cached_features_replace_the_images() -> None:
    model, batch = XVLA(TINY).eval(), make_batch(TINY)
    features = model.encode(batch)
    blank = replace(batch, images=torch.zeros(3, 2, 3, 0, 0))
    noise = torch.randn(batch.action.shape)
    assert torch.equal(
        model.act(blank, noise=noise, features=features), model.act(batch, noise=noise)
    )


def test_a_sample_without_any_view_is_accepted() -> None:
    model, batch = XVLA(TINY).eval(), make_batch(TINY)
    mask = torch.tensor([[True, True], [False, False], [True, False]])
    action = model.act(replace(batch, view_mask=mask), steps=2)
    assert torch.isfinite(action).all()


def test_acting_restores_the_mode_and_ignores_hidden_noise() -> None:
    model, batch = XVLA(TINY).train(), make_batch(TINY)
    noise = torch.randn(batch.action.shape)
    changed = noise.clone()
    changed[..., [9, 19]] += 5
    assert torch.equal(model.act(batch, noise=noise), model.act(batch, noise=changed))
    assert model.training
    assert model.transformer.training


def test_activation_checkpointing_changes_nothing() -> None:
    torch.manual_seed(0)
    model, batch = XVLA(NO_DROPOUT).train(), make_batch(TINY)
    time, noise = torch.rand(3), torch.randn(batch.action.shape)

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        sum(model(batch, time=time, noise=noise).values()).backward()
        return [p.grad.clone() for p in model.parameters()]

    plain = gradients()
    model.set_activation_checkpointing(True)
    assert all(torch.equal(a, b) for a, b in zip(plain, gradients(), strict=True))


def test_compiled_blocks_change_nothing() -> None:
    torch.manual_seed(0)
    model, batch = XVLA(NO_DROPOUT).train(), make_batch(TINY)
    time, noise = torch.rand(3), torch.randn(batch.action.shape)
    names = list(model.state_dict())
    plain = model(batch, time=time, noise=noise)
    model.compile_blocks(backend="aot_eager")
    compiled = model(batch, time=time, noise=noise)
    assert {k: v.item() for k, v in compiled.items()} == pytest.approx(
        {k: v.item() for k, v in plain.items()}, rel=1e-5
    )
    sum(compiled.values()).backward()
    assert list(model.state_dict()) == names
    assert model.transformer.blocks[0]._compiled_call_impl is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 5}, "num_heads=5 does not divide model.hidden_size=32"),
        ({"projection_dim": 32}, "must equal model.projection_dim=32"),
        ({"prediction": "noise"}, "prediction='noise'"),
        ({"depth": 0}, "depth=0"),
        ({"soft_prompt_length": -1}, "soft_prompt_length=-1"),
        ({"action_mode": "auto", "real_action_dim": 21}, "real_action_dim=21"),
    ],
)
def test_an_impossible_configuration_is_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        XVLA(replace(TINY, **change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": -1}, "depth=-1; allowed: a whole number, 1 or more"),
        ({"num_heads": 5}, "num_heads=5 does not divide model.hidden_size=32"),
        ({"vision": replace(TINY.vision, depths=[1])}, r"vision.depths=\[1\] has 1 entries"),
        ({"text": replace(TINY.text, d_model=32)}, "must equal model.projection_dim=24"),
    ],
)
def test_planners_refuse_it_without_building(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        num_params(replace(TINY, **change))


def test_a_dictionary_is_no_configuration() -> None:
    with pytest.raises(ValueError, match="config is of type dict; give an xvla"):
        XVLA({"hidden_size": 32})


def test_an_unknown_attention_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="attention='fast' is not known"):
        XVLA(TINY, attention="fast")


def test_flash_by_name_is_refused_on_the_cpu() -> None:
    model = XVLA(TINY, attention="flash_attention_2")
    with pytest.raises(ValueError, match="needs a CUDA device"):
        model(make_batch(TINY))
