"""Bad input: each mistake is a ValueError that names the field, its value and what is allowed."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from policy_cases import TINY, VARIANTS, make_batch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from xvla.model import XVLA
from xvla.pretrained import load_pretrained

FIXTURE = Path(__file__).parents[2] / "assets" / "xvla-official-tiny-ee6d"
WRONG_BATCHES: dict[str, tuple[dict[str, Any], str]] = {
    "more images than views": (
        {"images": torch.zeros(3, 3, 3, 32, 32)},
        r"images has shape \[3, 3, 3, 32, 32\] and view_mask \[3, 2\]; expected \[3, V, 3, H, W\]",
    ),
    "fewer masks than views": (
        {"view_mask": torch.ones(3, 1, dtype=torch.bool)},
        r"view_mask \[3, 1\]; expected .* same number of views",
    ),
    "more views than tokens fit": (
        {
            "images": torch.zeros(3, 9, 3, 32, 32),
            "view_mask": torch.ones(3, 9, dtype=torch.bool),
        },
        "9 views of 32 pixels make a sequence of 166 tokens, max_seq_len allows 160",
    ),
    "views of another sample count": (
        {"images": torch.zeros(2, 2, 3, 32, 32)},
        r"images has shape \[2, 2, 3, 32, 32\].*expected \[3, V",
    ),
    "grey views": (
        {"images": torch.zeros(3, 2, 1, 32, 32)},
        r"images has shape \[3, 2, 1, 32, 32\].*3, H, W",
    ),
    "views not square": (
        {"images": torch.zeros(3, 2, 3, 32, 48)},
        "images are 32 x 48 pixels; they must be square",
    ),
    "views too large": (
        {"images": torch.zeros(3, 2, 3, 96, 96)},
        r"images are 96 x 96 .* at most 8 wide \(vision.max_position_embeddings\)",
    ),
    "views without a view axis": (
        {"images": torch.zeros(3, 3, 32, 32)},
        r"images is \[3, 3, 32, 32\] of torch.float32; expected \[B, V, 3, H, W\]",
    ),
    "no view axis at all": (
        {
            "images": torch.zeros(3, 0, 3, 32, 32),
            "view_mask": torch.ones(3, 0, dtype=torch.bool),
        },
        "images has 0 views; give at least 1",
    ),
    "a batch without a view": (
        {"view_mask": torch.zeros(3, 2, dtype=torch.bool)},
        "view_mask is False for all 2 views of all 3 samples; at least one view",
    ),
    "a mask of numbers": (
        {"view_mask": torch.ones(3, 2, dtype=torch.int64)},
        r"view_mask is \[3, 2\] of torch.int64; expected \[B, V\] of torch.bool",
    ),
    "domain too high": (
        {"domain_id": torch.tensor([0, 1, 5])},
        r"domain_id holds 5; allowed is 0 to 4 \(num_domains - 1\)",
    ),
    "domain negative": (
        {"domain_id": torch.tensor([0, -1, 2])},
        "domain_id holds -1; allowed is 0 to 4",
    ),
    "domain as a float": (
        {"domain_id": torch.zeros(3)},
        r"domain_id is \[3\] of torch.float32; expected \[B\] of torch.int64",
    ),
    "text over length": (
        {"input_ids": torch.zeros(3, 90, dtype=torch.long)},
        "input_ids have 90 tokens, 107 with .*; text.max_position_embeddings allows 96",
    ),
    "text of another vocabulary": (
        {"input_ids": torch.full((3, 7), 64)},
        r"input_ids holds 64; allowed is 0 to 63 \(text.vocab_size - 1\)",
    ),
    "proprio of another robot": (
        {"proprio": torch.zeros(3, 14)},
        r"proprio has shape \[3, 14\]; expected \[3, 20\]",
    ),
    "action of another robot": (
        {"action": torch.zeros(3, 6, 14)},
        r"action has shape \[3, 6, 14\]; action_mode='ee6d' expects \[3, 6, 20\]",
    ),
    "bytes instead of normalised pixels": (
        {"images": torch.zeros(3, 2, 3, 32, 32, dtype=torch.uint8)},
        r"images is \[3, 2, 3, 32, 32\] of torch.uint8; expected .* of floating point",
    ),
    "a state of whole numbers": (
        {"proprio": torch.zeros(3, 20, dtype=torch.int64)},
        r"proprio is \[3, 20\] of torch.int64; expected \[B, P\] of floating point",
    ),
    "a state in double precision": (
        {"proprio": torch.zeros(3, 20, dtype=torch.float64)},
        r"proprio is of torch.float64, the model's weights are of torch.float32; convert it",
    ),
    "no array at all": (
        {"view_mask": None},
        r"view_mask is of type NoneType; expected a tensor \[B, V\] of torch.bool",
    ),
    "domains in a list": ({"domain_id": [0, 1, 2]}, "domain_id is of type list"),
    "an action of whole numbers": (
        {"action": torch.zeros(3, 6, 20, dtype=torch.int64)},
        r"action is \[3, 6, 20\] of torch.int64; expected .* floating point",
    ),
    "no sample": (
        {
            "domain_id": torch.zeros(0, dtype=torch.int64),
            "images": torch.zeros(0, 2, 3, 32, 32),
            "view_mask": torch.zeros(0, 2, dtype=torch.bool),
            "input_ids": torch.zeros(0, 7, dtype=torch.int64),
            "proprio": torch.zeros(0, 20),
            "action": torch.zeros(0, 6, 20),
        },
        "0 samples; give a batch of at least 1",
    ),
    "action of another window": (
        {"action": torch.zeros(3, 7, 20)},
        r"action has shape \[3, 7, 20\]; .* expects \[3, 6, 20\]",
    ),
}


@pytest.mark.parametrize("case", WRONG_BATCHES)
def test_a_batch_that_does_not_fit(case: str) -> None:
    change, message = WRONG_BATCHES[case]
    model, batch = XVLA(TINY), replace(make_batch(TINY), **change)
    with pytest.raises(ValueError, match=message):
        model(batch)
    with pytest.raises(ValueError, match=message):
        model.act(batch, steps=1)


WRONG_DRAWS: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "time of one sample": ({"time": torch.rand(1)}, r"time has shape \[1\]; expected \[3\]"),
    "time as a column": ({"time": torch.rand(3, 1)}, r"time is \[3, 1\] .*expected \[B\]"),
    "time above 1": ({"time": torch.tensor([0.0, 5.0, 1.0])}, r"time holds .*; allowed is 0 to 1"),
    "double time": ({"time": torch.rand(3).double()}, "time is of torch.float64"),
    "one sample's noise": (
        {"noise": torch.randn(1, 6, 20)},
        r"noise has shape \[1, 6, 20\]; .* expects \[3, 6, 20\]",
    ),
    "noise without a batch": ({"noise": torch.randn(6, 20)}, r"noise is \[6, 20\] .*expected"),
    "noise of one anchor": ({"noise": torch.randn(3, 1, 20)}, r"expects \[3, 6, 20\]"),
    "noise of another robot": ({"noise": torch.randn(3, 6, 14)}, r"expects \[3, 6, 20\]"),
    "noise of another window": ({"noise": torch.randn(3, 7, 20)}, r"expects \[3, 6, 20\]"),
    "double noise": ({"noise": torch.randn(3, 6, 20).double()}, "noise is of torch.float64"),
}


@pytest.mark.parametrize("case", WRONG_DRAWS)
def test_time_and_noise_that_do_not_fit(case: str) -> None:
    draws, message = WRONG_DRAWS[case]
    model, batch = XVLA(TINY), make_batch(TINY)
    with pytest.raises(ValueError, match=message):
        model(batch, **draws)
    if "noise" in draws:
        with pytest.raises(ValueError, match=message):
            model.act(batch, noise=draws["noise"])


def test_a_double_model_takes_double_batches() -> None:
    model, batch = XVLA(TINY).double().eval(), make_batch(TINY)
    batch = replace(batch, proprio=batch.proprio.double(), action=batch.action.double())
    assert model(batch)["position_loss"].dtype == torch.float64
    assert model.act(batch, steps=1).dtype == torch.float64


def test_half_precision_weights_take_float32_and_refuse_float64() -> None:
    model, batch = XVLA(TINY).bfloat16().eval(), make_batch(TINY)
    time, noise = torch.rand(3), torch.randn_like(batch.action)
    exact = XVLA(TINY).eval()
    exact.load_state_dict(model.state_dict())
    with torch.no_grad():
        losses, expected = model(batch, time, noise), exact(batch, time, noise)
    for name, value in expected.items():
        assert losses[name].dtype == torch.float32  # what is summed up is not rounded
        assert float(losses[name]) == pytest.approx(float(value), rel=0.05)
    assert model.act(batch, steps=1).dtype == torch.float32
    half = replace(batch, proprio=batch.proprio.bfloat16(), action=None)
    assert torch.isfinite(model.act(half, steps=1)).all()
    double = replace(batch, proprio=batch.proprio.double())
    with pytest.raises(ValueError, match=r"proprio is of torch.float64, .* convert it with"):
        model(double)


def test_features_in_float32_are_rounded_to_the_weights() -> None:
    model, batch = XVLA(TINY).bfloat16().eval(), make_batch(TINY)
    merged, aux = model.encode(batch)
    time, noise = torch.rand(3), torch.randn_like(batch.action)
    given = model(batch, time, noise, (merged.float(), aux.float()))
    assert given == model(batch, time, noise, (merged, aux))


def test_noise_may_be_as_wide_as_the_network_or_the_robot() -> None:
    config = VARIANTS["auto"]
    model, batch = XVLA(config).eval(), make_batch(config)
    time, noise = torch.rand(3), torch.randn(3, 6, 12)
    padded = replace(batch, action=functional.pad(batch.action, (0, 5)))
    given, expected = (model(b, time=time, noise=noise) for b in (batch, padded))
    assert given == expected
    narrow = model(padded, time=time, noise=noise[..., :7])
    assert narrow == model(batch, time=time, noise=noise[..., :7])
    with pytest.raises(ValueError, match=r"noise has shape \[3, 6, 9\]; .* 7 or 12\]"):
        model.act(batch, noise=noise[..., :9])


def test_training_needs_an_action() -> None:
    with pytest.raises(ValueError, match=r"batch.action is None; training needs .*\[B, T, A\]"):
        XVLA(TINY)(replace(make_batch(TINY), action=None))


def test_an_unknown_action_mode() -> None:
    message = "model.action_mode='legs'; allowed: ee6d, joint, agibot_ee6d, auto"
    with pytest.raises(ValueError, match=message):
        XVLA(replace(TINY, action_mode="legs"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the official folder, to be damaged."""
    for name in ("config.json", "model.safetensors"):
        shutil.copy(FIXTURE / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers(value: float, checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["transformer.norm.weight"][3] = value
    save_file(tensors, checkpoint / "model.safetensors")
    with pytest.raises(ValueError, match=r"transformer.norm.weight holds NaN or infinite values"):
        load_pretrained(checkpoint)


def edit(path: tuple[str, ...], value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(raw: dict[str, Any]) -> None:
        for name in path[:-1]:
            raw = raw[name]
        raw[path[-1]] = value

    return apply


VISION = ("florence_config", "vision_config")
TEXT = ("florence_config", "text_config")
WRONG_FIELDS = {
    "another architecture": (("model_type",), "pi0", r"describes 'pi0', not X-VLA; allowed"),
    "a field of pi0": (("max_period",), 4.0, r"config.json has max_period=4.0, .* allowed: \["),
    "a later version's delta": (
        ("idx_for_delta",),
        [0, 1],
        r"config.json has idx_for_delta=\[0, 1\]",
    ),
    "a mode of LeRobot's": (("action_mode",), "franka_joint7", "action_mode='franka_joint7'"),
    "another vision tower": (
        (*VISION, "model_type"),
        "siglip",
        r"vision_config.model_type='siglip' is not X-VLA's; allowed: \['davit'",
    ),
    "a field of another tower": (
        (*VISION, "num_hidden_layers"),
        27,
        "vision_config has num_hidden_layers=27",
    ),
    "another pooling": (
        (*VISION, "image_feature_source"),
        ["temporal_avg_pool"],
        r"image_feature_source=\['temporal_avg_pool'\].*allowed: \[\['spatial_avg_pool'",
    ),
    "another position embedding": (
        (*VISION, "image_pos_embed", "type"),
        "sincos",
        r"image_pos_embed.type='sincos'.*allowed: \['learned_abs_2d'\]",
    ),
    "another activation": (
        (*TEXT, "activation_function"),
        "relu",
        r"activation_function='relu'.*allowed: \['gelu'\]",
    ),
    "another language model": (
        (*TEXT, "model_type"),
        "gemma",
        r"text_config.model_type='gemma'.*allowed: \['florence2_language', 'bart'\]",
    ),
    "a field of another language model": (
        (*TEXT, "num_key_value_heads"),
        8,
        "text_config has num_key_value_heads=8",
    ),
}


WRONG_VALUES = [
    (("hidden_size",), "64", "^hidden_size='64'; allowed: a whole number, 1 or more"),
    (("hidden_size",), None, "hidden_size=None; allowed"),
    (("hidden_size",), 64.0, r"hidden_size=64\.0; allowed"),
    (("hidden_size",), 0, "hidden_size=0; allowed: a whole number, 1 or more"),
    (("num_heads",), 0, "num_heads=0; allowed"),
    (("mlp_ratio",), "4", "mlp_ratio='4'; allowed: a number"),
    (("mlp_ratio",), -1.0, "mlp_ratio=-1.0; allowed: a number, above 0"),
    (("use_hetero_proj",), "false", "use_hetero_proj='false'; allowed: true or false"),
    (("num_actions",), 0, "num_actions=0; allowed"),
    (("len_soft_prompts",), -1, "len_soft_prompts=-1; allowed: a whole number, 0 or more"),
    ((*VISION, "window_size"), 0, "vision.window_size=0; allowed"),
    ((*VISION, "window_size"), None, "vision.window_size=None; allowed"),
    ((*VISION, "depths"), None, "vision.depths=None; allowed: a list, each entry a whole number"),
    ((*VISION, "num_heads"), [0, 3, 4, 6], r"vision.num_heads=\[0, 3, 4, 6\]; allowed"),
    ((*VISION, "patch_prenorm"), [0, 1, 1, 1], r"patch_prenorm=\[0, 1, 1, 1\]; .* true or false"),
    ((*VISION, "drop_path_rate"), 1.0, "drop_path_rate=1.0; allowed: .* below 1"),
    ((*TEXT, "vocab_size"), "200", "text.vocab_size='200'; allowed"),
    ((*TEXT, "dropout"), 1.5, "text.dropout=1.5; allowed"),
    ((*TEXT, "pad_token_id"), 777, r"pad_token_id=777; allowed: 0 to 199"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG_VALUES)
def test_a_value_that_cannot_be(path, value, message: str, checkpoint: Path) -> None:
    raw = json.loads((checkpoint / "config.json").read_text())
    edit(path, value)(raw)
    (checkpoint / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=message):
        load_pretrained(checkpoint)


@pytest.mark.parametrize("case", WRONG_FIELDS)
def test_a_configuration_of_something_else(case: str, checkpoint: Path) -> None:
    path, value, message = WRONG_FIELDS[case]
    raw = json.loads((checkpoint / "config.json").read_text())
    edit(path, value)(raw)
    (checkpoint / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=message):
        load_pretrained(checkpoint)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("idx_for_delta",), []),
        ((*VISION, "model_type"), ""),
        ((*TEXT, "classif_dropout"), 0.1),
        (("auto_map",), {"AutoModel": "modeling_xvla.XVLA"}),
    ],
)
def test_what_released_files_also_hold_is_accepted(path, value, checkpoint: Path) -> None:
    expected = load_pretrained(checkpoint).config
    raw = json.loads((checkpoint / "config.json").read_text())
    edit(path, value)(raw)
    (checkpoint / "config.json").write_text(json.dumps(raw))
    assert load_pretrained(checkpoint).config == expected
