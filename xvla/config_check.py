"""Checks of the values in a model configuration; standard library only, like the configuration."""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin

from xvla.config import ModelConfig, VisionConfig

# The smallest value that makes sense, of numbers and of the entries of lists.
AT_LEAST = {
    **dict.fromkeys(("hidden_size", "depth", "num_heads", "num_domains", "num_anchors"), 1),
    **dict.fromkeys(("dim_time", "max_seq_len", "projection_dim", "max_action_dim"), 1),
    **{"soft_prompt_length": 0, "dim_proprio": -1},
    **dict.fromkeys(("vision.dim_embed", "vision.num_heads", "vision.num_groups"), 1),
    **dict.fromkeys(("vision.patch_size", "vision.patch_stride", "vision.window_size"), 1),
    **dict.fromkeys(("vision.max_position_embeddings", "vision.max_temporal_embeddings"), 1),
    **dict.fromkeys(("vision.depths", "vision.patch_padding", "text.encoder_layers"), 0),
    **dict.fromkeys(("text.vocab_size", "text.d_model", "text.encoder_attention_heads"), 1),
    **dict.fromkeys(("text.encoder_ffn_dim", "text.max_position_embeddings"), 1),
}
POSITIVE = ("mlp_ratio", "vision.mlp_ratio", "auto_loss_scale")
SHARES = (
    *("dropout", "attention_dropout", "vision.drop_path_rate"),
    *("text.dropout", "text.attention_dropout", "text.activation_dropout"),
)
STAGE_LISTS = (
    *("depths", "num_heads", "num_groups"),
    *("patch_size", "patch_stride", "patch_padding", "patch_prenorm"),
)
Names = Mapping[str, str]


def check_config(config: ModelConfig, names: Names | None = None) -> None:
    """Raise ValueError naming the first field whose type or value cannot be, and what is allowed.

    names: how the file that the configuration comes from calls our fields.
    """
    if not isinstance(config, ModelConfig):
        raise ValueError(
            f"config is of type {type(config).__name__}; give an xvla.config.ModelConfig"
        )
    _check_fields(config, "", names or {})
    if config.hidden_size % config.num_heads:
        raise ValueError(
            f"num_heads={config.num_heads} does not divide hidden_size={config.hidden_size}"
        )
    _check_stages(config.vision)
    _check_text(config)


def _check_stages(vision: VisionConfig) -> None:
    stages = len(vision.dim_embed)
    for name in STAGE_LISTS:
        if len(getattr(vision, name)) != stages:
            raise ValueError(
                f"vision.{name}={getattr(vision, name)} has {len(getattr(vision, name))} entries; "
                f"vision.dim_embed has {stages} stages: give one entry a stage"
            )
    for name in ("num_heads", "num_groups"):
        for dim, parts in zip(vision.dim_embed, getattr(vision, name), strict=True):
            if dim % parts:
                raise ValueError(f"vision.{name}={parts} does not divide the stage's width {dim}")


def _check_text(config: ModelConfig) -> None:
    text = config.text
    if text.d_model != config.projection_dim:
        raise ValueError(
            f"text.d_model={text.d_model} must equal projection_dim={config.projection_dim}: "
            "image tokens and text tokens share one sequence"
        )
    if text.d_model % text.encoder_attention_heads:
        raise ValueError(
            f"text.encoder_attention_heads={text.encoder_attention_heads} does not divide "
            f"text.d_model={text.d_model}"
        )
    vocabulary, pad = text.vocab_size, text.pad_token_id
    if not 0 <= pad < vocabulary:
        raise ValueError(
            f"text.pad_token_id={pad} is not allowed; give 0 to {vocabulary - 1} "
            "(text.vocab_size - 1)"
        )


def _check_fields(part: Any, prefix: str, names: Names) -> None:
    for field in fields(part):
        name, value = prefix + field.name, getattr(part, field.name)
        if is_dataclass(field.type):
            if not isinstance(value, field.type):  # type: ignore[arg-type]
                raise ValueError(f"{name}={value!r} is not allowed; give its fields")
            _check_fields(value, f"{name}.", names)
        elif wanted := _wanted(name, field.type, value):
            raise ValueError(f"{names.get(name, name)}={value!r} is not {wanted}")


def _wanted(name: str, kind: Any, value: Any) -> str | None:
    """Say what a field wants when `value` is something else, None when it fits."""
    if get_origin(kind) is Literal:
        allowed = sorted(get_args(kind))
        return None if value in allowed else f"known; allowed: {allowed}; correct the field"
    if get_origin(kind) is list:
        entry = get_args(kind)[0]
        if not isinstance(value, list | tuple) or not value:
            return f"allowed; give a list of {entry.__name__}, one entry a stage"
        return next((said for one in value if (said := _wanted(name, entry, one))), None)
    if kind is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        if not fits or not math.isfinite(value):
            return "allowed; give a number"
    elif type(value) is not kind:
        return f"allowed; give one of type {kind.__name__}"
    if name in AT_LEAST and value < AT_LEAST[name]:
        return f"allowed; give at least {AT_LEAST[name]}"
    if name in POSITIVE and value <= 0:
        return "allowed; give a number above 0"
    if name in SHARES and not 0 <= value < 1:
        return "allowed; give 0 or more, below 1"
    return None
