"""The config.json of each checkpoint layout, read and written."""

from collections.abc import Callable
from dataclasses import asdict, fields, replace
from typing import Any

from xvla.config import ModelConfig, TextConfig, VisionConfig
from xvla.layouts.fields import (
    FLORENCE,
    LEROBOT,
    OFFICIAL,
    TEXT,
    VISION,
    check_fields,
    check_value,
)
from xvla.layouts.lerobot import policy_fields
from xvla.layouts.names import Layout
from xvla.limits import FieldError
from xvla.params import action_dim, proprio_dim

ARCHITECTURE = "xvla"
DAVIT = ("davit", "florence_vision", "florence2_vision")
POOLING = ["spatial_avg_pool", "temporal_avg_pool"]

# Field of ModelConfig -> key in the official and in LeRobot's config.json.
SHARED_FIELDS = {
    "hidden_size": "hidden_size",
    "depth": "depth",
    "num_heads": "num_heads",
    "mlp_ratio": "mlp_ratio",
    "num_domains": "num_domains",
    "soft_prompt_length": "len_soft_prompts",
    "dim_time": "dim_time",
    "max_seq_len": "max_len_seq",
    "use_hetero_proj": "use_hetero_proj",
}
TEXT_FIELDS = tuple(f.name for f in fields(TextConfig))
VISION_LISTS = (
    "depths",
    "num_heads",
    "num_groups",
    "patch_size",
    "patch_stride",
    "patch_padding",
    "patch_prenorm",
)
# What a foreign config.json cannot say; a model that differs here cannot be written that way.
OURS_ONLY = ("prediction",)
MICROSOFT_LACKS = ("mlp_ratio", "qkv_bias")  # of the vision configuration; transformers has them


def config_from_json(raw: dict[str, Any]) -> ModelConfig:
    """Read the model configuration of any layout, recognised by content.

    Raises ValueError for another architecture, a field that X-VLA does not have, or a value that
    cannot be.
    """
    if raw.get("architecture") == ARCHITECTURE and "model" in raw:
        return model_config(raw["model"]).validate()
    if raw.get("model_type") == ARCHITECTURE:
        check_fields(raw, OFFICIAL, "config.json")
        return _named(_from_official, raw, SHARED_FIELDS | {"num_anchors": "num_actions"})
    if raw.get("type") == ARCHITECTURE:
        check_fields(raw, LEROBOT, "config.json")
        return _named(_from_lerobot, raw, SHARED_FIELDS | {"num_anchors": "chunk_size"})
    given = raw.get("model_type") or raw.get("type") or raw.get("architecture")
    raise ValueError(
        f"config.json describes {given!r}, not X-VLA; allowed: model_type 'xvla' (authors), "
        "type 'xvla' (LeRobot) or architecture 'xvla' (ours); give the folder of such a checkpoint"
    )


def _named(
    read: Callable[[dict[str, Any]], ModelConfig], raw: dict[str, Any], names: dict[str, str]
) -> ModelConfig:
    """Read a config; an error calls our field as the file does (`names`)."""
    try:
        return read(raw).validate()
    except FieldError as error:
        part = error.section.removeprefix("model").removeprefix(".")
        name = names.get(error.field, error.field) if not part else error.field
        raise FieldError(part, name, error.value, error.allowed) from None


def config_to_json(config: ModelConfig, layout: Layout) -> dict[str, Any]:
    """Write the model configuration as the config.json of a layout.

    Raises ValueError if the layout cannot express the model.
    """
    if layout == "ours":
        return {"architecture": ARCHITECTURE, "model": asdict(config)}
    _check_expressible(config, layout)
    shared = {theirs: getattr(config, ours) for ours, theirs in SHARED_FIELDS.items()}
    shared |= {"action_mode": config.action_mode, "florence_config": _florence_json(config)}
    return shared | (
        policy_fields(config) if layout.startswith("lerobot") else _official_json(config)
    )


def model_config(raw: dict[str, Any]) -> ModelConfig:
    """Build a ModelConfig from its dictionary; an unknown key raises ValueError with its name."""
    nested: dict[str, Any] = {"vision": VisionConfig, "text": TextConfig}
    values = {
        key: _strict(nested[key], value, f"model.{key}") if key in nested else value
        for key, value in raw.items()
    }
    return _strict(ModelConfig, values, "model")


