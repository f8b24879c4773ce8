"""Converting sets to LeRobot v3.0: same poses, same pictures, resumable, nothing half-written."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from make_official import KEYS, write_agibot, write_meta, write_set, write_v21
from official_layouts import expected_states

from xvla.data import open_dataset
from xvla.data.resample import episode_anchors
from xvla.data.writing import convert
from xvla.data.writing.convert import ConvertOptions, convert_dataset
from xvla.progress import Advance

VIEWS = ("observation.images.third_image", "observation.images.wrist_image")
SMALL = ConvertOptions(episodes_per_file=2, crf=10, preset="veryfast")


@pytest.mark.parametrize("name", ["Bridge", "libero", "AIR-AGILEX-HQ"])
def test_converted_set_equals_its_source(name: str, tmp_path: Path) -> None:
    lengths = (24, 31, 20)
    source = open_dataset(write_set(tmp_path / "set", name, lengths))
    summary = convert_dataset(tmp_path / "set", tmp_path / "out", options=SMALL)
    made = open_dataset(tmp_path / "out")
    assert (summary["episodes"], summary["frames"]) == (3, sum(lengths))
    assert (made.domain, made.fps, made.views) == (source.domain, source.fps, VIEWS)
    assert [e.length for e in made.episodes] == list(lengths)
    assert [e.task for e in made.episodes] == [e.task for e in source.episodes]
    assert {e.split for e in made.episodes} == {"train"}
    for episode, length in enumerate(lengths):
        old, new = source.episode(episode), made.episode(episode)
        np.testing.assert_array_equal(new.states, old.states)
        np.testing.assert_allclose(new.times, old.times, atol=1e-6)
        rules = {"window_s": 1.0, "num_anchors": 30}
        starts = np.arange(length)
        np.testing.assert_allclose(
            episode_anchors(new.times, new.states, starts, **rules),
            episode_anchors(old.times, old.states, starts, **rules),
            atol=2e-4 if name == "AIR-AGILEX-HQ" else 1e-6,
        )
        for key, view in zip(KEYS, VIEWS, strict=True):
            rows = [0, length - 1, 7]
            gap = made.frames(episode, view, rows).astype(int) - source.frames(episode, key, rows)
            assert np.abs(gap).mean() < 3.0
    np.testing.assert_array_equal(made.column(1, "action")[:-1], source.episode(1).states[1:])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "set"]


def test_statistics_are_those_of_all_frames(tmp_path: Path) -> None:
    write_set(tmp_path / "set", "Calvin", (24, 31, 20))
    convert_dataset(tmp_path / "set", tmp_path / "out", options=SMALL)
    made = open_dataset(tmp_path / "out")
    states = np.concatenate([made.episode(i).states for i in range(3)]).astype(np.float64)
    stats = json.loads((tmp_path / "out/meta/stats.json").read_text())["observation.state"]
    np.testing.assert_allclose(stats["mean"], states.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(stats["std"], states.std(axis=0), atol=1e-7)
    np.testing.assert_allclose(stats["max"], states.max(axis=0))
    assert stats["count"] == [75]


def test_parts_make_the_set_that_one_part_makes(tmp_path: Path) -> None:
    """All but where the files lie; statistics to the bit, those of the index columns included."""
    source = write_set(tmp_path / "set", "Calvin", (24, 31, 20, 27, 22))
    for files, per_file in ((1, 50), (3, 2)):
        options = replace(SMALL, episodes_per_file=per_file)
        out = tmp_path / str(files)
        convert_dataset(source, out, options=options, workers=min(2, files))
        assert len([*out.glob("data/*/*.parquet")]) == files
        assert len([*out.glob("videos/*/*/*.mp4")]) == files * len(VIEWS)
    whole = _content(tmp_path / "1")
    assert _content(tmp_path / "3") == whole
    stats = whole["stats.json"]
    assert stats["index"]["max"] == [123]
    assert stats["index"]["mean"] == [61.5]
    assert stats["episode_index"]["max"] == [4]
    assert stats["task_index"]["max"] == [1]
    assert whole["frames"]["index"] == list(range(124))


def _content(root: Path) -> dict[str, Any]:
    """Return all that a set says of its frames, whichever of its files says it."""
    rows = pq.read_table(root / "meta/episodes", partitioning=None).to_pylist()
    places, meta = ("_index", "_timestamp"), ("info.json", "stats.json")
    return {
        "frames": pq.read_table(root / "data", partitioning=None).to_pydict(),
        "tasks": pq.read_table(root / "meta/tasks.parquet").to_pydict(),
        "episodes": [
            {k: v for k, v in row.items() if "/" not in k or not k.endswith(places)} for row in rows
        ],
        **{name: json.loads((root / "meta" / name).read_text()) for name in meta},
    }


def test_interrupted_conversion_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "set", "Bridge", (24, 31, 20))
    real, calls = convert._write_part, []

    def stops_at_the_second(part: object, advance: object = None) -> int:
        calls.append(part)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(part, advance)

    monkeypatch.setattr(convert, "_write_part", stops_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        convert_dataset(tmp_path / "set", tmp_path / "out", options=SMALL)
    assert not (tmp_path / "out").exists()
    summary = convert_dataset(tmp_path / "set", tmp_path / "out", options=SMALL)
    assert summary["files_resumed"] == 1
    assert len(calls) == 3
    assert open_dataset(tmp_path / "out").episodes[2].length == 20
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "set"]


def test_size_and_splits(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", "Bridge", (24, 20, 22))
    write_meta(root, "Bridge", [f"episodes/{i}.hdf5" for i in range(3)],
               splits={"val": "0:1", "train": "1:3"})  # fmt: skip
    options = ConvertOptions(size=32, preset="veryfast")
    convert_dataset(root, tmp_path / "out", options=options)
    made = open_dataset(tmp_path / "out")
    assert [(e.length, e.split) for e in made.episodes] == [
        (20, "train"),
        (22, "train"),
        (24, "val"),
    ]
    assert made.frames(0, VIEWS[0], [0]).shape == (1, 32, 32, 3)


def test_agibot_and_v21_convert_too(tmp_path: Path) -> None:
    write_agibot(tmp_path / "agibot", (60,))
    states = [expected_states("Calvin", n, i) for i, n in enumerate((20, 25))]
    write_v21(tmp_path / "v21", states)
    for name in ("agibot", "v21"):
        convert_dataset(tmp_path / name, tmp_path / f"{name}3", options=SMALL)
        old, new = open_dataset(tmp_path / name), open_dataset(tmp_path / f"{name}3")
        np.testing.assert_array_equal(new.episode(0).states, old.episode(0).states)
        assert new.views == old.views


def test_defective_episodes_stop_it_or_are_left_out_by_name(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", "Bridge", (24, 20, 22))
    with h5py.File(root / "episodes/1.hdf5", "a") as file:
        file["proprio"][3, 1] = np.nan
    with pytest.raises(ValueError, match=r"episodes/1.hdf5, episode 1, proprio: NaN"):
        convert_dataset(root, tmp_path / "out")
    summary = convert_dataset(root, tmp_path / "out", skip_bad=True)
    assert summary["episodes"] == 2
    assert [(p["file"], p["episode"]) for p in summary["skipped"]] == [("episodes/1.hdf5", 1)]
    with h5py.File(root / "episodes/2.hdf5", "a") as file:
        file[KEYS[1]][11] = file[KEYS[1]][11][:60]  # found only when it is decoded
    summary = convert_dataset(root, tmp_path / "out2", skip_bad=True)
    assert summary["episodes"] == 1
    assert [(p["episode"], p["field"]) for p in summary["skipped"]] == [
        (1, "proprio"),
        (2, KEYS[1]),
    ]


def test_existing_target_and_bad_options(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", "Bridge", (12,))
    with pytest.raises(ValueError, match="already exists"):
        convert_dataset(root, root)
    with pytest.raises(ValueError, match="size 33"):
        convert_dataset(root, tmp_path / "out", options=ConvertOptions(size=33))
    with pytest.raises(ValueError, match="crf 99: give h264's rate factor, 0"):
        convert_dataset(root, tmp_path / "out", options=ConvertOptions(crf=99))
    with pytest.raises(ValueError, match="workers 0"):
        convert_dataset(root, tmp_path / "out", workers=0)


def test_progress_counts_every_episode(tmp_path: Path) -> None:
    said: list[tuple[str, int] | int] = []

    @contextmanager
    def bar(label: str, total: int) -> Iterator[Advance]:
        said.append((label, total))
        yield said.append

    root = write_set(tmp_path / "set", "Bridge", (24, 20, 22))
    convert_dataset(root, tmp_path / "out", options=SMALL, progress=bar)
    assert said == [("converting", 3), 1, 1, 1]
