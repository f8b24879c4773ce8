"""Closed-form sizes of the policy (parameters, tokens); standard library only, for planners."""

from xvla.config import ModelConfig, TextConfig, VisionConfig

NORM = 2  # weight and bias of a LayerNorm, per feature


def action_dim(config: ModelConfig) -> int:
    """Return A, the width of the network's action tokens.

    `auto` pads every robot to `max_action_dim`; the other spaces have a fixed layout.
    """
    dims = {"ee6d": 20, "agibot_ee6d": 20, "joint": 14, "auto": config.max_action_dim}
    if config.action_mode not in dims:
        raise ValueError(
            f"action_mode={config.action_mode!r} is not known; allowed: {sorted(dims)}; "
            "correct the field in the model configuration"
        )
    return dims[config.action_mode]


def proprio_dim(config: ModelConfig) -> int:
    """Return P, the width of the proprioceptive state (A unless `dim_proprio` says otherwise)."""
    return action_dim(config) if config.dim_proprio < 0 else config.dim_proprio


def map_sides(vision: VisionConfig, image_size: int) -> list[int]:
    """Return the side of each stage's feature map for square images of `image_size` pixels."""
    sides, side = [], image_size
    for patch, stride, pad in zip(
        vision.patch_size, vision.patch_stride, vision.patch_padding, strict=True
    ):
        side = (side + 2 * pad - patch) // stride + 1
        sides.append(side)
    return sides


def map_side(vision: VisionConfig, image_size: int) -> int:
    """Return the side of the last map."""
    return map_sides(vision, image_size)[-1]


def num_view_tokens(vision: VisionConfig, image_size: int) -> int:
    """Return Nv = 1 + side^2: one pooled token and the last feature map."""
    return 1 + map_side(vision, image_size) ** 2


def num_params(config: ModelConfig) -> dict[str, int]:
    """Count trainable parameters per part, exactly.

    Returns total = vlm + policy and policy = transformer_core + soft_prompts + action_heads; the
    four last parts are the optimizer's groups. The buffer of temporal positions is not counted.
    Raises ValueError for a configuration that cannot be.
    """
    config.validate()
    heads = _action_heads(config)
    prompts = config.num_domains * config.soft_prompt_length * config.hidden_size
    core = _transformer_core(config)
    vlm = _vision_tower(config.vision) + _projector(config) + _text_encoder(config.text)
    policy = core + prompts + heads
    return {
        "total": vlm + policy,
        "vlm": vlm,
        "policy": policy,
        "soft_prompts": prompts,
        "action_heads": heads,
        "transformer_core": core,
    }


def _linear(dim_in: int, dim_out: int, *, bias: bool = True) -> int:
    return dim_in * dim_out + (dim_out if bias else 0)


def _vision_tower(vision: VisionConfig) -> int:
    """Count DaViT: per stage a strided convolution, then pairs of spatial and channel blocks."""
    total, previous = 0, 3
    for stage, dim in enumerate(vision.dim_embed):
        patch = vision.patch_size[stage] ** 2
        normed = previous if vision.patch_prenorm[stage] else dim
        total += _linear(patch * previous, dim) + NORM * normed
        total += 2 * vision.depths[stage] * _vision_half_block(vision, dim)
        previous = dim
    return total


def _vision_half_block(vision: VisionConfig, dim: int) -> int:
    """Count one spatial or channel block; both have the same layers."""
    depthwise = 9 * dim + dim
    attention = _linear(dim, 3 * dim, bias=vision.qkv_bias) + _linear(dim, dim)
    hidden = int(dim * vision.mlp_ratio)
    ffn = _linear(dim, hidden) + _linear(hidden, dim)
    return 2 * depthwise + attention + ffn + 2 * NORM * dim


def _projector(config: ModelConfig) -> int:
    width = config.vision.dim_embed[-1]
    tables = config.vision.max_position_embeddings * width
    return _linear(width, config.projection_dim, bias=False) + NORM * config.projection_dim + tables


def _text_encoder(text: TextConfig) -> int:
    """Count BART's encoder; its position table has two spare rows at the front."""
    dim, ffn = text.d_model, text.encoder_ffn_dim
    tables = (text.vocab_size + text.max_position_embeddings + 2) * dim
    layer = 4 * _linear(dim, dim) + _linear(dim, ffn) + _linear(ffn, dim) + 2 * NORM * dim
    return tables + NORM * dim + text.encoder_layers * layer


def _transformer_core(config: ModelConfig) -> int:
    dim = config.hidden_size
    mlp = int(dim * config.mlp_ratio)
    attention = _linear(dim, 3 * dim) + _linear(dim, dim)
    block = attention + _linear(dim, mlp) + _linear(mlp, dim) + 2 * NORM * dim
    copies = config.num_domains if config.use_hetero_proj else 1
    projections = 2 * copies * _linear(config.projection_dim, dim)
    return config.depth * block + projections + config.max_seq_len * dim + NORM * dim


def _action_heads(config: ModelConfig) -> int:
    actions, dim = action_dim(config), config.hidden_size
    encoder = _linear(actions + proprio_dim(config) + config.dim_time, dim)
    return config.num_domains * (encoder + _linear(dim, actions))
