"""The three checkpoint layouts and the tensor names of each.

`xvla`    the authors' folder: Microsoft's Florence-2 names, no prefix.
`lerobot` LeRobot's: prefix `model.`; transformers' native Florence-2 names, older ones Microsoft's
          (written as `lerobot-old`).
`ours`    native names, no prefix, the model configuration under "model".
"""

import re
from typing import Literal, get_args

Layout = Literal["xvla", "lerobot", "lerobot-old", "ours"]

# Microsoft's name -> transformers' native name, below `vlm.`; order matters.
NATIVE_NAMES: tuple[tuple[str, str], ...] = (
    (r"^(vision_tower\.convs\.\d+)\.proj\.", r"\1.conv."),
    (r"\.conv([12])\.fn\.dw\.", r".conv\1."),
    (r"\.(window|channel)_attn\.norm\.", r".norm1."),
    (r"\.(window|channel)_attn\.fn\.", r".\1_attn."),
    (r"\.ffn\.norm\.", r".norm2."),
    (r"\.ffn\.fn\.net\.", r".ffn."),
    (r"^image_proj_norm\.", r"multi_modal_projector.image_proj_norm."),
    (r"^image_pos_embed\.", r"multi_modal_projector.image_position_embed."),
    (r"^visual_temporal_embed\.", r"multi_modal_projector.visual_temporal_embed."),
    (r"^image_projection$", r"multi_modal_projector.image_projection.weight"),
    (r"^language_model\.model\.", r"language_model."),
)
MICROSOFT_NAMES: tuple[tuple[str, str], ...] = (
    (r"^(vision_tower\.convs\.\d+)\.conv\.", r"\1.proj."),
    (r"(_block)\.conv([12])\.", r"\1.conv\2.fn.dw."),
    (r"\.(spatial)_block\.norm1\.", r".\1_block.window_attn.norm."),
    (r"\.(channel)_block\.norm1\.", r".\1_block.channel_attn.norm."),
    (r"\.(window|channel)_attn\.(qkv|proj)\.", r".\1_attn.fn.\2."),
    (r"(_block)\.norm2\.", r"\1.ffn.norm."),
    (r"\.ffn\.(fc[12])\.", r".ffn.fn.net.\1."),
    (r"^multi_modal_projector\.image_proj_norm\.", r"image_proj_norm."),
    (r"^multi_modal_projector\.image_position_embed\.", r"image_pos_embed."),
    (r"^multi_modal_projector\.visual_temporal_embed\.", r"visual_temporal_embed."),
    (r"^multi_modal_projector\.image_projection\.weight$", r"image_projection"),
    (r"^language_model\.", r"language_model.model."),
)


def check_layout(layout: str) -> None:
    """Raise ValueError for an unknown layout."""
    if layout not in get_args(Layout):
        raise ValueError(f"layout={layout!r} is not known; choose one of {list(get_args(Layout))}")


def native_name(name: str) -> str:
    """Translate a full tensor name from Microsoft's to the native scheme."""
    return _rename(name, NATIVE_NAMES)


def microsoft_name(name: str) -> str:
    """Translate a full tensor name from the native to Microsoft's scheme."""
    return _rename(name, MICROSOFT_NAMES)


def uses_microsoft_names(names: list[str]) -> bool:
    """Tell the scheme by content, as LeRobot does."""
    return any(
        n == "vlm.image_projection" or n.startswith("vlm.language_model.model.") for n in names
    )


def _rename(name: str, table: tuple[tuple[str, str], ...]) -> str:
    prefix, _, rest = name.partition(".")
    if prefix != "vlm":
        return name
    for pattern, replacement in table:
        rest = re.sub(pattern, replacement, rest)
    return f"vlm.{rest}"
