"""Values that are not what they seem: what is refused, what warns, and what is said of it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from make_lerobot import FPS, VIEWS, SetSpec, write_set

from xvla.config import DataConfig, DomainEntry
from xvla.data import open_dataset
from xvla.data.inspect import inspect_dataset, problem_lines
from xvla.data.readers.base import DatasetError
from xvla.data.samples import SampleMaker
from xvla.data.sources import Mixture
from xvla.data.writing.convert import convert_dataset

DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
LENGTHS = [22, 24, 26, 22, 23, 25]
Change = Callable[[np.ndarray], np.ndarray]


def edit_column(root: Path, key: str, change: Change, file: str = DATA) -> None:
    """Rewrite one column of a table by a function of its array."""
    table = pq.read_table(root / file, partitioning=None)
    values = np.array(table.column(key).to_pylist())
    column = pa.array(change(values).tolist(), type=table.schema.field(key).type)
    place = table.column_names.index(key)
    pq.write_table(table.set_column(place, key, column), root / file)


def edit_info(root: Path, **fields: object) -> None:
    """Set fields of meta/info.json."""
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def states(change: Callable[[np.ndarray], None]) -> Callable[[Path], None]:
    """Change the poses [n, 20] of all rows in place."""

    def change_rows(rows: np.ndarray) -> np.ndarray:
        change(rows)
        return rows

    return lambda root: edit_column(root, "observation.state", change_rows)


def times(change: Change) -> Callable[[Path], None]:
    return lambda root: edit_column(root, "timestamp", change)


def as_columns(rows: np.ndarray) -> None:
    rows[:, 3:9] = rows[:, [3, 5, 7, 4, 6, 8]]


def scale(dims: slice | int, factor: float, offset: float = 0.0) -> Callable[[np.ndarray], None]:
    def change(rows: np.ndarray) -> None:
        rows[:, dims] = rows[:, dims] * factor + offset

    return change


def move_clip(root: Path) -> None:
    """Let the clip of episode 2 begin five frames early."""

    def earlier(starts: np.ndarray) -> np.ndarray:
        starts[2] -= 5 / FPS
        return starts

    edit_column(root, f"videos/{VIEWS[0]}/from_timestamp", earlier, EPISODES)


REFUSED = {
    "columns": (states(as_columns), "frames hold no rotation: .* as rotation6d_columns, not"),
    "scaled rotation": (states(scale(slice(3, 9), 57.3)), "are rotations times 57.3"),
    "no rotation": (states(scale(5, 0.3, 0.5)), r"dot product .* \(deviation 0\.\d+\)"),
    "millimetres": (states(scale(slice(0, 3), 1000)), r"reaches 100, .* millimetres \(0.1 m\)"),
    "one column in mm": (states(scale(2, 1e5, 100)), "z reaches .*, must be a position in m"),
    "gripper in bytes": (states(scale(9, 255, 0)), "goes from 0 to 255, .*probably 0..255"),
    "gripper in percent": (states(scale(9, 100, 0)), "goes from 0 to 100, .*percent"),
    "gripper from -1": (states(scale(9, 2, -1)), "goes from -1 to -?1, .*probably -1..1"),
    "milliseconds": (times(lambda t: t * 1e3), "step is 100, 1/fps is 0.1 s; .* milliseconds"),
    "nanoseconds": (times(lambda t: t * 1e9), "step is 1e.08, .* in nanoseconds"),
    "another rate": (lambda root: edit_info(root, fps=30), "is 0.1, 1/fps is 0.03333 s; .* 10 a"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_values_that_are_wrong_are_refused(case: str, tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", SetSpec(lengths=LENGTHS, views=()))
    breaks, message = REFUSED[case]
    breaks(root)
    with pytest.raises(DatasetError, match=message) as caught:
        open_dataset(root)
    first = caught.value.problems[0]
    assert (first.file, first.severity, first.episode is None) == (DATA, "error", False)
    assert first.field == ("timestamp" if "seconds" in case or "rate" in case else first.field)
    with pytest.raises(DatasetError, match=message):  # an episode of a set that is not checked
        open_dataset(root, check=False).episode(first.episode)


RIGHT = {
    "rounded": states(lambda rows: np.round(rows, 4, out=rows)),
    "rate of 29.97": lambda root: edit_info(root, fps=FPS * 1.001),
    "overshoot": states(scale(9, 1.0005)),
    "a late start": times(lambda t: t + 5),
}


@pytest.mark.parametrize("case", RIGHT)
def test_values_within_measurement_are_read_without_a_word(case: str, tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", SetSpec(lengths=LENGTHS, views=()))
    RIGHT[case](root)
    assert inspect_dataset(root)["problems"] == []


WARNED = {
    "rough rotation": (states(scale(3, 1.01)), "rotations are 0.01 from rotations"),
    "overshoot": (states(scale(9, 1.03)), "the gripper goes from 0 to 1.03"),
    "far": (states(scale(0, 1, 5.0)), "x reaches 5.1"),
    "gripper in m": (states(scale(9, 0.08)), "never exceeds 0.08 .* opening in m"),
}


@pytest.mark.parametrize("case", WARNED)
def test_doubtful_values_warn_and_are_read(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_set(tmp_path / "set", SetSpec(lengths=LENGTHS, views=()))
    breaks, message = WARNED[case]
    breaks(root)
    assert len(open_dataset(root).episodes) == len(LENGTHS)
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    problems = inspect_dataset(root)["problems"]
    assert {problem["severity"] for problem in problems} == {"warning"}
    assert re.search(message, problems[0]["message"])


def test_clips_that_share_frames_are_refused(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", SetSpec(lengths=LENGTHS))
    move_clip(root)
    lines = problem_lines(inspect_dataset(root))
    assert len(lines) == 2
    assert all("episode 1 at 2.2 to 4.6 s, episode 2 at 4.1 to 6.7 s" in line for line in lines)
    for episode in (1, 2):
        with pytest.raises(DatasetError, match="clips of one video overlap"):
            open_dataset(root, check=False).episode(episode)


def test_a_task_that_changes_within_an_episode(tmp_path: Path) -> None:
    root = write_set(tmp_path / "sim_panda", SetSpec(lengths=LENGTHS))

    def change(tasks: np.ndarray) -> np.ndarray:
        tasks[22 + 8 : 22 + 24] = 0  # the end of episode 1, whose task is 1
        return tasks

    edit_column(root, "task_index", change)
    wanted = ["put it down"] * 8 + ["lift the cube"] * 16
    entry = DomainEntry(name="sim_panda")
    config = DataConfig(root=str(tmp_path), mixture=[entry], tokenizer="demo")
    maker = SampleMaker(Mixture.open(config))
    assert [maker.wordings(("sim_panda", 1, frame))[0] for frame in range(24)] == wanted
    document = inspect_dataset(root)
    assert (document["problems"], document["instructions"]) == (
        [],
        {"lift the cube": 4, "put it down": 3},
    )
    convert_dataset(root, tmp_path / "out")
    made = open_dataset(tmp_path / "out").episodes
    assert [made.task_at(1, frame) for frame in range(24)] == wanted
    rows = pq.read_table(tmp_path / "out" / EPISODES, partitioning=None).column("tasks")
    assert rows.to_pylist()[1] == ["put it down", "lift the cube"]


def as_v21(root: Path, listed: list[str], version: str = "v2.1") -> Path:
    """Cut a set without views into one file an episode; `listed` are the meta folder's texts."""
    data = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    edit_info(root, codebase_version=version, data_path=data)
    texts = ("lift the cube", "put it down")
    rows = [json.dumps({"task_index": i, "task": text}) for i, text in enumerate(texts)]
    (root / "meta/tasks.jsonl").write_text("\n".join(rows))
    table, first, rows = pq.read_table(root / DATA, partitioning=None), 0, []
    for episode, (length, text) in enumerate(zip(LENGTHS, listed, strict=True)):
        file = root / data.format(episode_chunk=0, episode_index=episode)
        pq.write_table(table.slice(first, length), file)
        rows.append(json.dumps({"episode_index": episode, "tasks": [text], "length": length}))
        first += length
    (root / "meta/episodes.jsonl").write_text("\n".join(rows))
    return root


