"""Small configurations and batches shared by the tests of the policy."""

from dataclasses import replace

import torch

from xvla.batch import Batch
from xvla.config import ModelConfig, TextConfig, VisionConfig
from xvla.params import action_dim, proprio_dim

VISION = VisionConfig(
    dim_embed=[8, 16],
    depths=[1, 1],
    num_heads=[2, 2],
    num_groups=[2, 4],
    patch_size=[7, 3],
    patch_stride=[4, 2],
    patch_padding=[3, 1],
    patch_prenorm=[False, True],
    window_size=4,
    max_position_embeddings=8,
    max_temporal_embeddings=4,
)
TEXT = TextConfig(
    vocab_size=64,
    d_model=24,
    encoder_layers=1,
    encoder_attention_heads=2,
    encoder_ffn_dim=32,
    max_position_embeddings=96,
)
TINY = ModelConfig(
    vision=VISION,
    text=TEXT,
    projection_dim=24,
    hidden_size=32,
    depth=2,
    num_heads=4,
    num_domains=5,
    soft_prompt_length=3,
    num_anchors=6,
    max_seq_len=160,
)
NO_DROPOUT = replace(
    TINY,
    dropout=0.0,
    attention_dropout=0.0,
    text=replace(TEXT, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0),
    vision=replace(VISION, drop_path_rate=0.0),
)
VARIANTS: dict[str, ModelConfig] = {
    "ee6d": TINY,
    "joint": replace(TINY, action_mode="joint"),
    "agibot_ee6d": replace(TINY, action_mode="agibot_ee6d"),
    "auto": replace(TINY, action_mode="auto", real_action_dim=7, max_action_dim=12),
    "hetero": replace(TINY, use_hetero_proj=True),
    "no_prompts": replace(TINY, soft_prompt_length=0),
    "velocity": replace(TINY, prediction="velocity"),
    "wide_proprio": replace(TINY, dim_proprio=32),
    "no_proprio": replace(TINY, dim_proprio=0),
    "one_block": replace(TINY, depth=1, mlp_ratio=2.5),
}


def make_batch(
    config: ModelConfig, *, size: int = 3, views: int = 2, image_size: int = 32, seed: int = 0
) -> Batch:
    """Return a random batch that fits the configuration; all views present."""
    random = torch.Generator().manual_seed(seed)
    width = config.real_action_dim if config.action_mode == "auto" else action_dim(config)
    return Batch(
        input_ids=torch.randint(0, config.text.vocab_size, (size, 7), generator=random),
        images=torch.randn(size, views, 3, image_size, image_size, generator=random),
        view_mask=torch.ones(size, views, dtype=torch.bool),
        domain_id=torch.arange(size) % config.num_domains,
        proprio=torch.randn(size, proprio_dim(config), generator=random),
        action=torch.rand(size, config.num_anchors, width, generator=random),
    )
