"""Pretraining of the small encoder on drawn frames: a square moves, features must know where."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from policy_cases import TINY
from safetensors.torch import load_file

from xvla.model import XVLA
from xvla.pretrained import load_encoder
from xvla.stand_in.targets import (
    MAIN_TARGETS,
    WRIST_TARGETS,
    load_frames,
    spans,
    spatial_loss,
)
from xvla.stand_in.training import augment, pretrain_encoder

SIZE, VIEWS = 32, ("observation.images.main", "observation.images.wrist")
VOCABULARY = 512
CONFIG = replace(
    TINY,
    vision=replace(TINY.vision, dim_embed=[16, 32], drop_path_rate=0.0),
    text=replace(
        TINY.text,
        vocab_size=VOCABULARY,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
    ),
)


def draw_frames(path: Path, *, count: int = 480, seed: int = 0) -> None:
    """Write a set of the real layout: one object, one gripper, position proportional to pixels."""
    random = np.random.default_rng(seed)
    where = random.uniform(0.15, 0.85, (count, 2)).astype(np.float32)
    table = {view: np.zeros((count, SIZE, SIZE, 3), np.uint8) for view in VIEWS}
    rows, columns = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    for i, (x, y) in enumerate(where):
        inside = (abs(columns - x) < 0.12) & (abs(rows - y) < 0.12)
        for view in VIEWS:
            table[view][i][inside] = (230, 60, 40)
    place = np.zeros((count, 2, 3), np.float32)
    place[:, 0, :2] = 0.24 * (where - 0.5)
    pair = np.zeros((count, 2, 2, 3), np.float32)
    pair[:, 0] = place
    points = np.zeros((count, 2, 6, 2), np.float32)
    points[:, :, 0] = where[:, None]
    seen = np.zeros((count, 2, 6), bool)
    seen[:, :, 0] = True
    present = np.zeros((count, 6), bool)
    present[:, [0, 2]] = True
    table |= {
        "state": np.zeros((count, 20), np.float32),
        "episode": np.arange(count) // 8,
        "grippers": np.zeros((count, 2, 3), np.float32),
        "objects": place,
        "handles": np.zeros((count, 2, 3), np.float32),
        "yaw": np.zeros((count, 2, 2), np.float32),
        "to_object": pair,
        "to_object_hand": pair,
        "closed": np.zeros((count, 2), np.float32),
        "half_size": np.zeros((count, 2), np.float32),
        "present": present,
        "keypoints": points,
        "seen": seen,
        "instruction": np.array(["lift the red cube"] * count),
    }
    np.savez(path, meta=json.dumps({"views": list(VIEWS), "domain": "drawn", "seed": 3}), **table)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("frames")
    draw_frames(path / "drawn.npz")
    return path


def test_positions_become_readable(folder: Path, tmp_path: Path) -> None:
    def run(steps: int, out: Path) -> dict:
        return pretrain_encoder(
            folder,
            out,
            config=CONFIG,
            steps=steps,
            batch_size=16,
            seed=0,
            threads=1,
            image_size=SIZE,
            text_length=8,
        )

    before, after = run(2, tmp_path / "before"), run(200, tmp_path / "after")
    untrained = before["held_out"]["all"]["main_objects_cm"]
    assert untrained > 5
    assert after["held_out"]["all"]["main_objects_cm"] < 0.4 * untrained
    assert after["held_out"]["drawn"] == after["held_out"]["all"]
    file = tmp_path / "after" / "encoder.safetensors"
    record = json.loads((tmp_path / "after" / "encoder.json").read_text())
    assert record == json.loads(json.dumps(after))
    assert record["frames"] == [{"domain": "drawn", "seed": 3}]
    assert "--steps 200 --batch-size 16 --seed 0" in record["command"]
    assert record["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert all(name.startswith("vlm.") for name in load_file(file))
    model = XVLA(CONFIG)
    load_encoder(model, file.parent)
    assert torch.equal(
        model.vlm.multi_modal_projector.image_projection.weight,
        load_file(file)["vlm.multi_modal_projector.image_projection.weight"],
    )


def test_the_same_seed_gives_the_same_encoder(folder: Path, tmp_path: Path) -> None:
    records = [
        pretrain_encoder(
            folder,
            tmp_path / name,
            config=CONFIG,
            steps=3,
            batch_size=4,
            seed=seed,
            threads=1,
            image_size=SIZE,
        )
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert records[0]["sha256"] == records[1]["sha256"] != records[2]["sha256"]


def test_whole_demonstrations_are_held_out(folder: Path) -> None:
    frames = load_frames(folder, image_size=SIZE, text_length=8)
    episodes = torch.from_numpy(np.load(folder / "drawn.npz")["episode"])
    held, kept = set(episodes[frames.held_out].tolist()), set(episodes[~frames.held_out].tolist())
    assert len(held) == 6
    assert not held & kept


def test_targets_and_masks(folder: Path) -> None:
    frames = load_frames(folder, image_size=SIZE, text_length=8)
    table = np.load(folder / "drawn.npz")
    where = spans(MAIN_TARGETS)
    known = {name: frames.main_known[0, span].tolist() for name, span in where.items()}
    assert known["objects"] == [True] * 3 + [False] * 3
    assert known["to_object"] == [True] * 3 + [False] * 9
    assert known["handles"] == [False] * 6
    assert known["yaw"] == [True, True, False, False]
    assert known["closed"] == [True, False]
    expected = torch.from_numpy(table["objects"][:, 0])
    assert torch.equal(frames.main[:, where["objects"]][:, :3], expected)
    wrist = spans(WRIST_TARGETS)["to_object_hand"]
    assert torch.equal(frames.wrist[:, 0, wrist][:, :3], expected)
    assert not frames.wrist_known[:, 1].any()
    assert frames.view_mask[0].tolist() == [True, True, False]


def test_spatial_loss_rewards_the_right_token() -> None:
    head = torch.nn.Linear(7, 9)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    with torch.no_grad():
        head.weight[0, 0] = 20.0  # the objects' logit
        head.weight[3, 1] = head.weight[4, 2] = 1.0  # and their x, y inside
    keypoints, seen = torch.zeros(1, 6, 2), torch.zeros(1, 6, dtype=torch.bool)
    keypoints[0, 0], seen[0, 0] = torch.tensor([0.9, 0.3]), True  # cell row 1, column 3 of 4 x 4
    tokens = torch.zeros(1, 16, 7)
    tokens[0, 7, :3] = torch.tensor([1.0, 0.1, -0.3])
    right = spatial_loss(head, tokens, keypoints, seen)
    assert right.item() == pytest.approx(0, abs=1e-4)
    assert spatial_loss(head, tokens.roll(1, dims=1), keypoints, seen) > 10


def test_augmentation_keeps_the_places() -> None:
    pixels = torch.zeros(2, 1, 3, SIZE, SIZE, dtype=torch.uint8)
    pixels[:, :, :, 10:14, 20:24] = 200
    x = augment(pixels, torch.Generator().manual_seed(0))
    brightest = x.mean(2).flatten(-2).argmax(-1)
    assert x.shape == pixels.shape
    assert ((brightest // SIZE >= 10) & (brightest // SIZE < 14)).all()
    assert not torch.equal(x[0], x[1])


def test_bad_frames_and_big_encoders_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no .npz"):
        load_frames(tmp_path, image_size=SIZE, text_length=8)
    table = dict(np.load(folder / "drawn.npz"))
    del table["seen"]
    np.savez(tmp_path / "broken.npz", **table)
    with pytest.raises(ValueError, match=r"broken.npz: .*seen"):
        load_frames(tmp_path, image_size=SIZE, text_length=8)
    wide = replace(CONFIG, text=replace(CONFIG.text, vocab_size=60_000))
    with pytest.raises(ValueError, match="at most 5 MB"):
        pretrain_encoder(
            folder,
            tmp_path,
            config=wide,
            steps=1,
            batch_size=1,
            seed=0,
            threads=1,
            image_size=SIZE,
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps=0 is not allowed; give at least 1"),
        ({"batch_size": -1}, "batch_size=-1 is not allowed"),
        ({"out": "taken"}, "taken is a file; give a folder for encoder.safetensors"),
    ],
)
def test_nothing_is_trained_that_cannot_be_written(
    change: dict, message: str, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("kept")
    options = {"steps": 1, "batch_size": 1, "out": "encoder"} | change
    out = tmp_path / options.pop("out")
    fixed = {"config": CONFIG, "seed": 0, "threads": 1, "image_size": SIZE}
    with pytest.raises(ValueError, match=message):
        pretrain_encoder(folder, out, **fixed, **options)
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]
