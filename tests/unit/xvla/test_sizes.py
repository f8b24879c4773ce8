"""The ladder: what each rung states, what the closed form says, and what is built."""

import pytest
import torch

from scaling.sizes import LADDER, SIZES
from xvla.config import ModelConfig
from xvla.model import build_on_meta, count_parameters
from xvla.params import num_params

# The released 0.9B, part by part (sum: 879,482,456).
PARTS = {
    "vlm.vision_tower.": 360_632_320,
    "vlm.multi_modal_projector.": 2_201_600,
    "vlm.language_model.encoder.embed_tokens.": 52_519_936,
    "vlm.language_model.encoder.embed_positions.": 4_196_352,
    "vlm.language_model.encoder.layers.": 151_154_688,
    "vlm.language_model.encoder.layernorm_embedding.": 2_048,
    "transformer.blocks.": 302_309_376,
    "transformer.action_encoder.": 2_242_560,
    "transformer.action_decoder.": 615_000,
    "transformer.soft_prompt_hub.": 983_040,
    "transformer.vlm_proj.": 1_049_600,
    "transformer.aux_visual_proj.": 1_049_600,
    "transformer.pos_emb": 524_288,
    "transformer.norm.": 2_048,
}
FLORENCE = {"base": (128, 768, 6, 1024), "large": (256, 1024, 12, 4096)}


def test_parts_of_the_released_model() -> None:
    model = build_on_meta(ModelConfig())
    parameters = dict(model.named_parameters())
    counts = {
        part: sum(p.numel() for name, p in parameters.items() if name.startswith(part))
        for part in PARTS
    }
    assert counts == PARTS
    assert sum(PARTS.values()) == sum(p.numel() for p in parameters.values()) == 879_482_456
    assert all(p.device == torch.device("meta") for p in parameters.values())
    assert sum(b.numel() for b in model.buffers()) == 100 * 2048  # the temporal positions
    domain = num_params(ModelConfig())
    assert (domain["action_heads"] + domain["soft_prompts"]) // 30 == 128_020


@pytest.mark.parametrize("name", LADDER)
def test_a_rung_states_what_is_built(name: str) -> None:
    rung = LADDER[name]
    built = count_parameters(rung.config)
    assert built == num_params(rung.config)
    assert built["policy"] == rung.num_params_policy
    assert built["total"] == rung.num_params_total
    assert SIZES[name] == rung.config


def test_the_ladder_climbs() -> None:
    totals = [rung.num_params_total for rung in LADDER.values()]
    assert totals == sorted(totals)
    assert totals[0] == pytest.approx(1e6, rel=0.05)
    assert {"tiny", "50m", "0.26b", "0.45b", "0.9b", "2b"} <= set(SIZES)
    for name, rung in LADDER.items():
        if name.endswith("b"):
            assert rung.num_params_total == pytest.approx(float(name[:-1]) * 1e9, rel=0.03)


def test_large_rungs_keep_a_released_encoder() -> None:
    """Pretrained Florence-2 has two sizes; whoever wants its weights keeps one of them."""
    for rung in LADDER.values():
        vision, text = rung.config.vision, rung.config.text
        shape = (
            vision.dim_embed[0],
            text.d_model,
            text.encoder_layers,
            text.max_position_embeddings,
        )
        assert FLORENCE.get(rung.encoder, shape) == shape
        assert (rung.encoder in FLORENCE) == (rung.num_params_total > 100e6)