def _strict(cls: Any, values: dict[str, Any], where: str) -> Any:
    allowed = {f.name for f in fields(cls)}
    if unknown := sorted(set(values) - allowed):
        raise ValueError(f"{where} has unknown fields {unknown}; allowed: {sorted(allowed)}")
    return cls(**values)


def _from_official(raw: dict[str, Any]) -> ModelConfig:
    values = _shared_values(raw)
    # Microsoft's scaled embedding sits in its encoder; X-VLA looks words up in the shared table.
    values["text"] = replace(values["text"], scale_embedding=False)
    return ModelConfig(
        **values,
        num_anchors=raw.get("num_actions", 30),
        real_action_dim=raw.get("real_action_dim", 20),
        max_action_dim=raw.get("max_action_dim", 20),
        auto_loss_scale=100.0,
    )


def _from_lerobot(raw: dict[str, Any]) -> ModelConfig:
    """LeRobot's defaults differ (chunk 32, state 32); `auto` has loss scale 1 there."""
    features = raw.get("output_features") or {}
    shape = (features.get("action") or {}).get("shape") or [raw.get("max_action_dim", 20)]
    state = raw.get("max_state_dim", 32) if raw.get("use_proprio", True) else 0
    config = ModelConfig(
        **_shared_values(raw),
        num_anchors=raw.get("chunk_size", 32),
        real_action_dim=shape[0],
        max_action_dim=raw.get("max_action_dim", 20),
        auto_loss_scale=1.0,
    )
    return config if state == action_dim(config) else replace(config, dim_proprio=state)


def _shared_values(raw: dict[str, Any]) -> dict[str, Any]:
    values = {ours: raw[theirs] for ours, theirs in SHARED_FIELDS.items() if theirs in raw}
    florence = _part(raw.get("florence_config"))
    for part in ("vision_config", "text_config"):
        if not _part(florence.get(part)):
            raise ValueError(
                f"config.json has no florence_config.{part}; the encoder cannot be built without "
                "it: copy it from a released checkpoint"
            )
    vision, text = florence["vision_config"], florence["text_config"]
    check_fields(florence, FLORENCE, "florence_config")
    check_fields(vision, VISION, "vision_config")
    check_fields(text, TEXT, "text_config")
    values["action_mode"] = str(raw.get("action_mode", "ee6d")).lower()
    values["vision"] = _vision(vision)
    values["text"] = _text(text)
    values["projection_dim"] = florence.get("projection_dim") or vision.get("projection_dim", 1024)
    return values


def _part(value: Any) -> dict[str, Any]:
    """Return a part of a configuration, empty where the file has something else."""
    return value if isinstance(value, dict) else {}


def _vision(raw: dict[str, Any]) -> VisionConfig:
    """Read Microsoft's (nested) or transformers' (flat) vision configuration."""
    check_value(raw, "model_type", DAVIT, "vision_config")
    check_value(raw, "image_feature_source", (POOLING,), "vision_config")
    check_value(raw, "activation_function", ("gelu",), "vision_config")
    values: dict[str, Any] = {name: raw[name] for name in VISION_LISTS if name in raw}
    values["dim_embed"] = raw.get("dim_embed") or raw.get("embed_dim")
    if not values["dim_embed"]:
        raise ValueError("vision_config has neither dim_embed nor embed_dim; give the stage widths")
    for name in ("window_size", "drop_path_rate", "mlp_ratio", "qkv_bias"):
        if name in raw:
            values[name] = raw[name]
    temporal = _part(raw.get("visual_temporal_embedding"))
    position = _part(raw.get("image_pos_embed"))
    if "dim_embed" in raw and not (temporal and position):
        raise ValueError(
            "vision_config lacks visual_temporal_embedding or image_pos_embed; the released "
            "checkpoints have both (COSINE and learned_abs_2d)"
        )
    check_value(temporal, "type", ("COSINE",), "vision_config.visual_temporal_embedding")
    check_value(position, "type", ("learned_abs_2d",), "vision_config.image_pos_embed")
    values["max_temporal_embeddings"] = temporal.get(
        "max_temporal_embeddings", raw.get("max_temporal_embeddings", 100)
    )
    values["max_position_embeddings"] = position.get(
        "max_pos_embeddings", raw.get("max_position_embeddings", 50)
    )
    return VisionConfig(**values)


