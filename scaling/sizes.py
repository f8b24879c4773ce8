"""SIZES: the ladder of models, from seconds on a laptop to 2B; add a size by adding a line."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from xvla.config import ModelConfig, TextConfig, VisionConfig

Encoder = Literal["small", "medium", "base", "large"]

# Florence-2-base's encoder (public config of microsoft/Florence-2-base); ModelConfig's own
# defaults are Florence-2-large and the released 0.9B.
FLORENCE_BASE_VISION = VisionConfig(
    dim_embed=[128, 256, 512, 1024],
    num_heads=[4, 8, 16, 32],
    num_groups=[4, 8, 16, 32],
)
FLORENCE_BASE_TEXT = TextConfig(
    d_model=768,
    encoder_layers=6,
    encoder_attention_heads=12,
    encoder_ffn_dim=3072,
    max_position_embeddings=1024,
)
# A stand-in for Florence-2 that a CPU can run: same architecture, pretrained on simulated frames
# by `scaling data pretrain-encoder`. Dropout off, so that frozen features can be cached.
SMALL_VISION = VisionConfig(
    dim_embed=[32, 64, 128],
    depths=[0, 1, 2],
    num_heads=[2, 4, 8],
    num_groups=[2, 4, 8],
    patch_size=[7, 3, 3],
    patch_stride=[4, 2, 3],
    patch_padding=[3, 1, 0],
    patch_prenorm=[False, True, True],
    window_size=4,
    mlp_ratio=2.0,
    drop_path_rate=0.0,
    max_temporal_embeddings=4,
    max_position_embeddings=16,
)
SMALL_TEXT = TextConfig(
    vocab_size=512,
    d_model=96,
    encoder_layers=2,
    encoder_attention_heads=4,
    encoder_ffn_dim=192,
    max_position_embeddings=128,
    dropout=0.0,
    attention_dropout=0.0,
    activation_dropout=0.0,
)


MEDIUM_VISION = VisionConfig(
    dim_embed=[64, 128, 256, 512],
    depths=[1, 1, 3, 1],
    num_heads=[2, 4, 8, 16],
    num_groups=[2, 4, 8, 16],
)
MEDIUM_TEXT = TextConfig(
    d_model=384,
    encoder_layers=3,
    encoder_attention_heads=6,
    encoder_ffn_dim=1536,
    max_position_embeddings=1024,
)


def _small(hidden_size: int, depth: int, num_heads: int) -> ModelConfig:
    return ModelConfig(
        vision=SMALL_VISION,
        text=SMALL_TEXT,
        projection_dim=SMALL_TEXT.d_model,
        hidden_size=hidden_size,
        depth=depth,
        num_heads=num_heads,
        dropout=0.0,
        attention_dropout=0.0,
        soft_prompt_length=8,
        max_seq_len=256,
        action_mode="agibot_ee6d",
    )


def _base(hidden_size: int, depth: int, num_heads: int) -> ModelConfig:
    return ModelConfig(
        vision=FLORENCE_BASE_VISION,
        text=FLORENCE_BASE_TEXT,
        projection_dim=768,
        hidden_size=hidden_size,
        depth=depth,
        num_heads=num_heads,
    )


def _medium(hidden_size: int, depth: int, num_heads: int) -> ModelConfig:
    return ModelConfig(
        vision=MEDIUM_VISION,
        text=MEDIUM_TEXT,
        projection_dim=MEDIUM_TEXT.d_model,
        hidden_size=hidden_size,
        depth=depth,
        num_heads=num_heads,
    )


def _large(hidden_size: int, depth: int, num_heads: int) -> ModelConfig:
    return ModelConfig(hidden_size=hidden_size, depth=depth, num_heads=num_heads)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One model of the ladder and its exact numbers of parameters.

    The numbers are stated, not computed, so that no change of a default can move a rung unseen;
    `xvla.params.num_params` and the built model agree with them (tests/unit/xvla/test_sizes.py).
    encoder: Florence-2 was released pretrained as base and large only; `medium` starts from
    scratch, `small` is pretrained here on simulated frames.
    """

    config: ModelConfig
    encoder: Encoder
    num_params_policy: int
    num_params_total: int


def _rung(encoder: Encoder, shape: tuple[int, int, int], *, policy: int, total: int) -> Rung:
    """Build a rung from the policy's (width, depth, heads)."""
    config = ENCODERS[encoder](*shape)
    return Rung(config=config, encoder=encoder, num_params_policy=policy, num_params_total=total)


ENCODERS: dict[Encoder, Callable[[int, int, int], ModelConfig]] = {
    "small": _small,
    "medium": _medium,
    "base": _base,
    "large": _large,
}
LADDER: dict[str, Rung] = {
    # CPU: policy and encoder shrink together.
    "tiny-h16": _rung("small", (16, 1, 2), policy=59_592, total=992_520),
    "tiny-h32": _rung("small", (32, 2, 4), policy=137_432, total=1_070_360),
    "tiny": _rung("small", (64, 3, 4), policy=373_400, total=1_306_328),
    "tiny-h128": _rung("small", (128, 4, 4), policy=1_239_384, total=2_172_312),
    # Between: an encoder of its own, without pretrained weights.
    "50m": _rung("medium", (384, 8, 6), policy=16_129_368, total=54_923_864),
    # GPUs: the encoder stays Florence-2 base or large, the policy varies.
    "0.19b": _rung("base", (384, 8, 6), policy=16_424_280, total=190_338_136),
    "0.26b": _rung("base", (768, 12, 12), policy=89_511_000, total=263_424_856),
    "0.33b": _rung("base", (1024, 12, 16), policy=157_096_536, total=331_010_392),
    "0.45b": _rung("base", (1024, 22, 16), policy=283_058_776, total=456_972_632),
    "0.6b": _rung("large", (512, 8, 8), policy=28_452_440, total=599_159_384),
    "0.66b": _rung("large", (768, 12, 12), policy=89_904_216, total=660_611_160),
    "0.9b": _rung("large", (1024, 24, 16), policy=308_775_512, total=879_482_456),  # released
    "1.3b": _rung("large", (1280, 36, 20), policy=716_470_360, total=1_287_177_304),
    "2b": _rung("large", (1664, 42, 26), policy=1_406_939_224, total=1_977_646_168),
}
SIZES: dict[str, ModelConfig] = {name: rung.config for name, rung in LADDER.items()}
