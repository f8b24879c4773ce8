"""Checkpoints: three layouts there and back, damaged files, foreign architectures."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from policy_cases import TINY, VARIANTS, make_batch
from safetensors.torch import load_file, save_file

from xvla.config import ModelConfig
from xvla.layouts.config import config_from_json
from xvla.layouts.names import microsoft_name, native_name
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


MICROSOFT_ONLY = (
    "vlm.image_projection",
    "vlm.vision_tower.convs.0.proj.weight",
    "vlm.vision_tower.blocks.0.0.spatial_block.window_attn.fn.qkv.weight",
    "vlm.language_model.model.encoder.layers.0.fc1.bias",
)


@pytest.mark.parametrize("name", MICROSOFT_ONLY)
@pytest.mark.parametrize(("layout", "prefix"), [("xvla", ""), ("lerobot-old", "model.")])
def test_a_tensor_is_named_as_in_its_file(
    name: str, layout: str, prefix: str, tmp_path: Path
) -> None:
    save_pretrained(load_pretrained(FIXTURE), tmp_path, layout)
    tensors = load_file(tmp_path / WEIGHTS)
    damaged = tensors.pop(prefix + name)
    write_tensors(tmp_path / WEIGHTS, tensors)
    with pytest.raises(ValueError, match=rf"1 missing \({re.escape(prefix + name)}\); 0 surplus"):
        load_pretrained(tmp_path)
    write_tensors(tmp_path / WEIGHTS, tensors | {prefix + name: damaged * float("nan")})
    with pytest.raises(ValueError, match=rf": {re.escape(prefix + name)} holds NaN"):
        load_pretrained(tmp_path)
    write_tensors(tmp_path / WEIGHTS, tensors | {prefix + name: torch.zeros(2, 2, 2)})
    with pytest.raises(ValueError, match=rf": {re.escape(prefix + name)} has shape"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["vlm.language_model.lm_head.weight", "vlm.language_model.model.decoder.bias", "model.x"],
)
def test_a_surplus_tensor_is_named_as_in_its_file(name: str, tmp_path: Path) -> None:
    path = copy_without(tmp_path)
    write_tensors(path / WEIGHTS, load_file(path / WEIGHTS) | {name: torch.zeros(0)})
    with pytest.raises(ValueError, match=rf"0 missing; 1 surplus \({name}\)"):
        load_pretrained(path)


def test_two_names_of_one_tensor_are_refused(tmp_path: Path) -> None:
    path = copy_without(tmp_path)
    tensors = load_file(path / WEIGHTS)
    again = {
        "vlm.vision_tower.convs.0.conv.bias": tensors["vlm.vision_tower.convs.0.proj.bias"] + 1
    }
    write_tensors(path / WEIGHTS, tensors | again)
    with pytest.raises(ValueError, match=r"under two names each; surplus: .*convs.0.(conv|proj)"):
        load_pretrained(path)


def test_weights_of_whole_numbers_are_refused(tmp_path: Path) -> None:
    path = copy_without(tmp_path)
    counts = {"transformer.norm.weight": torch.ones(64, dtype=torch.int64)}
    write_tensors(path / WEIGHTS, load_file(path / WEIGHTS) | counts)
    with pytest.raises(ValueError, match=r"transformer.norm.weight is of torch.int64"):
        load_pretrained(path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_lie_as_torch_would_put_them(layout: str, tmp_path: Path) -> None:
    """Kernels round by where a tensor starts: every layout must give the same last bit."""
    model = load_pretrained(save_pretrained(load_pretrained(FIXTURE), tmp_path, layout))
    assert all(tensor.data_ptr() % 64 == 0 for tensor in model.state_dict().values())


def test_an_overwritten_file_does_not_reach_a_loaded_model(tmp_path: Path) -> None:
    path = copy_without(tmp_path)
    model = load_pretrained(path)
    with (path / WEIGHTS).open("r+b") as stream:
        stream.seek(100_000)
        stream.write(bytes(1_000_000))
    assert_same(model.state_dict(), load_pretrained(FIXTURE).state_dict())


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
        ("null", "config.json holds 'None'; allowed is a JSON object"),
        ("[1, 2]", r"config.json holds '\[1, 2\]'; allowed is a JSON object"),
        ('{"model_type": "xvla", "florence_config": 3}', "no florence_config.vision_config"),
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


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"config.json is not valid JSON"):
        load_pretrained(tmp_path)


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("kept")
    with pytest.raises(ValueError, match="model is a file; give a folder"):
        save_pretrained(XVLA(TINY), tmp_path / "model")
    assert (tmp_path / "model").read_text() == "kept"


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


def test_projections_by_domain_follow_another_count_of_domains(tmp_path: Path, caplog) -> None:
    config = VARIANTS["hetero"]
    save_pretrained(XVLA(config), tmp_path)
    model = load_pretrained(tmp_path, config=replace(config, num_domains=7))
    assert "transformer.vlm_proj.fc.weight has shape" in caplog.text
    assert model.transformer.vlm_proj.fc.weight.std() > 0
    assert model.transformer.aux_visual_proj.bias.weight.shape == (7, 32)


def test_the_official_code_does_not_scale_words(tmp_path: Path) -> None:
    path = copy_without(tmp_path)
    raw = json.loads((path / "config.json").read_text())
    raw["florence_config"]["text_config"]["scale_embedding"] = True
    (path / "config.json").write_text(json.dumps(raw))
    assert load_pretrained(path).config == read_config(FIXTURE)
    scaled = replace(TINY, text=replace(TINY.text, scale_embedding=True))
    with pytest.raises(ValueError, match=r"text.scale_embedding=True has no effect in layout"):
        save_pretrained(XVLA(scaled), tmp_path / "scaled", "xvla")


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


@pytest.mark.parametrize("name", ["ee6d", "hetero"])
def test_more_domains_keep_the_rows_that_are_trained(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = VARIANTS.get(name, TINY)
    model = XVLA(config)
    save_pretrained(model, tmp_path)
    rows = config.num_domains
    grown = load_pretrained(tmp_path, config=replace(config, num_domains=rows + 3))
    assert f"newly initialised but for the first {rows} rows" in caplog.text
    longer = dict(grown.state_dict())
    for key, before in model.state_dict().items():
        assert torch.equal(longer[key][: len(before)] if before.ndim else longer[key], before), key
    prompts = longer["transformer.soft_prompt_hub.weight"]
    assert len(prompts) == rows + 3
    assert prompts[rows:].std() > 0  # the new rows are no copies and not zero
    batch = make_batch(config)
    noise = torch.randn(batch.action.shape)
    torch.testing.assert_close(
        grown.act(batch, noise=noise), model.eval().act(batch, noise=noise), rtol=0, atol=0
    )