def _text(raw: dict[str, Any]) -> TextConfig:
    check_value(raw, "model_type", ("florence2_language", "bart"), "text_config")
    check_value(raw, "activation_function", ("gelu",), "text_config")
    for name in ("encoder_layerdrop", "normalize_before", "add_final_layer_norm"):
        check_value(raw, name, (0,), "text_config")
    # The class default for positions is 1024; our default is the released 4096.
    defaults = {
        "max_position_embeddings": 1024,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
    }
    given = {name: raw[name] for name in TEXT_FIELDS if raw.get(name) is not None}
    return TextConfig(**(defaults | given))


def _check_expressible(config: ModelConfig, layout: Layout) -> None:
    released = ModelConfig()
    for name in OURS_ONLY:
        if getattr(config, name) != getattr(released, name):
            raise ValueError(
                f"{name}={getattr(config, name)!r} has no place in layout {layout!r}; use 'ours'"
            )
    for name in () if layout == "lerobot" else MICROSOFT_LACKS:
        if getattr(config.vision, name) != getattr(released.vision, name):
            raise ValueError(f"vision.{name} has no place in layout {layout!r}; use 'ours'")
    if layout == "xvla" and config.text.scale_embedding:
        raise ValueError(
            "text.scale_embedding=True has no effect in layout 'xvla', whose code looks words up "
            "unscaled; use 'lerobot' or 'ours'"
        )
    if layout == "xvla" and proprio_dim(config) != action_dim(config):
        raise ValueError(
            f"dim_proprio={config.dim_proprio} has no place in layout 'xvla', where proprio is "
            f"as wide as the action ({action_dim(config)}); use 'lerobot' or 'ours'"
        )


def _official_json(config: ModelConfig) -> dict[str, Any]:
    return {
        "model_type": ARCHITECTURE,
        "architectures": ["XVLA"],
        "soft_prompt_length": config.soft_prompt_length,
        "num_actions": config.num_anchors,
        "use_proprio": True,
        "real_action_dim": config.real_action_dim,
        "max_action_dim": config.max_action_dim,
    }


def _florence_json(config: ModelConfig) -> dict[str, Any]:
    vision, text = config.vision, config.text
    vision_json = {name: list(getattr(vision, name)) for name in ("dim_embed", *VISION_LISTS)} | {
        "model_type": "davit",
        "window_size": vision.window_size,
        "drop_path_rate": vision.drop_path_rate,
        "enable_checkpoint": False,
        "projection_dim": config.projection_dim,
        "image_feature_source": POOLING,
        "visual_temporal_embedding": {
            "type": "COSINE",
            "max_temporal_embeddings": vision.max_temporal_embeddings,
        },
        "image_pos_embed": {
            "type": "learned_abs_2d",
            "max_pos_embeddings": vision.max_position_embeddings,
        },
    }
    vision_json |= {
        name: getattr(vision, name)
        for name in MICROSOFT_LACKS
        if getattr(vision, name) != getattr(VisionConfig(), name)
    }
    text_json = {name: getattr(text, name) for name in TEXT_FIELDS} | {
        "model_type": "florence2_language",
        "activation_function": "gelu",
        "encoder_layerdrop": 0.0,
        "is_encoder_decoder": True,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": 2,
        # The reference builds a decoder before deleting it; keep that as small as the config can.
        "decoder_layers": 1,
        "decoder_attention_heads": text.encoder_attention_heads,
        "decoder_ffn_dim": text.encoder_ffn_dim,
    }
    return {
        "model_type": "florence2",
        "vocab_size": text.vocab_size,
        "projection_dim": config.projection_dim,
        "ignore_index": -100,
        "pad_token_id": text.pad_token_id,
        "is_encoder_decoder": False,
        "vision_config": vision_json,
        "text_config": text_json,
    }
