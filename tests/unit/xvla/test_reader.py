"""Reading a LeRobot v3.0 set: episodes, times, poses, frames, splits."""

import json
from pathlib import Path

import numpy as np
import pytest
from make_lerobot import FPS, VIEWS, SetSpec, helix, pixel, write_set

from xvla.data import open_dataset
from xvla.data.readers.base import Dataset
from xvla.data.readers.video import decode_frames, look_through


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_set(tmp_path_factory.mktemp("reader") / "sim_panda"))


def test_facts_of_the_set(dataset: Dataset) -> None:
    assert dataset.domain == "sim_panda"
    assert dataset.fps == FPS
    assert dataset.views == VIEWS
    assert [e.length for e in dataset.episodes] == SetSpec().lengths
    assert [e.split for e in dataset.episodes] == ["train"] * 4 + ["val", "test"]
    assert [e.task for e in dataset.episodes][:2] == ["lift the cube", "put it down"]
    assert [e.id for e in dataset.episodes] == list(range(6))


def test_declared_domain_wins_over_the_folder_name(tmp_path: Path) -> None:
    root = write_set(tmp_path / "copy", SetSpec(lengths=[12], splits={"train": "0:1"}))
    file = root / "meta/info.json"
    info = json.loads(file.read_text())
    file.write_text(json.dumps({**info, "domain": "sim_ur5e"}))
    assert open_dataset(root).domain == "sim_ur5e"


@pytest.mark.parametrize("episode", [0, 3, 5])
def test_poses_and_times_are_those_written(dataset: Dataset, episode: int) -> None:
    times, states, instruction = dataset.episode(episode)
    assert times.dtype == np.float64
    assert states.dtype == np.float32
    np.testing.assert_array_equal(times, np.arange(SetSpec().lengths[episode]) / FPS)
    np.testing.assert_array_equal(states, helix(times, 0.3 * episode).astype(np.float32))
    assert instruction == dataset.episodes[episode].task


@pytest.mark.parametrize("view", [0, 1])
def test_frames_are_the_asked_ones_in_the_asked_order(dataset: Dataset, view: int) -> None:
    for episode, wanted in ((0, [0]), (3, [32, 0, 5, 5, 31]), (5, [35, 34])):
        frames = dataset.frames(episode, VIEWS[view], wanted)
        assert frames.shape == (len(wanted), 32, 32, 3)
        assert frames.dtype == np.uint8
        levels = frames.reshape(len(wanted), -1).mean(axis=1)
        expected = [pixel(episode, frame, view) for frame in wanted]
        # Neighbours differ by 4 levels, so 1.6 tells every frame from the next.
        np.testing.assert_allclose(levels, expected, atol=1.6)


def test_irregular_times_are_kept(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = write_set(tmp_path / "sim_panda", SetSpec(lengths=[12], splits={"train": "0:1"}))
    file = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    stamps = np.array(table["timestamp"].to_pylist())
    stamps[6:] += 0.05
    column = table.column_names.index("timestamp")
    pq.write_table(table.set_column(column, "timestamp", pa.array(stamps)), file)
    np.testing.assert_allclose(open_dataset(root).episode(0).times, stamps, atol=1e-7)


def test_any_column_by_name(dataset: Dataset) -> None:
    action = dataset.column(2, "action")
    states = dataset.episode(2).states
    np.testing.assert_array_equal(action[:-1], states[1:])
    with pytest.raises(ValueError, match="force: missing column; the file has "):
        dataset.column(2, "force")


def test_wrong_view_frame_or_episode(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match=r"has no view 'top'; it has observation\.images\.front,"):
        dataset.frames(0, "top", [0])
    with pytest.raises(ValueError, match="episode 0 has 30 frames; frame 30 is not one"):
        dataset.frames(0, VIEWS[0], [30])
    with pytest.raises(ValueError, match=r"episode 6 is not one of 0\.\.5"):
        dataset.episode(6)


def test_video_frames_by_time(dataset: Dataset) -> None:
    path = Path(dataset.path) / f"videos/{VIEWS[0]}/chunk-000/file-000.mp4"
    total = sum(SetSpec().lengths)
    assert look_through(path, step_s=1 / FPS).length_s == pytest.approx(total / FPS)
    times = np.arange(total) / FPS
    everything = decode_frames(path, times, step_s=1 / FPS)
    spread = decode_frames(path, times[::9], step_s=1 / FPS)
    np.testing.assert_array_equal(spread, everything[::9])
    with pytest.raises(ValueError, match=f"has no picture at {total / FPS:g} s; it is truncated"):
        decode_frames(path, [total / FPS], step_s=1 / FPS)
