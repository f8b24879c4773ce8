"""The model against a slow second writing of it, on random small configurations."""

import random
from dataclasses import dataclass, replace

import pytest
import reference_model as reference
import torch
from policy_cases import TINY, make_batch
from torch import Tensor
from transformers import Florence2Model

from xvla.batch import Batch
from xvla.config import ModelConfig
from xvla.model import XVLA

TOLERANCE = 1e-4
CASES = 14


def random_config(seed: int) -> ModelConfig:
    """Draw an architecture; every mode, projection and prompt length comes up."""
    draw = random.Random(seed)
    stages = draw.choice([1, 2, 3])
    heads = draw.choice([1, 2, 4])
    vision = replace(
        TINY.vision,
        dim_embed=[8, 16, 24][:stages],
        depths=[draw.choice([1, 2]) for _ in range(stages)],
        num_heads=[draw.choice([1, 2, 4]) for _ in range(stages)],
        num_groups=[draw.choice([1, 2, 4]) for _ in range(stages)],
        patch_size=[7, 3, 3][:stages],
        patch_stride=[8, 2, 2][:stages],
        patch_padding=[3, 1, 1][:stages],
        patch_prenorm=[False, True, True][:stages],
        window_size=draw.choice([2, 3, 4, 5]),
        mlp_ratio=4.0,
    )
    mode = ("ee6d", "joint", "agibot_ee6d", "auto")[seed % 4]
    return replace(
        TINY,
        vision=vision,
        text=replace(TINY.text, encoder_layers=draw.choice([1, 2])),
        hidden_size=8 * heads * draw.choice([1, 2]),
        num_heads=heads,
        depth=draw.choice([1, 2, 3]),
        mlp_ratio=draw.choice([2.0, 4.0]),
        num_domains=draw.choice([1, 3, 7]),
        soft_prompt_length=(0, 1, 5)[seed % 3],
        dim_time=draw.choice([8, 32]),
        num_anchors=draw.choice([1, 4, 9]),
        use_hetero_proj=seed % 2 == (seed // 4) % 2,
        action_mode=mode,
        real_action_dim=draw.choice([3, 7, 11]) if mode == "auto" else 20,
        max_action_dim=11 if mode == "auto" else 20,
        auto_loss_scale=draw.choice([1.0, 100.0]),
    )


def random_model(config: ModelConfig, seed: int) -> XVLA:
    """Return a model none of whose tensors is zero or one, so that each of them matters."""
    torch.manual_seed(seed)
    model = XVLA(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.2
            parameter += 0.5 * scale * torch.randn_like(parameter)
    return model


def random_batch(config: ModelConfig, seed: int) -> Batch:
    """Draw views, size and domains; masked views, also a sample without any, come up."""
    draw = random.Random(seed + 1000)
    views, size = draw.choice([1, 2, 3]), draw.choice([2, 3])
    image_size = draw.choice([33, 40, 64])
    batch = make_batch(config, size=size, views=views, image_size=image_size, seed=seed)
    mask = torch.rand(size, views) < 0.6
    mask[0, draw.randrange(views)] = True
    if seed % 3 == 0:
        mask[1] = False
    domains = torch.tensor([draw.randrange(config.num_domains) for _ in range(size)])
    return replace(batch, view_mask=mask, domain_id=domains)


@dataclass
class Case:
    """One model with its batch, and the reference over copies of the same weights."""

    model: XVLA
    batch: Batch
    weights: dict[str, Tensor]
    florence: Florence2Model
    policy: reference.ReferencePolicy

    def seen(self) -> list[reference.Pair]:
        batch = self.batch
        return reference.encode(self.florence, batch.input_ids, batch.images, batch.view_mask)


@pytest.fixture(params=range(CASES), scope="module")
def case(request) -> Case:
    config = random_config(request.param)
    model = random_model(config, request.param)
    weights = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    florence = reference.florence(config, weights).eval()
    policy = reference.ReferencePolicy(config, weights)
    return Case(model, random_batch(config, request.param), weights, florence, policy)


def error(given: Tensor, expected: Tensor) -> float:
    """Return the largest deviation, relative to the largest expected value."""
    assert given.shape == expected.shape
    if not expected.numel():
        return 0.0
    return ((given - expected).abs().max() / expected.abs().max().clamp(min=1e-9)).item()


def test_features(case: Case) -> None:
    vlm, aux = case.model.encode(case.batch)
    seen = case.seen()
    assert error(vlm, torch.stack([pair[0] for pair in seen])) < TOLERANCE
    assert error(aux, torch.stack([pair[1] for pair in seen])) < TOLERANCE


def test_losses_and_gradients(case: Case) -> None:
    torch.manual_seed(5)
    time, noise = torch.rand(len(case.batch)), torch.randn(case.batch.action.shape)
    expected = reference.train(case.policy, case.seen(), case.batch, time, noise)
    sum(expected.values()).backward()
    given = case.model(case.batch, time=time, noise=noise)
    sum(given.values()).backward()
    assert set(given) == set(expected)
    assert all(error(given[name], expected[name]) < TOLERANCE for name in given)
    gradients = {n: t.grad for n, t in case.weights.items() if n.startswith("transformer.")}
    encoder = case.florence.named_parameters(prefix="vlm", remove_duplicate=False)
    gradients |= {n: p.grad for n, p in encoder if n in case.weights}
    largest = max(g.norm() for g in gradients.values())
    for name, parameter in case.model.named_parameters():
        # With one view the projection of the others is not used.
        own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        gap = (own - gradients[name]).norm()
        assert gap <= TOLERANCE * gradients[name].norm() + 1e-6 * largest, name


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_sampled_actions(case: Case, steps: int) -> None:
    config = case.model.config
    torch.manual_seed(6)
    noise = torch.randn(len(case.batch), config.num_anchors, reference.width(config))
    with torch.no_grad():
        expected = reference.act(case.policy, case.seen(), case.batch, steps, noise)
    assert error(case.model.act(case.batch, steps=steps, noise=noise), expected) < TOLERANCE


def test_the_cases_cover_what_they_should() -> None:
    configs = [random_config(seed) for seed in range(CASES)]
    batches = [random_batch(config, seed) for seed, config in enumerate(configs)]
    assert len({c.action_mode for c in configs}) == 4
    pairs = {(c.action_mode, c.use_hetero_proj) for c in configs}
    assert len(pairs) == 8
    assert {c.soft_prompt_length for c in configs} == {0, 1, 5}
    assert {b.images.shape[1] for b in batches} == {1, 2, 3}
    assert any(not b.view_mask.any(dim=1).all() for b in batches)
    assert any(b.images.shape[1] == 1 and not b.view_mask.all() for b in batches)
    assert any(not b.view_mask[:, 0].all() for b in batches)
