"""What makes a folder LeRobot's beside the weights: features, normalisation, processor files.

LeRobot builds a policy from config.json and model.safetensors, and what surrounds it (tokenizer,
image normalisation, domain id, statistics) from policy_preprocessor.json and
policy_postprocessor.json with their state files. Field names and steps: LeRobot 0.4 to 0.6.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from xvla.config import ModelConfig
from xvla.layouts.fields import names
from xvla.params import action_dim, proprio_dim

PROCESSORS = ("policy_preprocessor", "policy_postprocessor")
NUM_VIEWS, IMAGE_SIZE, TEXT_LENGTH = 3, 224, 50  # the released values
# What the model itself decides; the other fields of a parent's config.json are carried over.
DECIDED = names(
    """
    type hidden_size depth num_heads mlp_ratio num_domains len_soft_prompts dim_time max_len_seq
    use_hetero_proj action_mode florence_config chunk_size use_proprio max_state_dim
    max_action_dim output_features n_action_steps
    """
)

log = logging.getLogger(__name__)


def policy_fields(config: ModelConfig) -> dict[str, Any]:
    """Return the fields of config.json that LeRobot needs beside the architecture's."""
    state = proprio_dim(config)
    width = config.real_action_dim if config.action_mode == "auto" else action_dim(config)
    image = {"type": "VISUAL", "shape": [3, IMAGE_SIZE, IMAGE_SIZE]}
    cameras = ["image", *(f"image{i + 1}" for i in range(1, NUM_VIEWS))]
    inputs: dict[str, Any] = {f"observation.images.{name}": image for name in cameras}
    return {
        "type": "xvla",
        "n_obs_steps": 1,
        "input_features": inputs
        | {"observation.state": {"type": "STATE", "shape": [state or action_dim(config)]}},
        "output_features": {"action": {"type": "ACTION", "shape": [width]}},
        "normalization_mapping": dict.fromkeys(("VISUAL", "STATE", "ACTION"), "IDENTITY"),
        "chunk_size": config.num_anchors,
        "n_action_steps": config.num_anchors,
        "num_denoising_steps": 10,
        "num_image_views": NUM_VIEWS,
        "tokenizer_name": "facebook/bart-large",
        "tokenizer_max_length": TEXT_LENGTH,
        "use_proprio": state > 0,
        "max_state_dim": state or action_dim(config),
        "max_action_dim": config.max_action_dim,
    }


def inherit(own: dict[str, Any], parent: dict[str, Any]) -> dict[str, Any]:
    """Return our config.json with a parent's features, normalisation, tokenizer and presets.

    Raises ValueError if the parent is not LeRobot's X-VLA.
    """
    if parent.get("type") != "xvla":
        raise ValueError(
            f"the parent's config.json has type={parent.get('type')!r}; allowed: 'xvla' (LeRobot): "
            "give the LeRobot folder that this model came from"
        )
    merged = own | {name: value for name, value in parent.items() if name not in DECIDED}
    steps = parent.get("n_action_steps") or own["n_action_steps"]
    return merged | {"n_action_steps": min(steps, own["chunk_size"])}


def copy_processors(parent: Path, folder: Path) -> bool:
    """Copy a parent's processor files, statistics included; return whether it has them."""
    files = [f for name in PROCESSORS for f in sorted(parent.glob(f"{name}*")) if f.is_file()]
    for file in files:
        if file.parent.resolve() != folder.resolve():
            shutil.copyfile(file, folder / file.name)
    return {f"{name}.json" for name in PROCESSORS} <= {f.name for f in files}


def processors(config: dict[str, Any]) -> dict[str, str]:
    """Return the two processor files (name: text) that belong to a config.json without statistics.

    The domain id is LeRobot's default 0: set it in `xvla_add_domain_id` for another robot.
    """
    norms = config["normalization_mapping"]
    both = config["input_features"] | config["output_features"]
    before = [
        ("rename_observations_processor", {"rename_map": {}}),
        ("to_batch_processor", {}),
        ("tokenizer_processor", _tokenizer(config)),
        ("xvla_image_to_float", {"image_keys": None, "validate_range": True}),
        ("xvla_imagenet_normalize", {"image_keys": None}),
        ("xvla_add_domain_id", {"domain_id": 0}),
        ("device_processor", {"device": "cpu", "float_dtype": None}),
        ("normalizer_processor", {"eps": 1e-8, "features": both, "norm_map": norms}),
    ]
    outputs = {"eps": 1e-8, "features": config["output_features"], "norm_map": norms}
    after = [
        ("unnormalizer_processor", outputs),
        ("device_processor", {"device": "cpu", "float_dtype": None}),
    ]
    return {
        f"{name}.json": json.dumps({"name": name, "steps": _steps(steps)}, indent=2) + "\n"
        for name, steps in zip(PROCESSORS, (before, after), strict=True)
    }


def warn_of_normalisation(config: dict[str, Any], source: str) -> None:
    """Log what LeRobot does around the model that our model does not do."""
    norms = config.get("normalization_mapping") or {}
    for kind in ("STATE", "ACTION"):
        if norms.get(kind, "IDENTITY") != "IDENTITY":
            log.warning(
                "%s: LeRobot normalises %s by %s outside the model; the model's numbers are the "
                "normalised ones (statistics: the folder's processor files)",
                *(source, kind, norms[kind]),
            )


def _tokenizer(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "max_length": config["tokenizer_max_length"],
        "task_key": "task",
        "padding_side": config.get("tokenizer_padding_side", "right"),
        "padding": config.get("pad_language_to", "max_length"),
        "truncation": True,
        "tokenizer_name": config["tokenizer_name"],
    }


def _steps(steps: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    return [{"registry_name": name, "config": options} for name, options in steps]
