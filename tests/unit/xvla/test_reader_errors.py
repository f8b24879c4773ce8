"""Every defect of a dataset is named in one line: where, what, and what to do."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from make_lerobot import VIEWS, SetSpec, write_set

from xvla.data import open_dataset
from xvla.data.inspect import inspect_dataset, problem_lines
from xvla.data.readers import base
from xvla.data.readers.base import DatasetError

VIDEO = f"videos/{VIEWS[1]}/chunk-000/file-000.mp4"
DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
CLIP = f"videos/{VIEWS[1]}/from_timestamp"


def _error(root: Path) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        open_dataset(root)
    text = str(caught.value)
    assert "\n" not in text
    return text


def _cut(name: str, keep: float) -> Callable[[Path], None]:
    def cut(root: Path) -> None:
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: int(len(content) * keep)])

    return cut


def _edit_info(**changes: object) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        file = root / "meta/info.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return edit


def _edit_table(name: str, change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        pq.write_table(change(pq.read_table(root / name)), root / name)

    return edit


def _set_column(table: pa.Table, name: str, values: object) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def _time_back(table: pa.Table) -> pa.Table:
    stamps = np.array(table["timestamp"].to_pylist())
    stamps[40] = stamps[38]
    return _set_column(table, "timestamp", stamps)


def _narrow(table: pa.Table) -> pa.Table:
    rows = [row[:7] for row in table["observation.state"].to_pylist()]
    return _set_column(table, "observation.state", rows)


def _no_rotation(table: pa.Table) -> pa.Table:
    rows = table["observation.state"].to_pylist()
    rows[40] = [*rows[40][:3], *[0.0] * 6, *rows[40][9:]]
    return _set_column(table, "observation.state", rows)


def _moved(table: pa.Table) -> pa.Table:
    rows = [[row[0] + 1.0, *row[1:]] for row in table["observation.state"].to_pylist()]
    return _set_column(table, "observation.state", rows)


def _ragged(table: pa.Table) -> pa.Table:
    rows = table["observation.state"].to_pylist()
    rows[0], rows[1] = rows[0][:19], rows[1] + [0.0]
    return _set_column(table, "observation.state", rows)


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated parquet": (_cut(DATA, 0.5), f"{DATA}: not readable as parquet"),
    "truncated tasks": (_cut("meta/tasks.parquet", 0.3), "meta/tasks.parquet: not readable"),
    "mp4 without its head": (_cut(VIDEO, 0.05), f"{VIDEO}, episode 0"),
    "mp4 without its tail": (_cut(VIDEO, 0.97), "frames, the table needs"),
    "mp4 cut in half": (_cut(VIDEO, 0.5), "frames, the table needs"),
    "no mp4": (lambda root: (root / VIDEO).unlink(), f"{VIDEO}, episode 0, {VIEWS[1]}: missing"),
    "no data": (lambda root: (root / DATA).unlink(), "data/chunk-*/file-*.parquet: missing"),
    "no info": (lambda root: (root / "meta/info.json").unlink(), "meta/info.json: missing"),
    "bad json": (_cut("meta/info.json", 0.5), "meta/info.json: not readable as JSON"),
    "version": (_edit_info(codebase_version="v1.6"), "'v1.6' is not read; allowed: v3.0, v2.1"),
    "fps": (_edit_info(fps=0), "fps: 0, must be a number above 0"),
    "fps true": (_edit_info(fps=True), "fps: True, must be a number above 0"),
    "fps infinite": (_edit_info(fps=float("inf")), "fps: inf, must be a number above 0"),
    "data outside": (
        _edit_info(data_path="../x/{file_index}.parquet"),
        "data_path: '../x/0.parquet' is a path outside the dataset's folder",
    ),
    "data elsewhere": (
        _edit_info(data_path="rows/{file_index:03d}.parquet"),
        "rows/*.parquet: missing",
    ),
    "no rotation": (
        _edit_table(DATA, _no_rotation),
        f"{DATA}, episode 1, observation.state: the rotation of frame 10 has zero norm",
    ),
    "half an episode number": (
        _edit_table(DATA, lambda t: _set_column(t, "episode_index", np.full(len(t), 0.5))),
        f"{DATA}, episode_index: not a whole number in every row",
    ),
    "no task number": (
        _edit_table(DATA, lambda t: _set_column(t, "task_index", [None] * len(t))),
        f"{DATA}, task_index: not a whole number in every row",
    ),
    "frames before the video": (
        _edit_table(
            EPISODES, lambda t: _set_column(t, CLIP, [-4.0 * (i + 1) for i in range(len(t))])
        ),
        f"{VIDEO}, episode 0, {VIEWS[1]}: begins at frame -",
    ),
    "outside": (
        _edit_info(video_path="../x/{video_key}.mp4"),
        "video_path: '../x/view.mp4' is a path outside the dataset's folder",
    ),
    "template": (_edit_info(video_path="{no_such}.mp4"), "video_path: '{no_such}.mp4' cannot be"),
    "no features": (_edit_info(features=None), "features: missing"),
    "split": (_edit_info(splits={"train": "0:60"}), "train = '0:60', must be 'first:last'"),
    "overlap": (_edit_info(splits={"train": "0:4", "val": "3:5"}), "overlaps another split"),
    "time": (_edit_table(DATA, _time_back), f"{DATA}, episode 1, timestamp: time does not advance"),
    "7 dims": (_edit_table(DATA, _narrow), "7 values a frame, must be 20"),
    "ragged": (_edit_table(DATA, _ragged), "observation.state: rows differ in length"),
    "column": (
        _edit_table(DATA, lambda t: t.drop_columns(["timestamp"])),
        "timestamp: missing column; the file has",
    ),
    "rows lost": (_edit_table(DATA, lambda t: t.slice(3)), "27 rows, meta/episodes says 30"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_set_is_named(case: str, tmp_path: Path) -> None:
    root = write_set(tmp_path / "sim_panda")
    breaks, message = BROKEN[case]
    breaks(root)
    assert message in _error(root)
    document = inspect_dataset(root)
    assert any(message in line for line in problem_lines(document))
    json.dumps(document, allow_nan=False)


def test_nan_is_named(tmp_path: Path) -> None:
    root = write_set(tmp_path / "sim_panda", SetSpec(nan_in="observation.state"))
    message = "episode 1, observation.state: NaN or infinite in 1 frames (first: frame 5)"
    assert message in _error(root)


def test_all_problems_are_listed(tmp_path: Path) -> None:
    spec = SetSpec(nan_in="observation.state", video_frames_missing=3, task_text=" ")
    root = write_set(tmp_path / "sim_panda", spec)
    with pytest.raises(DatasetError, match=r"\(and \d more problems\)") as caught:
        open_dataset(root)
    fields = {problem.field for problem in caught.value.problems}
    assert fields == {"observation.state", "task", *VIEWS}
    assert [p["field"] for p in inspect_dataset(root)["problems"]].count("task") == 3


def test_video_shorter_than_its_table(tmp_path: Path) -> None:
    root = write_set(tmp_path / "sim_panda", SetSpec(video_frames_missing=1))
    assert "episode 5, observation.images.front: the video has 204 frames, the table needs 205" in (
        _error(root)
    )


def test_missing_instruction(tmp_path: Path) -> None:
    root = write_set(tmp_path / "sim_panda", SetSpec(task_rows=1))
    assert "meta/tasks.parquet, episode 1, task: the episode has no instruction" in _error(root)


def test_empty_dataset(tmp_path: Path) -> None:
    root = write_set(tmp_path / "sim_panda")
    for name in (DATA, "meta/episodes/chunk-000/file-000.parquet"):
        _edit_table(name, lambda table: table.slice(0, 0))(root)
    assert "the dataset is empty: no episodes" in _error(root)


def test_empty_episode(tmp_path: Path) -> None:
    root = write_set(tmp_path / "sim_panda", SetSpec(lengths=[12, 0], splits={"train": "0:2"}))
    assert f"{DATA}, episode 1: the episode is empty" in _error(root)


def test_no_folder_and_unknown_format(tmp_path: Path) -> None:
    assert "no dataset folder at" in _error(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no dataset folder at"):
        inspect_dataset(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="format 'rlds' is unknown; allowed: auto, lerobot_v3"):
        open_dataset(write_set(tmp_path / "sim_panda"), format="rlds")  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", ["CHECKED_FRAMES", "CHECKED_EPISODES"])
@pytest.mark.parametrize("case", ["no rotation", "time"])
def test_a_set_too_large_to_check_is_checked_by_the_episode(
    case: str, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_set(tmp_path / "sim_panda")
    breaks, message = BROKEN[case]
    breaks(root)
    monkeypatch.setattr(base, limit, 5)
    dataset = open_dataset(root)
    dataset.episode(0)
    with pytest.raises(DatasetError, match=re.escape(message)):
        dataset.episode(1)


def test_a_file_written_anew_is_read_anew(tmp_path: Path) -> None:
    root = write_set(tmp_path / "sim_panda")
    before = open_dataset(root).episode(0).states
    _edit_table(DATA, _moved)(root)
    after = open_dataset(root).episode(0).states
    np.testing.assert_allclose(after[:, 0], before[:, 0] + 1.0, rtol=1e-6)