@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
def test_rows_count_where_the_meta_folder_contradicts(version: str, tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", SetSpec(lengths=LENGTHS, views=()))
    as_v21(root, ["lift the cube", "put it down"] * 2 + ["put it down"] * 2, version)
    assert open_dataset(root).episodes.tasks == ["lift the cube", "put it down"] * 3
    lines = problem_lines(inspect_dataset(root))
    assert lines == [
        "warning: meta/episodes.jsonl, episode 4, tasks: the rows say 'lift the cube', this says "
        "'put it down'; the rows count"
    ]


@pytest.mark.parametrize("kind", ["v2.1", "v3.0"])
def test_rows_of_a_large_set_must_agree_with_the_meta_folder(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_set(tmp_path / "set", SetSpec(lengths=LENGTHS, views=()))
    listed = ["lift the cube", "put it down"] * 2 + ["put it down"] * 2
    monkeypatch.setattr("xvla.data.readers.lerobot_v3.COMPARED_FRAMES", 5)
    monkeypatch.setattr("xvla.data.readers.lerobot_v21.CHECKED_FRAMES", 5)
    monkeypatch.setattr("xvla.data.readers.base.CHECKED_FRAMES", 5)
    if kind == "v2.1":
        as_v21(root, listed)
    else:
        table = pq.read_table(root / EPISODES, partitioning=None)
        column = pa.array([[text] for text in listed])
        pq.write_table(table.append_column("tasks", column), root / EPISODES)
    dataset = open_dataset(root)
    assert dataset.episode(3).instruction == "put it down"
    with pytest.raises(DatasetError, match=r"the rows say 'lift the cube', .* says 'put it down'"):
        dataset.episode(4)


def test_what_is_not_read_warns(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", SetSpec(lengths=LENGTHS, views=(), nan_in="action"))
    table = pq.read_table(root / EPISODES, partitioning=None)
    for name in ("data/chunk_index", "data/file_index"):
        table = table.append_column(name, pa.array([0] * len(LENGTHS)))
    pq.write_table(table, root / EPISODES)
    (root / "data/chunk-000/file-001.parquet").write_bytes(b"left over, and torn")
    assert open_dataset(root).episodes.num_frames == sum(LENGTHS)
    assert problem_lines(inspect_dataset(root)) == [
        "warning: data/chunk-000/file-001.parquet: not named by meta/episodes, so not read; "
        "delete it if it is a leftover",
        f"warning: {DATA}, episode 1, action: NaN or infinite in 1 frames (first: frame 5); "
        "record it again; it is not read, so the episode is",
    ]


def test_a_data_file_that_the_meta_folder_names_must_be_there(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", SetSpec(lengths=LENGTHS, views=()))
    table = pq.read_table(root / EPISODES, partitioning=None)
    for name, number in (("data/chunk_index", 0), ("data/file_index", 3)):
        table = table.append_column(name, pa.array([number] * len(LENGTHS)))
    pq.write_table(table, root / EPISODES)
    with pytest.raises(DatasetError, match=r"file-003\.parquet: missing, meta/episodes names it"):
        open_dataset(root)


@pytest.mark.parametrize("place", ["info", "video_info", "top"])
def test_a_map_of_depths_is_no_view(place: str, tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", SetSpec(lengths=LENGTHS))
    features = json.loads((root / "meta/info.json").read_text())["features"]
    mark = {"is_depth_map": True} if place != "info" else {"video.is_depth_map": True}
    features[VIEWS[0]] |= mark if place == "top" else {place: mark}
    edit_info(root, features=features)
    assert open_dataset(root).views == VIEWS[1:]


def test_large_lists_are_read(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", SetSpec(lengths=LENGTHS, views=()))
    before = open_dataset(root).episode(2).states
    table = pq.read_table(root / DATA, partitioning=None)
    for key in ("observation.state", "action"):
        column = table.column(key).combine_chunks().cast(pa.large_list(pa.float32()))
        table = table.set_column(table.column_names.index(key), key, column)
    pq.write_table(table, root / DATA)
    np.testing.assert_array_equal(open_dataset(root).episode(2).states, before)


def test_inspect_says_what_a_run_holds_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_set(tmp_path / "set", SetSpec(lengths=LENGTHS, views=(), splits={"train": "0:6"}))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    document = inspect_dataset("../set")
    assert document["splits"] == {"train": 2, "val": 2, "test": 2}
    assert document["splits_note"].startswith(
        "6 episodes; a run trains on 2, validates on 2, tests on 2: no task has more than 3"
    )
    as_v21(root, ["lift the cube", "put it down"] * 3)
    assert inspect_dataset("../set")["problems"] == []


def test_an_action_column_that_is_not_there_warns(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", SetSpec(lengths=LENGTHS, views=()))
    table = pq.read_table(root / DATA, partitioning=None)
    pq.write_table(table.drop_columns(["action"]), root / DATA)
    dataset = open_dataset(root)  # states are all that is read
    assert {(p.severity, p.field) for p in dataset.problems()} == {("warning", "action")}
