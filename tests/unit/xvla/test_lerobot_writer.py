"""The LeRobot v3.0 writer: layout, tables, videos, refusals, nothing half-written."""

import json
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from xvla.data.writing.lerobot import EpisodeRecord, write_dataset
from xvla.data.writing.video import VideoOptions, VideoWriter

FPS, SIDE = 10, 48
VIEWS = {"observation.images.main": (SIDE, SIDE), "observation.images.wrist": (SIDE, SIDE)}
LENGTHS = (23, 31, 17)


def pictures(number: int, length: int) -> np.ndarray:
    """Return frames whose brightness tells the episode and a bar's place tells the frame."""
    frames = np.full((length, SIDE, SIDE, 3), 40 + 50 * number, dtype=np.uint8)
    for k in range(length):
        frames[k, :, k : k + 8] = 255
    return frames


def episode(number: int, length: int) -> EpisodeRecord:
    """Return a smooth episode with two views."""
    steps = np.arange(length)[:, None] + np.arange(20)
    states = np.sin(steps / 7.0 + number).astype(np.float32)
    frames = pictures(number, length)
    return EpisodeRecord(
        task=f"do thing {number % 2}",
        columns={
            "observation.state": states,
            "action": np.concatenate([states[1:], states[-1:]]),
        },
        frames=dict.fromkeys(VIEWS, frames),
    )


