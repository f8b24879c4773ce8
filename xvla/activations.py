"""Closed-form bytes of activations that a training step keeps for its backward pass.

What autograd saves is counted: each storage once, weights not at all, fp32 on a CPU (other kernels
keep other things on a GPU, and half precision halves most of it). Standard library only.
N images, B batch, S tokens, D width, F hidden width, H heads; a stage's map is side x side.
"""

from xvla.config import ModelConfig, TextConfig, VisionConfig
from xvla.params import action_dim, map_sides, num_view_tokens, proprio_dim

FLOAT, INDEX = 4, 8  # bytes; an element of a dropout mask has 1
NORM = 2  # mean and spread that a LayerNorm keeps of each token
# The tower's first stages have long maps and narrow layers: two fifths of its activations for a
# sixth of its arithmetic. On a CPU, where memory is the rest of the machine's too, they run again
# in the backward pass; a GPU is better used with `activation_checkpointing` or without.
EARLY_STAGES = 2


def activation_bytes(
    config: ModelConfig, *, views: int, image_size: int, text_len: int, batch_size: int = 1
) -> dict[str, int]:
    """Return the bytes kept by the `vision` tower, the `text` encoder, the `policy`; their `total`.

    Every view is present, every part is trained, nothing is recomputed (no checkpointing).
    """
    image = num_view_tokens(config.vision, image_size)
    merged, aux = image + text_len, (views - 1) * image
    parts = {
        "vision": batch_size * views * image_bytes(config, image_size),
        "text": batch_size * text_bytes(config.text, merged),
        "policy": batch_size * policy_bytes(config, merged=merged, aux=aux),
    }
    return parts | {"total": sum(parts.values())}


def image_bytes(
    config: ModelConfig, image_size: int, *, recomputed_stages: int = EARLY_STAGES
) -> int:
    """Return the bytes that the vision tower and the projection keep for one image.

    The blocks of the first `recomputed_stages` run again in the backward pass: two on a CPU, none
    on a GPU, all under activation checkpointing.
    """
    vision, arriving, total = config.vision, 3 * image_size**2, 0
    sides = [image_size, *map_sides(vision, image_size)]
    for stage, dim in enumerate(vision.dim_embed):
        before, side = sides[stage] ** 2, sides[stage + 1]
        prenorm = vision.patch_prenorm[stage]
        # The convolution's input, and that of the norm before or after it.
        floats = arriving + (arriving if prenorm else side**2 * dim)
        floats += NORM * (before if prenorm else side**2)
        # Two halves; a channel block also keeps the weights between the channels of a group.
        pair = 2 * _half_block_floats(vision, stage, side) + dim * (dim // vision.num_groups[stage])
        depth = vision.depths[stage]
        if stage < recomputed_stages:  # inputs only
            total += FLOAT * (floats + depth * side**2 * dim)
        else:
            # The order of tokens by window and the way back are kept once a stage.
            total += FLOAT * (floats + depth * pair) + (2 * INDEX * side**2 if depth else 0)
        arriving = side**2 * dim
    tokens = 1 + sides[-1] ** 2
    projection = tokens * (vision.dim_embed[-1] + config.projection_dim + NORM)
    return total + FLOAT * projection


def _half_block_floats(vision: VisionConfig, stage: int, side: int) -> int:
    """Return the numbers that a spatial and a channel block both keep.

    The inputs of two convolutions, of two norms, of the attention's two products (queries, keys,
    values; its output) and the MLP's hidden values before the activation.
    """
    dim = vision.dim_embed[stage]
    return side**2 * (8 * dim + int(dim * vision.mlp_ratio) + 2 * NORM)


def text_bytes(text: TextConfig, tokens: int) -> int:
    """Return the bytes that BART's encoder keeps for one sample of `tokens` tokens.

    A layer keeps its input, queries, keys, values, the projection's input, both norms' inputs and
    the MLP's, and the hidden values before and after the activation. Dropout keeps its noise.
    """
    wide, hidden = tokens * text.d_model, tokens * text.encoder_ffn_dim
    noise = wide if text.dropout else 0
    scores = text.encoder_attention_heads * tokens**2
    # With dropout the mask, without it the fused kernel's one number a query.
    attention = scores if text.attention_dropout else FLOAT * text.encoder_attention_heads * tokens
    layer = 8 * wide + 2 * hidden + 2 * noise + 2 * NORM * tokens
    layer += hidden if text.activation_dropout else 0
    embedding = wide + noise + NORM * tokens
    layers = text.encoder_layers * (FLOAT * layer + attention)
    return FLOAT * embedding + layers + 2 * INDEX * tokens


def policy_bytes(config: ModelConfig, *, merged: int, aux: int) -> int:
    """Return the bytes that the policy keeps for one sample of `merged` and `aux` image tokens.

    The last block runs for the action tokens alone, which are the only ones read out.
    """
    actions, dim = config.num_anchors, config.hidden_size
    tokens = actions + merged + aux + config.soft_prompt_length
    # A block keeps its input, queries, keys and values, the projection's and the MLP's input; the
    # last one its keys' and values' input too.
    blocks = (config.depth - 1) * (FLOAT * 4 * tokens * dim + _query_bytes(config, tokens, tokens))
    last = FLOAT * 4 * tokens * dim + FLOAT * actions * dim + _query_bytes(config, actions, tokens)
    return policy_edge_bytes(config, merged=merged, aux=aux) + blocks + last


def policy_edge_bytes(config: ModelConfig, *, merged: int, aux: int) -> int:
    """Return the bytes that the policy keeps for one sample before and after its blocks."""
    actions, width, dim = config.num_anchors, action_dim(config), config.hidden_size
    inputs = (merged + aux) * config.projection_dim
    inputs += actions * (width + proprio_dim(config) + config.dim_time)
    if config.use_hetero_proj:  # a row of each table is copied for a sample, with one view too
        inputs += 2 * config.projection_dim * dim
    readout = actions * (2 * dim + NORM) + dim * width + 2 * actions * width
    return FLOAT * (inputs + readout)


def _query_bytes(config: ModelConfig, queries: int, tokens: int) -> int:
    """Return the bytes a block keeps for its queries, beside inputs, queries, keys and values."""
    dim, hidden = config.hidden_size, int(config.hidden_size * config.mlp_ratio)
    floats = queries * (2 * dim + hidden + NORM) + NORM * tokens
    masks = queries * (dim + hidden) if config.dropout else 0
    if config.attention_dropout:
        masks += config.num_heads * queries * tokens
    else:
        floats += config.num_heads * queries
    return FLOAT * floats + masks
