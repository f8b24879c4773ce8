"""The Florence-2 encoder: token counts, order, and agreement with transformers' full model."""

from dataclasses import replace

import pytest
import torch
from policy_cases import TINY, make_batch
from transformers import Florence2Model

from xvla.config import VisionConfig
from xvla.encoder import FlorenceEncoder, florence_config
from xvla.params import num_view_tokens


@pytest.mark.parametrize(("image_size", "tokens"), [(32, 17), (33, 26), (64, 65)])
def test_token_counts(image_size: int, tokens: int) -> None:
    encoder = FlorenceEncoder(TINY).eval()
    images = torch.randn(2, 3, image_size, image_size)
    assert encoder.encode_images(images).shape == (2, tokens, 24)
    assert num_view_tokens(TINY.vision, image_size) == tokens


@pytest.mark.parametrize(("image_size", "tokens"), [(96, 10), (128, 17), (224, 50), (256, 65)])
def test_released_token_counts(image_size: int, tokens: int) -> None:
    assert num_view_tokens(VisionConfig(), image_size) == tokens


def test_equals_the_full_florence_model() -> None:
    torch.manual_seed(0)
    full = Florence2Model(florence_config(TINY)).eval()
    encoder = FlorenceEncoder(TINY).eval()
    own = {k: v for k, v in full.state_dict().items() if k in encoder.state_dict()}
    encoder.load_state_dict(own)
    batch = make_batch(TINY)
    vlm, aux = encoder(batch.input_ids, batch.images, batch.view_mask)
    views = full.get_image_features(batch.images.flatten(0, 1)).pooler_output
    views = views.unflatten(0, (3, 2))
    text = full.get_input_embeddings()(batch.input_ids)
    merged = torch.cat([views[:, 0], text], dim=1)
    expected = full.language_model.encoder(inputs_embeds=merged).last_hidden_state
    torch.testing.assert_close(vlm, expected)
    torch.testing.assert_close(aux, views[:, 1])


def test_pixels_of_absent_views_do_not_matter() -> None:
    encoder, batch = FlorenceEncoder(TINY).eval(), make_batch(TINY)
    mask = torch.tensor([[True, True], [True, False], [False, True]])
    changed = batch.images.clone()
    changed[~mask] = float("nan")
    first = encoder(batch.input_ids, batch.images, mask)
    second = encoder(batch.input_ids, changed, mask)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
    assert first[1][1].abs().max() == 0


def test_one_view_gives_an_empty_second_stream() -> None:
    encoder, batch = FlorenceEncoder(TINY).eval(), make_batch(TINY, views=1)
    vlm, aux = encoder(batch.input_ids, batch.images, batch.view_mask)
    assert vlm.shape == (3, 17 + 7, 24)
    assert aux.shape == (3, 0, 24)


def test_stage_lists_must_agree() -> None:
    vision = replace(TINY.vision, depths=[1, 1, 1])
    with pytest.raises(ValueError, match=r"vision.depths=\[1, 1, 1\] has 3 entries"):
        FlorenceEncoder(replace(TINY, vision=vision))
    with pytest.raises(ValueError, match=r"vision.num_heads=3 does not divide"):
        FlorenceEncoder(replace(TINY, vision=replace(TINY.vision, num_heads=[3, 2])))
