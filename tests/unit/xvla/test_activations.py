"""Closed-form activation bytes against what autograd is seen to save."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from policy_cases import TINY, VARIANTS, make_batch
from torch import Tensor, nn

from scaling.sizes import LADDER, SIZES
from xvla.activations import activation_bytes
from xvla.batch import Batch
from xvla.config import ModelConfig
from xvla.model import XVLA, build_on_meta
from xvla.params import action_dim, num_view_tokens, proprio_dim

TOLERANCE = 0.1
RUNGS = [name for name, rung in LADDER.items() if rung.num_params_total < 0.3e9]


def saved_bytes(model: nn.Module, run: Callable[[], object]) -> int:
    """Run and return the bytes that autograd keeps: each storage once, no weight or buffer."""
    owned = [*model.parameters(), *model.buffers()]
    seen = {tensor.untyped_storage().data_ptr() for tensor in owned}
    kept: list[tuple[Tensor, int]] = []  # keeps them alive, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            kept.append((tensor, storage.nbytes()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    del result
    return sum(size for _, size in kept)


def measured(model: XVLA, batch: Batch) -> dict[str, int]:
    """Measure a training step's parts one by one, and the whole."""
    model.train()
    encoder, (size, views) = model.vlm, batch.view_mask.shape
    images = batch.images.flatten(0, 1)
    config, tokens = model.config, num_view_tokens(model.config.vision, images.shape[-1])
    width, text_len = config.projection_dim, batch.input_ids.shape[1]
    main, aux, merged = (
        torch.randn(size, n, width).requires_grad_()
        for n in (tokens, (views - 1) * tokens, tokens + text_len)
    )
    return {
        "vision": saved_bytes(model, lambda: encoder.encode_images(images)),
        "text": saved_bytes(model, lambda: encoder.encode_text(main, batch.input_ids)),
        "policy": saved_bytes(model, lambda: list(model(batch, features=(merged, aux)).values())),
        "total": saved_bytes(model, lambda: list(model(batch).values())),
    }


def rung_batch(config: ModelConfig, image_size: int, text_len: int) -> Batch:
    actions = torch.rand(1, config.num_anchors, action_dim(config))
    return Batch(
        input_ids=torch.ones(1, text_len, dtype=torch.long),
        images=torch.randn(1, 3, 3, image_size, image_size),
        view_mask=torch.ones(1, 3, dtype=torch.bool),
        domain_id=torch.zeros(1, dtype=torch.long),
        proprio=torch.rand(1, proprio_dim(config)),
        action=actions,
    )


@pytest.mark.parametrize("name", RUNGS)
def test_a_rungs_activations(name: str) -> None:
    image_size, text_len = (96, 16) if name.startswith("tiny") else (224, 50)
    config = SIZES[name]
    given = activation_bytes(config, views=3, image_size=image_size, text_len=text_len)
    model = build_on_meta(config).to_empty(device="cpu")  # what is kept depends on shapes alone
    expected = measured(model, rung_batch(config, image_size, text_len))
    assert set(given) == set(expected)
    for part, size in expected.items():
        assert given[part] == pytest.approx(size, rel=TOLERANCE), part


@pytest.mark.parametrize("name", ["auto", "hetero", "no_prompts", "one_block", "joint"])
def test_variants(name: str) -> None:
    """The closed form follows the configuration, batch and views, not only the ladder's shapes."""
    config = VARIANTS[name]
    given = activation_bytes(config, views=2, image_size=32, text_len=7, batch_size=3)
    expected = measured(XVLA(config), make_batch(config, size=3, views=2, image_size=32))
    assert given["total"] == pytest.approx(expected["total"], rel=TOLERANCE)


def test_projections_by_domain_with_one_view() -> None:
    config = replace(VARIANTS["hetero"], hidden_size=128)
    given = activation_bytes(config, views=1, image_size=32, text_len=7)
    expected = measured(XVLA(config), make_batch(config, size=1, views=1))
    assert given["policy"] == pytest.approx(expected["policy"], rel=0.02)


def test_one_view_and_twice_the_batch() -> None:
    shape = {"image_size": 32, "text_len": 7}
    one = activation_bytes(TINY, views=1, **shape)
    assert activation_bytes(TINY, views=1, **shape, batch_size=2)["total"] == 2 * one["total"]
    two = activation_bytes(TINY, views=2, **shape)
    assert two["vision"] == 2 * one["vision"]
    assert two["text"] == one["text"]
