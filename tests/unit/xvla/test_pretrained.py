"""Checkpoints: three layouts there and back, damaged files, foreign architectures."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from policy_cases import TINY, VARIANTS, make_batch
from safetensors.torch import load_file, save_file

from xvla.config import ModelConfig
from xvla.layouts import config_from_json, microsoft_name, native_name
from xvla.model import XVLA, build_on_meta
from xvla.pretrained import (
    load_encoder,
    load_florence,
    load_pretrained,
    read_config,
    save_pretrained,
    write_tensors,
)

FIXTURE = Path(__file__).parents[2] / "assets" / "xvla-official-tiny-ee6d"
WEIGHTS = "model.safetensors"
LAYOUTS = ["xvla", "lerobot", "lerobot-old", "ours"]


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert set(first) == set(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_released_layout_survives_every_other(layout: str, tmp_path: Path) -> None:
    model = load_pretrained(FIXTURE)
    save_pretrained(model, tmp_path / "a", layout)
    again = load_pretrained(tmp_path / "a")
    assert_same(model.state_dict(), again.state_dict())
    # The loss scale of `auto` follows the layout, in every mode.
    assert again.config == replace(model.config, auto_loss_scale=again.config.auto_loss_scale)
    save_pretrained(again, tmp_path / "b", "xvla")
    assert_same(load_file(FIXTURE / WEIGHTS), load_file(tmp_path / "b" / WEIGHTS))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["joint", "auto", "hetero", "no_prompts", "one_block"])
def test_round_trips_of_variants(layout: str, name: str, tmp_path: Path) -> None:
    model = XVLA(VARIANTS[name])
    again = load_pretrained(save_pretrained(model, tmp_path, layout))
    assert_same(model.state_dict(), again.state_dict())
    batch = make_batch(model.config)
    noise = torch.randn(batch.action.shape)
    assert torch.equal(model.act(batch, noise=noise), again.act(batch, noise=noise))


def test_ours_keeps_the_whole_configuration(tmp_path: Path) -> None:
    config = replace(VARIANTS["velocity"], dropout=0.25, dim_proprio=32)
    save_pretrained(XVLA(config), tmp_path)
    assert read_config(tmp_path) == config


def test_tensor_names_of_the_layouts(tmp_path: Path) -> None:
    model = load_pretrained(FIXTURE)
    names = {
        layout: set(load_file(save_pretrained(model, tmp_path / layout, layout) / WEIGHTS))
        for layout in LAYOUTS
    }
    assert names["xvla"] == set(load_file(FIXTURE / WEIGHTS))
    assert {n.removeprefix("model.") for n in names["lerobot-old"]} == names["xvla"]
    assert "model.vlm.multi_modal_projector.image_projection.weight" in names["lerobot"]
    assert names["ours"] == set(model.state_dict())


def test_names_translate_both_ways_at_full_size() -> None:
    native = list(build_on_meta(ModelConfig()).state_dict())
    microsoft = [microsoft_name(n) for n in native]
    assert [native_name(n) for n in microsoft] == native
    assert "vlm.vision_tower.blocks.2.8.channel_block.ffn.fn.net.fc2.bias" in microsoft


@pytest.mark.parametrize("keep", [0, 1])
def test_either_name_of_the_tied_embedding_is_enough(keep: int, tmp_path: Path) -> None:
    tied = ("vlm.language_model.model.shared.weight", microsoft_name(EMBEDDING))
    path = copy_without(tmp_path, tied[1 - keep])
    assert_same(load_pretrained(FIXTURE).state_dict(), load_pretrained(path).state_dict())


def test_contradicting_tied_embeddings_are_refused(tmp_path: Path) -> None:
    path = copy_without(tmp_path)
    tensors = load_file(path / WEIGHTS)
    tensors["vlm.language_model.model.shared.weight"] += 1
    write_tensors(path / WEIGHTS, tensors)
    with pytest.raises(ValueError, match="differ although they are one tensor"):
        load_pretrained(path)


def test_missing_and_surplus_tensors_are_named(tmp_path: Path) -> None:
    path = copy_without(tmp_path, "transformer.norm.bias")
    with pytest.raises(ValueError, match=r"1 missing \(transformer.norm.bias\)"):
        load_pretrained(path)
    tensors = load_file(FIXTURE / WEIGHTS) | {"transformer.extra": torch.zeros(2)}
    write_tensors(path / WEIGHTS, tensors)
    with pytest.raises(ValueError, match=r"1 surplus \(transformer.extra\)"):
        load_pretrained(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = copy_without(tmp_path)
    content = (path / WEIGHTS).read_bytes()
    (path / WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged or cut off"):
        load_pretrained(path)
    (path / WEIGHTS).unlink()
    with pytest.raises(ValueError, match="does not exist"):
        load_pretrained(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": "openvla"}', "describes 'openvla', not X-VLA"),
        ('{"type": "pi0"}', "describes 'pi0'"),
        ("{", "is not valid JSON"),
        ('{"model_type": "xvla", "florence_config": {}}', "no florence_config.vision_config"),
        ('{"architecture": "xvla", "model": {"widht": 3}}', r"unknown fields \['widht'\]"),
        ('{"architecture": "xvla", "model": {"text": {"layers": 3}}}', r"model.text .*layers"),
    ],
)
def test_another_architecture_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = copy_without(tmp_path)
    (path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_pretrained(path)


def test_no_configuration_and_no_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no readable config.json"):
        load_pretrained(tmp_path / "nowhere")


def test_another_width_is_refused_but_other_heads_start_fresh(tmp_path: Path, caplog) -> None:
    path = copy_without(tmp_path)
    raw = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(raw | {"hidden_size": 32}))
    with pytest.raises(ValueError, match=r"has shape .* the model needs"):
        load_pretrained(path)
    config = replace(config_from_json(raw), num_domains=7, action_mode="joint")
    model = load_pretrained(FIXTURE, config=config)
    assert "transformer.action_decoder.fc.weight has shape" in caplog.text
    assert model.transformer.action_decoder.fc.weight.std() > 0
    assert model.act(make_batch(config, image_size=64)).shape[-1] == 14


def test_a_layout_that_cannot_say_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="prediction='velocity' has no place"):
        save_pretrained(XVLA(VARIANTS["velocity"]), tmp_path, "xvla")
    with pytest.raises(ValueError, match="dim_proprio=32 has no place"):
        save_pretrained(XVLA(VARIANTS["wide_proprio"]), tmp_path, "xvla")
    with pytest.raises(ValueError, match="layout='onnx' is not known"):
        save_pretrained(XVLA(TINY), tmp_path, "onnx")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch) -> None:
    save_pretrained(XVLA(TINY), tmp_path)
    before = (tmp_path / WEIGHTS).read_bytes()

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("xvla.pretrained.save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        save_pretrained(XVLA(TINY), tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", WEIGHTS]


def test_the_encoder_alone_travels(tmp_path: Path) -> None:
    donor, model = XVLA(TINY), XVLA(TINY)
    tensors = {n: t for n, t in donor.state_dict().items() if n.startswith("vlm.")}
    save_file(tensors, tmp_path / "encoder.safetensors")
    policy = {n: p.clone() for n, p in model.transformer.state_dict().items()}
    load_encoder(model, tmp_path)
    assert_same(model.vlm.state_dict(), donor.vlm.state_dict())
    assert_same(model.transformer.state_dict(), policy)
    wider = XVLA(replace(TINY, vision=replace(TINY.vision, mlp_ratio=2.0)))
    with pytest.raises(ValueError, match="has shape"):
        load_encoder(wider, tmp_path / "encoder.safetensors")
    with pytest.raises(ValueError, match="does not exist"):
        load_encoder(model, tmp_path / "other.safetensors")


def test_florence_weights_come_through_transformers(tmp_path: Path, caplog) -> None:
    from transformers import Florence2ForConditionalGeneration

    from xvla.encoder import florence_config

    torch.manual_seed(1)
    text = replace(TINY.text, vocab_size=70, max_position_embeddings=50)
    source = Florence2ForConditionalGeneration(florence_config(replace(TINY, text=text)))
    source.save_pretrained(tmp_path / "florence")
    model = XVLA(TINY)
    load_florence(model, str(tmp_path / "florence"))
    given, own = source.model.state_dict(), model.vlm.state_dict()
    tables = ("embed_tokens.weight", "embed_positions.weight")
    for name, value in own.items():
        rows = min(len(value), len(given[name])) if name.endswith(tables) else len(value)
        assert torch.equal(value[:rows], given[name][:rows]), name
    assert "70 rows given, 64 wanted; 64 copied" in caplog.text


def test_an_unknown_florence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no Florence-2 weights at"):
        load_florence(XVLA(TINY), str(tmp_path / "nothing"))


EMBEDDING = "vlm.language_model.encoder.embed_tokens.weight"


def copy_without(folder: Path, *names: str) -> Path:
    """Copy the fixture's checkpoint, leaving tensors out."""
    shutil.copy(FIXTURE / "config.json", folder / "config.json")
    tensors = load_file(FIXTURE / WEIGHTS)
    write_tensors(folder / WEIGHTS, {n: t for n, t in tensors.items() if n not in names})
    return folder