def write(path: Path, records: list[EpisodeRecord] | None = None, **changes: object) -> dict:
    """Write three episodes (or the given ones) to `path`."""
    records = records or [episode(i, n) for i, n in enumerate(LENGTHS)]
    settings: dict = {
        "fps": FPS,
        "robot_type": "test_arm",
        "views": VIEWS,
        "episodes": records,
        "splits": {"train": len(records) - 1, "val": 1},
        "video": VideoOptions(crf=20, preset="medium", gop=10),
    }
    return write_dataset(path, **{**settings, **changes})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set of three short episodes."""
    path = tmp_path_factory.mktemp("data") / "set"
    write(path)
    return path


def decode(path: Path) -> list[av.VideoFrame]:
    """Return all frames of a video."""
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def test_info_states_the_public_layout(dataset: Path) -> None:
    info = json.loads((dataset / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert info["total_frames"] == sum(LENGTHS)
    assert info["total_tasks"] == 2
    assert info["splits"] == {"train": "0:2", "val": "2:3"}
    first = {"chunk_index": 0, "file_index": 0}
    assert (dataset / info["data_path"].format(**first)).is_file()
    for view in VIEWS:
        assert (dataset / info["video_path"].format(video_key=view, **first)).is_file()
        assert info["features"][view]["shape"] == [SIDE, SIDE, 3]
    assert info["features"]["observation.state"]["shape"] == [20]


def test_frame_table_holds_the_episodes_in_order(dataset: Path) -> None:
    table = pq.read_table(dataset / "data/chunk-000/file-000.parquet")
    columns = {name: np.array(table[name].to_pylist()) for name in table.column_names}
    np.testing.assert_array_equal(columns["index"], np.arange(sum(LENGTHS)))
    np.testing.assert_array_equal(columns["episode_index"], np.repeat([0, 1, 2], LENGTHS))
    np.testing.assert_array_equal(columns["task_index"], np.repeat([0, 1, 0], LENGTHS))
    np.testing.assert_allclose(columns["timestamp"], columns["frame_index"] / FPS, atol=1e-6)
    wanted = np.concatenate([episode(i, n).columns["action"] for i, n in enumerate(LENGTHS)])
    np.testing.assert_array_equal(columns["action"].astype(np.float32), wanted)
    assert table.schema.field("action").type.list_size == 20


def test_episode_table_points_into_data_and_videos(dataset: Path) -> None:
    rows = pq.read_table(dataset / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    starts = [0, *np.cumsum(LENGTHS)]
    for i, row in enumerate(rows):
        assert (row["episode_index"], row["length"]) == (i, LENGTHS[i])
        assert (row["dataset_from_index"], row["dataset_to_index"]) == (starts[i], starts[i + 1])
        assert row["tasks"] == [f"do thing {i % 2}"]
        for view in VIEWS:
            assert row[f"videos/{view}/from_timestamp"] == pytest.approx(starts[i] / FPS)
            assert row[f"videos/{view}/to_timestamp"] == pytest.approx(starts[i + 1] / FPS)


def test_tasks_are_indexed_by_instruction_for_pandas(dataset: Path) -> None:
    tasks = pd.read_parquet(dataset / "meta/tasks.parquet")
    assert tasks.loc["do thing 1", "task_index"] == 1
    assert list(tasks.index) == ["do thing 0", "do thing 1"]


def test_video_frames_match_in_place_and_colour(dataset: Path) -> None:
    video = dataset / "videos/observation.images.wrist/chunk-000/file-000.mp4"
    shown = decode(video)
    wanted = np.concatenate([pictures(i, n) for i, n in enumerate(LENGTHS)])
    assert len(shown) == len(wanted)
    for k, frame in enumerate(shown):
        assert float(frame.pts * frame.time_base) == pytest.approx(k / FPS, abs=1e-6)
        assert frame.pict_type != av.video.frame.PictureType.B
        got = frame.to_ndarray(format="rgb24").astype(float)
        assert np.abs(got - wanted[k]).mean() < 4.0
    assert [k for k, frame in enumerate(shown) if frame.key_frame][:4] == [0, 10, 20, 30]


def test_statistics_equal_numpy(dataset: Path) -> None:
    stats = json.loads((dataset / "meta/stats.json").read_text())
    states = np.concatenate(
        [episode(i, n).columns["observation.state"] for i, n in enumerate(LENGTHS)]
    ).astype(np.float64)
    got = stats["observation.state"]
    np.testing.assert_allclose(got["mean"], states.mean(0), atol=1e-9)
    np.testing.assert_allclose(got["std"], states.std(0), atol=1e-9)
    np.testing.assert_allclose(got["max"], states.max(0))
    assert got["count"] == [sum(LENGTHS)]
    assert np.shape(stats["observation.images.main"]["mean"]) == (3, 1, 1)
    assert 0.0 < stats["observation.images.main"]["mean"][0][0][0] < 1.0


def test_same_input_gives_same_tables_and_pictures(dataset: Path, tmp_path: Path) -> None:
    write(tmp_path / "again")
    for file in sorted(p for p in dataset.rglob("*") if p.is_file()):
        other = tmp_path / "again" / file.relative_to(dataset)
        if file.suffix != ".mp4":
            assert file.read_bytes() == other.read_bytes()
            continue
        # libx264 gave other bytes in about 1 of 100 repeats, even with one thread
        for one, two in zip(decode(file), decode(other), strict=True):
            gap = one.to_ndarray(format="rgb24").astype(int) - two.to_ndarray(format="rgb24")
            assert np.abs(gap).mean() < 1.0


def test_error_while_reading_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[EpisodeRecord]:
        yield episode(0, 12)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="source broke"):
        write(tmp_path / "set", episodes=broken())
    assert list(tmp_path.iterdir()) == []


def _bad_state() -> EpisodeRecord:
    good = episode(1, 12)
    states = good.columns["observation.state"].copy()
    states[3, 4] = np.nan
    return EpisodeRecord(
        task="x",
        columns={"observation.state": states, "action": states},
        frames=good.frames,
    )


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (_bad_state(), "non-finite"),
        (EpisodeRecord(task="", columns=episode(1, 5).columns, frames={}), "no instruction"),
        (EpisodeRecord(task="x", columns=episode(1, 5).columns, frames={}), "frames of"),
        (
            EpisodeRecord(
                task="x",
                columns={"action": episode(1, 5).columns["action"]},
                frames=episode(1, 5).frames,
            ),
            "the same",
        ),
    ],
)
def test_bad_episode_is_refused(tmp_path: Path, second: EpisodeRecord, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "set", [episode(0, 12), second])
    assert list(tmp_path.iterdir()) == []


def test_existing_path_and_wrong_splits_are_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="already exists"):
        write(dataset)
    with pytest.raises(ValueError, match="add up to 5"):
        write(tmp_path / "set", splits={"train": 5})


def test_odd_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even"):
        VideoWriter(tmp_path / "x.mp4", fps=10, height=33, width=32)
