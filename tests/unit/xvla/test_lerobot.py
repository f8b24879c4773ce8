"""LeRobot's folders: what LeRobot reads beside the weights, and what a round trip keeps."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from policy_cases import TINY, VARIANTS, make_batch
from safetensors.torch import load_file, save_file

from xvla.config import ModelConfig
from xvla.layouts.config import config_from_json, config_to_json
from xvla.layouts.fields import LEROBOT
from xvla.model import XVLA
from xvla.pretrained import INDEX_FILE, load_pretrained, read_config, save_pretrained

LAYOUTS = ["lerobot", "lerobot-old"]
SHARED = {
    "lerobot": "model.vlm.language_model.shared.weight",
    "lerobot-old": "model.vlm.language_model.model.shared.weight",
}
TOKENS = {
    "lerobot": "model.vlm.language_model.encoder.embed_tokens.weight",
    "lerobot-old": "model.vlm.language_model.model.encoder.embed_tokens.weight",
}
WEIGHTS = "model.safetensors"


def read(folder: Path, name: str = "config.json") -> dict[str, Any]:
    return json.loads((folder / name).read_text())


def edit(folder: Path, **changes: Any) -> None:
    (folder / "config.json").write_text(json.dumps(read(folder) | changes))


def assert_same(first: XVLA, second: XVLA) -> None:
    a, b = first.state_dict(), second.state_dict()
    assert set(a) == set(b)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", ["ee6d", "joint", "auto", "hetero", "no_prompts", "no_proprio"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_configuration_comes_back(name: str, layout: str) -> None:
    config = replace(VARIANTS[name], auto_loss_scale=1.0)
    raw = config_to_json(config, layout)
    # LeRobot's parser refuses a file with a field that it does not know.
    assert set(raw) <= LEROBOT
    again = config_from_json(raw)
    assert again == replace(config, real_action_dim=again.real_action_dim)
    assert raw["n_action_steps"] <= raw["chunk_size"]
    assert raw["output_features"]["action"]["shape"] == [again.real_action_dim]


def test_lerobot_can_say_what_microsoft_cannot(tmp_path: Path) -> None:
    config = replace(TINY, vision=replace(TINY.vision, mlp_ratio=2.0), auto_loss_scale=1.0)
    assert read_config(save_pretrained(XVLA(config), tmp_path, "lerobot")) == config
    with pytest.raises(ValueError, match=r"vision.mlp_ratio has no place in layout 'lerobot-old'"):
        save_pretrained(XVLA(config), tmp_path, "lerobot-old")


def test_a_new_folder_has_processors(tmp_path: Path) -> None:
    folder = save_pretrained(XVLA(TINY), tmp_path, "lerobot")
    before, after = (read(folder, f"policy_{x}processor.json") for x in ("pre", "post"))
    steps = {step["registry_name"]: step["config"] for step in before["steps"]}
    assert steps["tokenizer_processor"]["max_length"] == read(folder)["tokenizer_max_length"] == 50
    assert "xvla_imagenet_normalize" in steps
    normaliser = steps["normalizer_processor"]
    assert set(normaliser["norm_map"].values()) == {"IDENTITY"}
    features = read(folder)["input_features"] | read(folder)["output_features"]
    assert normaliser["features"] == features
    assert after["steps"][0]["registry_name"] == "unnormalizer_processor"


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """A folder as a LeRobot user has it: own cameras, own normalisation, statistics."""
    folder = save_pretrained(XVLA(TINY), tmp_path / "parent", "lerobot")
    edit(
        folder,
        input_features={
            "observation.images.top": {"type": "VISUAL", "shape": [3, 480, 640]},
            "observation.state": {"type": "STATE", "shape": [8]},
        },
        normalization_mapping={"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"},
        tokenizer_max_length=64,
        n_action_steps=4,
        resize_imgs_with_padding=[224, 224],
        optimizer_lr=3e-5,
        device="cpu",
    )
    (folder / "policy_preprocessor.json").write_text('{"name": "mine", "steps": []}')
    stats = "policy_preprocessor_step_5_normalizer_processor.safetensors"
    save_file({"action.mean": torch.arange(20.0)}, folder / stats)
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_parents_features_and_processors_are_kept(parent, layout, tmp_path, caplog) -> None:
    model = load_pretrained(parent)
    assert "normalises ACTION by MEAN_STD" in caplog.text
    child = save_pretrained(model, tmp_path / "child", layout, parent=parent)
    given, kept = read(parent), read(child)
    assert {k: v for k, v in kept.items() if k != "florence_config"} == {
        k: v for k, v in given.items() if k != "florence_config"
    }
    for file in parent.glob("policy_*"):
        assert (child / file.name).read_bytes() == file.read_bytes()
    assert_same(load_pretrained(child), model)
    # In place: the parent's own files stay.
    save_pretrained(model, parent, layout, parent=parent)
    assert read(parent, "policy_preprocessor.json")["name"] == "mine"


def test_what_the_model_decides_is_not_inherited(parent: Path, tmp_path: Path) -> None:
    config = replace(TINY, action_mode="joint", num_anchors=3, depth=1)
    kept = read(save_pretrained(XVLA(config), tmp_path / "child", "lerobot", parent=parent))
    assert (kept["chunk_size"], kept["n_action_steps"], kept["depth"]) == (3, 3, 1)
    assert kept["output_features"]["action"]["shape"] == [14]
    assert kept["tokenizer_max_length"] == 64


def test_a_wrong_parent_is_refused(parent: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="parent is for layout 'lerobot'"):
        save_pretrained(XVLA(TINY), tmp_path / "a", "xvla", parent=parent)
    official = save_pretrained(XVLA(TINY), tmp_path / "official", "xvla")
    with pytest.raises(ValueError, match="has type=None; allowed: 'xvla'"):
        save_pretrained(XVLA(TINY), tmp_path / "a", "lerobot", parent=official)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("kept", [SHARED, TOKENS], ids=["shared", "embed_tokens"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_shared_tensor_may_have_only_one_name(layout: str, kept: dict, tmp_path: Path) -> None:
    model = XVLA(TINY)
    folder = save_pretrained(model, tmp_path, layout)
    tensors = load_file(folder / WEIGHTS)
    other = ({SHARED[layout], TOKENS[layout]} - {kept[layout]}).pop()
    save_file({n: t for n, t in tensors.items() if n != other}, folder / WEIGHTS)
    assert_same(load_pretrained(folder), model)


@pytest.mark.parametrize("layout", ["xvla", "lerobot", "lerobot-old", "ours"])
def test_shards_with_an_index(layout: str, tmp_path: Path) -> None:
    model = XVLA(TINY)
    folder = save_pretrained(model, tmp_path, layout)
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    shards = {n: f"model-{i % 3 + 1:05}-of-00003.safetensors" for i, n in enumerate(tensors)}
    for shard in set(shards.values()):
        save_file({n: t for n, t in tensors.items() if shards[n] == shard}, folder / shard)
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    assert_same(load_pretrained(folder), model)
    newer = XVLA(TINY)
    save_pretrained(newer, folder, layout)  # leaves the index of the older weights behind
    assert_same(load_pretrained(folder), newer)
    (folder / WEIGHTS).unlink()
    (folder / shard).unlink()
    with pytest.raises(ValueError, match=f"{shard} does not exist"):
        load_pretrained(folder)
    (folder / INDEX_FILE).write_text("{}")
    with pytest.raises(ValueError, match=r"index.json is damaged"):
        load_pretrained(folder)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_missing_and_surplus_tensors_are_named(layout: str, tmp_path: Path) -> None:
    folder = save_pretrained(XVLA(TINY), tmp_path, layout)
    tensors = load_file(folder / WEIGHTS)
    kept = {n: t for n, t in tensors.items() if n != "model.transformer.norm.weight"}
    save_file(kept | {"model.transformer.moe.gate": torch.zeros(2)}, folder / WEIGHTS)
    message = (
        r"1 missing \(model.transformer.norm.weight\); 1 surplus \(model.transformer.moe.gate\)"
    )
    with pytest.raises(ValueError, match=message):
        load_pretrained(folder)
    save_file(tensors | {"queue": torch.zeros(2)}, folder / WEIGHTS)
    with pytest.raises(ValueError, match=r"1 surplus \(queue\)"):
        load_pretrained(folder)


def test_half_precision_weights_load(tmp_path: Path) -> None:
    """LeRobot casts the whole model; bfloat16 numbers are float32 numbers."""
    model = XVLA(TINY)
    model.load_state_dict({n: t.bfloat16().float() for n, t in model.state_dict().items()})
    folder = save_pretrained(model, tmp_path, "lerobot")
    tensors = load_file(folder / WEIGHTS)
    save_file({n: t.bfloat16() for n, t in tensors.items()}, folder / WEIGHTS)
    edit(folder, dtype="bfloat16")
    assert_same(load_pretrained(folder), model)


def test_defaults_are_lerobots(tmp_path: Path) -> None:
    """A file that leaves fields out means LeRobot's defaults: chunk 32, state 32."""
    folder = save_pretrained(XVLA(TINY), tmp_path, "lerobot")
    raw = read(folder)
    for name in ("chunk_size", "max_state_dim", "n_action_steps"):
        del raw[name]
    config = config_from_json(raw)
    assert (config.num_anchors, config.dim_proprio) == (32, 32)


def test_the_fixture_survives_lerobots_folder(tmp_path: Path) -> None:
    fixture = Path(__file__).parents[2] / "assets" / "xvla-official-tiny-ee6d"
    shutil.copytree(fixture, tmp_path / "official")
    model: XVLA = load_pretrained(tmp_path / "official")
    again = load_pretrained(save_pretrained(model, tmp_path / "lerobot", "lerobot"))
    batch = make_batch(model.config, image_size=64)
    noise = torch.randn(batch.action.shape)
    assert torch.equal(model.act(batch, noise=noise), again.act(batch, noise=noise))
    assert isinstance(again.config, ModelConfig)
