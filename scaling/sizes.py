"""SIZES: the ladder of models, from seconds on a laptop to 2B; add a size by adding a line."""

from dataclasses import replace

from xvla.config import ModelConfig, TextConfig, VisionConfig

# Florence-2-base's encoder (public config of microsoft/Florence-2-base); ModelConfig's own
# defaults are Florence-2-large and the released 0.9B.
FLORENCE_BASE_VISION = VisionConfig(
    dim_embed=[128, 256, 512, 1024],
    num_heads=[4, 8, 16, 32],
    num_groups=[4, 8, 16, 32],
)
FLORENCE_BASE_TEXT = TextConfig(
    d_model=768, encoder_layers=6, encoder_attention_heads=12, encoder_ffn_dim=3072
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


_MEDIUM_VISION = replace(
    FLORENCE_BASE_VISION,
    dim_embed=[64, 128, 256, 512],
    num_heads=[2, 4, 8, 16],
    num_groups=[2, 4, 8, 16],
    depths=[1, 1, 3, 1],
)
_MEDIUM_TEXT = replace(
    FLORENCE_BASE_TEXT, d_model=384, encoder_layers=3, encoder_attention_heads=6,
    encoder_ffn_dim=1536, vocab_size=51289, max_position_embeddings=1024,
)  # fmt: skip

SIZES: dict[str, ModelConfig] = {
    "tiny-h16": _small(16, 1, 2),
    "tiny-h32": _small(32, 2, 4),
    "tiny": _small(64, 3, 4),
    "tiny-h128": _small(128, 4, 4),
    "50m": ModelConfig(
        vision=_MEDIUM_VISION,
        text=_MEDIUM_TEXT,
        projection_dim=384,
        hidden_size=384,
        depth=8,
        num_heads=6,
    ),
    "0.26b": _base(768, 12, 12),
    "0.45b": _base(1024, 22, 16),
    "0.9b": ModelConfig(),
    "2b": ModelConfig(hidden_size=1664, depth=42, num_heads=26),
}
