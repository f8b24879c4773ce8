"""The encoder that ships: its file, and what can be read off its features on recorded episodes."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

import xvla
from xvla.config import ModelConfig, TextConfig, VisionConfig
from xvla.data import open_dataset
from xvla.data.images import preprocess
from xvla.data.text import build_tokenizer
from xvla.model import XVLA
from xvla.pretrained import load_encoder

DATA = Path(xvla.__file__).parent / "data"
ENCODER = DATA / "encoder"
TRAIN, HELD_OUT = range(40), range(40, 56)
FRAMES_PER_EPISODE = 4
RIDGE = 3.0


@pytest.fixture(scope="module")
def record() -> dict:
    return json.loads((ENCODER / "encoder.json").read_text())


def build(record: dict) -> XVLA:
    """Return an untrained policy around an encoder of the shipped shape."""
    torch.manual_seed(0)
    config = ModelConfig(
        vision=VisionConfig(**record["model"]["vision"]),
        text=TextConfig(**record["model"]["text"]),
        projection_dim=record["model"]["projection_dim"],
        hidden_size=16,
        depth=1,
        num_heads=2,
    )
    return XVLA(config).eval()


def test_file_and_record_agree(record: dict) -> None:
    content = (ENCODER / "encoder.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == record["sha256"]
    assert len(content) == record["bytes"] <= 5_000_000
    assert {source["domain"] for source in record["frames"]} == set(record["domains"])
    assert not {"sim_xarm7", "sim_iiwa"} & set(record["domains"])
    assert record["held_out"]["all"]["main_objects_cm"] < 3


@torch.no_grad()
def features_and_places(model: XVLA, record: dict, domain: str, episodes: range) -> tuple:
    """Return pooled and mean features [n, 2 E] and object positions [n, 3] in m."""
    data = open_dataset(DATA / "demo" / domain)
    table = pq.read_table(next((DATA / "demo" / domain / "data").rglob("*.parquet")))
    places = np.stack(table["observation.environment_state"].to_numpy(zero_copy_only=False))
    owner = table["episode_index"].to_numpy()
    encode = build_tokenizer("demo").encode
    features: list[Tensor] = []
    truth: list[Tensor] = []
    for index in episodes:
        rows = np.flatnonzero(owner == index)
        chosen = np.linspace(0, len(rows) // 2, FRAMES_PER_EPISODE).astype(int)
        pixels = data.frames(index, data.views[0], chosen.tolist())
        images = torch.stack([preprocess(p, size=record["image_size"]) for p in pixels])
        words = encode(data.episode(index).instruction, record["text_length"])
        ids = torch.from_numpy(words.copy()).expand(len(chosen), -1)
        tokens = model.vlm.encode_text(model.vlm.encode_images(images), ids)
        features.append(torch.cat([tokens[:, 0], tokens.mean(dim=1)], dim=-1))
        truth.append(torch.from_numpy(places[rows[chosen]][:, :3]))
    return torch.cat(features).double(), torch.cat(truth).double()


def probe_error_cm(model: XVLA, record: dict, domain: str) -> tuple[float, float]:
    """Fit a ridge regression on training episodes; return its error on others, and the mean's."""
    x, y = features_and_places(model, record, domain, TRAIN)
    x_new, y_new = features_and_places(model, record, domain, HELD_OUT)
    mean, scale = x.mean(0), x.std(0) + 1e-6
    x, x_new, centre = (x - mean) / scale, (x_new - mean) / scale, y.mean(0)
    weights = torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1]), x.T @ (y - centre))
    error = (x_new @ weights + centre - y_new).norm(dim=1).mean().item()
    return 100 * error, 100 * (centre - y_new).norm(dim=1).mean().item()


@pytest.mark.parametrize("domain", ["sim_panda_left", "sim_xarm7"])
def test_object_positions_can_be_read_linearly(record: dict, domain: str) -> None:
    model = build(record)
    untrained, mean = probe_error_cm(model, record, domain)
    load_encoder(model, ENCODER)
    trained, _ = probe_error_cm(model, record, domain)
    assert trained < 4
    assert trained < 0.4 * mean
    assert trained < 0.5 * untrained
