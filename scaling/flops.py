"""Exact matrix-multiply FLOPs of X-VLA from its config (2 per multiply-add), without torch.

Two counts. What our model runs, exact to torch's FlopCounterMode: the default. And, with
`as_released=True`, what the authors' code runs, which pads windows before projecting and computes
every token of the last block: the compute axis of a scaling law, which must not move when an
implementation gets faster.
"""

from xvla.config import ModelConfig, TextConfig, VisionConfig
from xvla.params import action_dim, map_sides, num_view_tokens, proprio_dim


def tokens_per_view(config: ModelConfig, image_size: int) -> int:
    """Image tokens a view: one pooled token and the final map (50 at 224 pixels)."""
    return num_view_tokens(config.vision, image_size)


def vision_flops(config: ModelConfig, image_size: int, *, as_released: bool = False) -> float:
    """Forward FLOPs of the vision tower and the projection for one view."""
    vision = config.vision
    sides = map_sides(vision, image_size)
    total = 0.0
    for stage, side in enumerate(sides):
        total += _patch_embed_flops(vision, stage, side)
        blocks = _shared_block_flops(vision, stage, side)
        blocks += (_padded_windows if as_released else _real_windows)(vision, stage, side)
        total += vision.depths[stage] * blocks
    return total + 2 * (sides[-1] ** 2 + 1) * vision.dim_embed[-1] * config.projection_dim


def text_flops(text: TextConfig, sequence: int) -> float:
    """Forward FLOPs of the BART encoder over the merged image and text sequence."""
    return text.encoder_layers * _layer_flops(sequence, text.d_model, text.encoder_ffn_dim)


def policy_flops(
    config: ModelConfig,
    *,
    views: int,
    image_size: int,
    text_len: int,
    as_released: bool = False,
) -> float:
    """Forward FLOPs of the soft-prompted transformer for one sample."""
    width, action = config.hidden_size, action_dim(config)
    inputs = action + proprio_dim(config) + config.dim_time
    image = tokens_per_view(config, image_size)
    main, aux = image + text_len, (views - 1) * image
    sequence = config.num_anchors + main + aux + config.soft_prompt_length
    projections = 2 * (main + aux) * config.projection_dim * width
    heads = 2 * config.num_anchors * width * (inputs + action)
    hidden = int(width * config.mlp_ratio)
    blocks = (config.depth - 1) * _layer_flops(sequence, width, hidden)
    # Our last block runs for the action tokens alone, the only ones that are read out.
    queries = sequence if as_released else config.num_anchors
    last = _layer_flops(queries, width, hidden, context=sequence)
    return projections + heads + blocks + last


def forward_flops(
    config: ModelConfig,
    *,
    views: int,
    image_size: int,
    text_len: int,
    batch_size: int = 1,
    as_released: bool = False,
) -> float:
    """Forward FLOPs of one batch, every view present."""
    shape = {"views": views, "image_size": image_size, "text_len": text_len}
    vlm = _vlm_flops(config, **shape, as_released=as_released)
    return batch_size * (vlm + policy_flops(config, **shape, as_released=as_released))


def step_flops(
    config: ModelConfig,
    *,
    views: int,
    image_size: int,
    text_len: int,
    batch_size: int = 1,
    frozen_vlm: bool = False,
    as_released: bool = False,
) -> float:
    """Forward and backward FLOPs of one batch: trained parts 3 x forward, a frozen VLM 1 x.

    Attention's backward counts 2 x its forward, though flash kernels recompute the scores: these
    are the model's FLOPs, not the hardware's (as MFU is defined in PaLM, appendix B).
    """
    shape = {"views": views, "image_size": image_size, "text_len": text_len}
    vlm = _vlm_flops(config, **shape, as_released=as_released)
    policy = policy_flops(config, **shape, as_released=as_released)
    return batch_size * ((1 if frozen_vlm else 3) * vlm + 3 * policy)


def _vlm_flops(
    config: ModelConfig, *, views: int, image_size: int, text_len: int, as_released: bool
) -> float:
    merged = tokens_per_view(config, image_size) + text_len
    image = vision_flops(config, image_size, as_released=as_released)
    return views * image + text_flops(config.text, merged)


def _patch_embed_flops(vision: VisionConfig, stage: int, side: int) -> float:
    channels_in = 3 if stage == 0 else vision.dim_embed[stage - 1]
    return 2 * side**2 * vision.patch_size[stage] ** 2 * channels_in * vision.dim_embed[stage]


def _shared_block_flops(vision: VisionConfig, stage: int, side: int) -> float:
    """A spatial and a channel block on a side x side map, but for the attention in windows."""
    width, tokens = vision.dim_embed[stage], side**2
    convolutions = 4 * 2 * 9 * tokens * width
    feed_forward = 2 * 2 * 2 * tokens * width * int(width * vision.mlp_ratio)
    per_group = width // vision.num_groups[stage]
    channel = 2 * tokens * width * (4 * width) + 2 * 2 * tokens * width * per_group
    return convolutions + feed_forward + channel


def _padded_windows(vision: VisionConfig, stage: int, side: int) -> float:
    """Window attention on a map padded to whole windows."""
    width, window = vision.dim_embed[stage], vision.window_size
    padded = (-(-side // window) * window) ** 2
    return 2 * padded * width * (4 * width) + 2 * 2 * padded * window**2 * width


def _real_windows(vision: VisionConfig, stage: int, side: int) -> float:
    """Window attention on real tokens; a window's padding is one more key."""
    width, window = vision.dim_embed[stage], vision.window_size
    whole, rest = divmod(side, window)
    attention = 0.0
    for rows, height in ((whole, window), (1, rest)):
        for columns, breadth in ((whole, window), (1, rest)):
            tokens = height * breadth
            keys = tokens + (tokens < window**2)
            attention += rows * columns * 2 * 2 * tokens * keys * width
    return 2 * side**2 * width * (4 * width) + attention


def _layer_flops(queries: int, width: int, hidden: int, context: int | None = None) -> float:
    """A Transformer layer for `queries` tokens that attend to `context` (default: themselves)."""
    keys = context or queries
    projections = 2 * width * width * (2 * queries + 2 * keys)
    attention = 2 * 2 * queries * keys * width
    return projections + attention + 2 * 2 * queries * width * hidden
