"""X-VLA's own sets: every source's poses and anchors against the closed form of its motion."""

import io
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from make_official import (
    AGIBOT_VIEWS,
    KEYS,
    TASK,
    agibot_states,
    encode,
    level,
    picture,
    write_agibot,
    write_meta,
    write_set,
)
from official_layouts import LAYOUTS, UNKNOWN, clocks, expected_states
from PIL import Image

from xvla.data import open_dataset
from xvla.data.readers.base import DatasetError, FieldError
from xvla.data.readers.hdf5 import read_pictures
from xvla.data.readers.sources import ROWS, SOURCES
from xvla.data.resample import anchors
from xvla.domains import DOMAIN_IDS

LENGTHS = (90, 75)


def lerp(times: np.ndarray, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Interpolate the formula's values at the recorded times, column by column."""
    return np.stack([np.interp(query, times, column) for column in rows.T], axis=1)


@pytest.mark.parametrize("name", LAYOUTS)
def test_source(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    dataset = open_dataset(write_set(tmp_path / "set", name))
    assert DOMAIN_IDS[dataset.domain] == layout.domain_id
    assert dataset.fps == layout.rate_hz
    assert dataset.rule.window_s == layout.window_s
    assert dataset.views == KEYS
    assert [(e.length, e.task) for e in dataset.episodes] == [(90, TASK), (75, "put it down")]
    for episode, frames in enumerate(LENGTHS):
        starts = dataset.start_frames(episode)
        assert starts.tolist() == list(range(0, frames - layout.tail, layout.stride))
        times, states, _ = dataset.episode(episode)
        left, right = clocks(name, frames)
        mean = (left + right) / 2
        np.testing.assert_allclose(times, mean - mean[0], atol=1e-9)
        formula = expected_states(name, frames, episode)
        # SoftFold's rows are moved to the mean of its clocks: a chord away from its arc.
        tolerance = 2e-6 if name != "AIR-AGILEX-HQ" else 5e-4
        moved = np.hstack([lerp(left, formula[:, :10], mean), lerp(right, formula[:, 10:], mean)])
        np.testing.assert_allclose(states, moved, atol=2e-6)
        poses = np.delete(np.arange(20), [9, 19])
        np.testing.assert_allclose(states[:, poses], formula[:, poses], atol=max(tolerance, 5e-3))


@pytest.mark.parametrize("name", LAYOUTS)
def test_anchors(name: str, tmp_path: Path) -> None:
    """The current pose and 30 anchors over the source's window, compressed at the end."""
    dataset = open_dataset(write_set(tmp_path / "set", name, lengths=(90,)))
    poses = dataset.poses(0)
    left, right = clocks(name, 90)
    origin = (left[0] + right[0]) / 2
    formula = expected_states(name, 90, 0)
    states = poses.states if poses.arm_states is None else poses.arm_states
    for start in (0, 17, 80):
        rows = anchors(
            poses.times,
            states,
            start,
            window_s=dataset.rule.window_s,
            num_anchors=30,
            arm_times=poses.arm_times,
        )
        last = min(poses.times[start] + dataset.rule.window_s, poses.times[-1])
        query = np.linspace(poses.times[start], last, 31, dtype=np.float32).astype(float) + origin
        expected = np.hstack(
            [lerp(left, formula[:, :10], query), lerp(right, formula[:, 10:], query)]
        )
        # 1e-7 s of float32 time meets a gripper that steps in a frame of 1/30 s.
        np.testing.assert_allclose(rows, expected, atol=1e-4)


def test_arms_of_one_clock_alone_would_be_wrong(tmp_path: Path) -> None:
    """SoftFold's arms are up to 8 ms apart: reading both by one clock misses by over 0.5 mm."""
    dataset = open_dataset(write_set(tmp_path / "set", "AIR-AGILEX-HQ", lengths=(90,)))
    poses = dataset.poses(0)
    rules = {"window_s": 2.0, "num_anchors": 30}
    own = anchors(poses.times, poses.arm_states, 20, arm_times=poses.arm_times, **rules)
    one = anchors(poses.times, poses.arm_states, 20, **rules)
    resampled = anchors(poses.times, poses.states, 20, **rules)
    assert np.abs(own - one)[:, :3].max() > 5e-4
    assert np.abs(own - resampled)[:, :3].max() < 5e-5


@pytest.mark.parametrize("pictures", ["png", "jpeg", "padded", "raw"])
def test_pictures(pictures: str, tmp_path: Path) -> None:
    dataset = open_dataset(write_set(tmp_path / "set", "Bridge", (12, 10), pictures=pictures))
    frames = dataset.frames(1, KEYS[1], [9, 0, 4, 4])
    assert (frames.shape, frames.dtype) == ((4, 16, 16, 3), np.uint8)
    expected = np.stack([picture(1, f, 1) for f in (9, 0, 4, 4)])
    np.testing.assert_allclose(frames[:, 4, 12, 1], expected[:, 4, 12, 1], atol=2)
    assert (frames[:, 4, 3, 0] > 200).all()
    if pictures in ("png", "raw"):
        np.testing.assert_array_equal(frames, expected)


def test_swapped_colours_are_put_right_when_the_meta_says_so(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", "Bridge", (12,))
    with h5py.File(root / "episodes/0.hdf5", "a") as file:
        for frame in range(12):
            file[KEYS[0]][frame] = encode(picture(0, frame, 0)[..., ::-1])
    write_meta(root, "Bridge", ["episodes/0.hdf5"], image_channels="bgr")
    frames = open_dataset(root).frames(0, KEYS[0], [3])
    np.testing.assert_array_equal(frames[0], picture(0, 3, 0))


def test_depth_of_16_bits_is_no_view(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8), 700, np.uint16)).save(stream, "PNG")
    with h5py.File(tmp_path / "depth.hdf5", "w") as file:
        file["depth"] = np.frombuffer(stream.getvalue(), np.uint8)[None]
        with pytest.raises(FieldError, match="I;16 pixels, probably depth, which is no view"):
            read_pictures(file, "depth", [0])


def test_liberos_first_picture_is_dropped(tmp_path: Path) -> None:
    dataset = open_dataset(write_set(tmp_path / "set", "libero", (30,)))
    frames = dataset.frames(0, KEYS[0], [0, 7, 29])
    assert frames[:, 0, -1, 1].tolist() == [level(0, f, 0) for f in (0, 7, 29)]


def test_agibot(tmp_path: Path) -> None:
    dataset = open_dataset(write_agibot(tmp_path / "set"))
    assert (dataset.domain, dataset.fps, dataset.views) == ("agibot", 30.0, AGIBOT_VIEWS)
    assert [(e.length, e.task) for e in dataset.episodes] == [(100, TASK), (80, TASK)]
    for episode, frames in enumerate((100, 80)):
        states = dataset.episode(episode).states
        np.testing.assert_allclose(states, agibot_states(frames, episode), atol=2e-6)
        assert dataset.start_frames(episode).tolist() == list(range(5, frames - 30, 4))
        assert dataset.start_frames(episode, evaluate=True).tolist() == [5]
    shown = dataset.frames(1, AGIBOT_VIEWS[2], [79, 3]).reshape(2, -1).mean(axis=1)
    np.testing.assert_allclose(shown, [level(1, 79, 2), level(1, 3, 2)], atol=1.6)


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_rotation_is_refused_with_its_reason(name: str, tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", name, (12,))
    write_meta(root, name, ["episodes/0.hdf5"], rotation=None)
    with pytest.raises(ValueError, match=r"rotation: .* is refused: .* not published; .* set"):
        open_dataset(root)


def test_other_convention_is_refused_and_suggested(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", "AIRBOT", (12,))
    write_meta(root, "AIRBOT", ["episodes/0.hdf5"], rotation="rot6d_columns")
    with pytest.raises(DatasetError, match=r"12 of 12 frames hold no .* as rotation6d_interleaved"):
        open_dataset(root)


@pytest.mark.parametrize("row", [row for row in ROWS if row.refusal], ids=lambda row: row.name)
def test_joint_sources_are_refused(row: object, tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text(json.dumps({"dataset_name": row.name, "datalist": ["a"]}))
    with pytest.raises(ValueError, match=f"{row.name} cannot be read: its actions are joint"):
        open_dataset(tmp_path)


def test_the_table_agrees_with_the_domains_and_the_published_weights() -> None:
    for row in ROWS:
        assert row.refusal or row.domain in DOMAIN_IDS
    pretraining = ("AGIBOT", "Droid-Left", "Droid-Right", "robomind-franka", "robomind-franka-dual",
                   "robomind-ur", "robomind-agilex")  # fmt: skip
    weights = [SOURCES[name].weight for name in pretraining]
    assert weights == [0.4, 0.15, 0.15, 0.1, 0.03, 0.1, 0.07]


def test_numbers_and_variants_of_the_meta_file(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", "Calvin", (40,))
    changes = {"freq": 10, "qdur": 2.5, "tail_margin": 5, "lang_aug_map": {TASK: ["raise it"]}}
    write_meta(root, "Calvin", ["episodes/0.hdf5"], splits={"train": "0:1"}, **changes)
    dataset = open_dataset(root / "meta.json")
    assert (dataset.fps, dataset.rule.window_s) == (10.0, 2.5)
    assert len(dataset.start_frames(0)) == 35
    assert dataset.instruction_variants == {TASK: ["raise it"]}
    assert dataset.episodes[0].split == "train"
