"""Bad input in X-VLA's sets and LeRobot v2.1: each defect is named by file, episode and field."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from make_official import KEYS, write_agibot, write_meta, write_set, write_v21
from official_layouts import expected_states

from xvla.data import open_dataset
from xvla.data.inspect import inspect_dataset, problem_lines

Break = Callable[[Path], None]
V21_DATA = "data/chunk-000/episode_000001.parquet"
V21_VIDEO = "videos/chunk-000/observation.images.wrist/episode_000001.mp4"
AGIBOT_DATA = "top/data/chunk-000/episode_000001.parquet"


def edit_h5(change: Callable[[h5py.File], None]) -> Break:
    def edit(root: Path) -> None:
        with h5py.File(root / "episodes/1.hdf5", "a") as file:
            change(file)

    return edit


def replaced(key: str, change: Callable[[np.ndarray], np.ndarray]) -> Break:
    def edit(file: h5py.File) -> None:
        values = change(file[key][()])
        del file[key]
        file[key] = values

    return edit_h5(edit)


def at(row: int, column: object, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values[row, column] = value
        return values

    return change


def edit_json(name: str, **changes: object) -> Break:
    def edit(root: Path) -> None:
        file = root / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return edit


def cut(name: str, keep: float) -> Break:
    def edit(root: Path) -> None:
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: int(len(content) * keep)])

    return edit


def edit_table(name: str, key: str, change: Callable[[list], list] | None) -> Break:
    def edit(root: Path) -> None:
        table = pq.read_table(root / name, partitioning=None)
        if change is None:
            table = table.drop_columns([key])
        else:
            values = pa.array(change(table[key].to_pylist()))
            table = table.set_column(table.column_names.index(key), key, values)
        pq.write_table(table, root / name)

    return edit


def put(row: int, value: object) -> Callable[[list], list]:
    return lambda rows: [*rows[:row], value, *rows[row + 1 :]]


def say(root: Path) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        open_dataset(root)
    text = str(caught.value)
    assert "\n" not in text
    lines = problem_lines(inspect_dataset(root))
    assert any(line in text for line in lines), lines
    return text


def outside(root: Path) -> None:
    write_meta(root, "robotwin2_clean", ["episodes/0.hdf5", "../other/1.hdf5"])


EP1 = "episodes/1.hdf5, episode 1"
HDF5: dict[str, tuple[Break, str]] = {
    "cut": (cut("episodes/1.hdf5", 0.6), f"{EP1}: not readable as HDF5"),
    "no file": (lambda root: (root / "episodes/1.hdf5").unlink(), f"{EP1}: missing"),
    "not HDF5": (
        lambda root: (root / "episodes/1.hdf5").write_text("{}"),
        f"{EP1}: not readable as HDF5",
    ),
    "other keys": (
        edit_h5(lambda file: file.move("endpose", "poses")),
        f"{EP1}, endpose/left_endpose: missing key; the file has ",
    ),
    "group": (
        edit_h5(lambda file: (file.pop("endpose"), file.create_group("endpose/left_endpose"))),
        f"{EP1}, endpose/left_endpose: is a group",
    ),
    "zero quaternion": (
        replaced("endpose/right_endpose", at(7, slice(3, 7), 0.0)),
        f"{EP1}, endpose/right_endpose: the quaternion of frame 7 has zero norm",
    ),
    "nan": (
        replaced("endpose/left_endpose", at(5, 1, np.nan)),
        f"{EP1}, endpose/left_endpose: NaN or infinite in 1 frames (first: frame 5)",
    ),
    "nan gripper": (
        edit_h5(lambda file: file["endpose/left_gripper"].write_direct(np.full(35, np.inf))),
        f"{EP1}, endpose/left_gripper: NaN or infinite in 35 frames",
    ),
    "empty": (
        replaced("endpose/left_endpose", lambda values: values[:0]),
        f"{EP1}, endpose/left_endpose: the episode is empty: no frames",
    ),
    "narrow": (
        replaced("endpose/left_endpose", lambda values: values[:, :6]),
        f"{EP1}, endpose/left_endpose: has shape [35, 6], must be [frames, 7 or more]",
    ),
    "text poses": (
        replaced("endpose/left_endpose", lambda values: np.full((35, 7), b"x")),
        f"{EP1}, endpose/left_endpose: holds ",
    ),
    "arms differ": (
        replaced("endpose/right_gripper", lambda values: values[:-2]),
        f"{EP1}, endpose/right_gripper: 33 rows, the pose has 35",
    ),
    "few pictures": (
        replaced(KEYS[1], lambda values: values[:30]),
        f"{EP1}, {KEYS[1]}: 30 pictures, the poses have 35 rows",
    ),
    "bad picture": (
        edit_h5(lambda file: file[KEYS[0]].__setitem__(34, np.zeros(99, np.uint8))),
        f"{EP1}, {KEYS[0]}: picture 34 cannot be decoded",
    ),
    "no text": (
        replaced("language_instruction", lambda values: b" "),
        f"{EP1}, language_instruction: the episode has no instruction",
    ),
    "outside": (
        outside,
        "meta.json, episode 1, datalist: '../other/1.hdf5' is a path outside the dataset's folder",
    ),
    "no path": (edit_json("meta.json", datalist=[3]), "meta.json, episode 0, datalist: 3, must be"),
    "splits": (
        edit_json("meta.json", splits={"train": "0:9"}),
        "meta.json, splits: train = '0:9', must be 'first:last'",
    ),
    "no such folder": (
        edit_json("meta.json", root_path="../nowhere"),
        "meta.json, root_path: '../nowhere' is no folder",
    ),
    "rotation": (
        edit_json("meta.json", rotation="rot6d_columns"),
        "rotation: 'rot6d_columns', but robotwin2_clean has quat_xyzw by its layout",
    ),
    "complex": (
        replaced("endpose/left_endpose", lambda values: values + 1j),
        f"{EP1}, endpose/left_endpose: holds complex128, must hold numbers",
    ),
    "no list": (edit_json("meta.json", datalist={}), "meta.json, datalist: dict, must be a list"),
    "no episodes": (edit_json("meta.json", datalist=[]), "the dataset is empty: it lists no"),
    "unknown": (
        edit_json("meta.json", dataset_name="berkeley"),
        "dataset_name: 'berkeley' is no known source; allowed: Bridge, RT1,",
    ),
    "rate": (edit_json("meta.json", freq=0), "meta.json, freq: 0, must be a number above 0"),
    "views": (edit_json("meta.json", observation_key="x"), "observation_key: str, must be a list"),
    "cut json": (cut("meta.json", 0.5), "meta.json: not readable as JSON"),
}


@pytest.mark.parametrize("case", HDF5)
def test_hdf5(case: str, tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", "robotwin2_clean", (40, 35))
    breaks, message = HDF5[case]
    breaks(root)
    assert message in say(root)


def test_clocks_that_go_back(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", "AIR-AGILEX-HQ", (40, 35))
    key = "observations/eef_right_time"
    replaced(key, lambda values: np.concatenate([values[:9], values[8:9], values[10:]]))(root)
    assert f"{EP1}, {key}: time does not advance at frame 9" in say(root)


def test_clocks_that_never_meet(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", "AIR-AGILEX-HQ", (40, 35))
    replaced("observations/eef_right_time", lambda values: values + 1e4)(root)
    assert f"{EP1}, observations/eef_right_time: the clocks of the two arms share" in say(root)


def test_rotation_numbers_that_are_none(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", "libero", (40, 35))
    replaced("abs_action_6d", at(3, slice(3, 6), 0.0))(root)
    assert f"{EP1}, abs_action_6d: the rotation of frame 3 has zero norm" in say(root)


V21: dict[str, tuple[Break, str]] = {
    "no episodes": (
        lambda root: (root / "meta/episodes.jsonl").unlink(),
        "meta/episodes.jsonl: missing",
    ),
    "bad line": (cut("meta/episodes.jsonl", 0.9), "meta/episodes.jsonl: line 3 is not JSON"),
    "length": (
        lambda root: (root / "meta/tasks.jsonl").write_text('{"task_index": 0}\n'),
        "meta/tasks.jsonl, task: line 1 has None, must be of type str",
    ),
    "no task": (
        lambda root: (root / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "a"}'),
        "meta/tasks.jsonl, task: 'lift the red cube' of meta/episodes.jsonl is not in it",
    ),
    "cut parquet": (cut(V21_DATA, 0.6), f"{V21_DATA}, episode 1: not readable as parquet"),
    "no parquet": (lambda root: (root / V21_DATA).unlink(), f"{V21_DATA}, episode 1: missing"),
    "no column": (
        edit_table(V21_DATA, "observation.state", None),
        f"{V21_DATA}, episode 1, observation.state: missing column",
    ),
    "narrow": (
        edit_table(V21_DATA, "observation.state", lambda rows: [row[:7] for row in rows]),
        f"{V21_DATA}, episode 1, observation.state: 7 values a frame, must be 20",
    ),
    "null": (
        edit_table(V21_DATA, "observation.state", put(4, None)),
        f"{V21_DATA}, episode 1, observation.state: rows differ in length",
    ),
    "nan": (
        edit_table(V21_DATA, "observation.state", put(4, [float("nan")] * 20)),
        f"{V21_DATA}, episode 1, observation.state: NaN or infinite in 1 frames (first: frame 4)",
    ),
    "zero rotation": (
        edit_table(V21_DATA, "observation.state", put(4, [0.0] * 20)),
        f"{V21_DATA}, episode 1, observation.state: the rotation of frame 4 has zero norm",
    ),
    "time": (
        edit_table(V21_DATA, "timestamp", put(9, 0.3)),
        f"{V21_DATA}, episode 1, timestamp: time does not advance at frame 9",
    ),
    "rows": (
        lambda root: pq.write_table(pq.read_table(root / V21_DATA).slice(2), root / V21_DATA),
        f"{V21_DATA}, episode 1: 23 rows, meta/episodes.jsonl says 25",
    ),
    "cut video": (cut(V21_VIDEO, 0.5), f"{V21_VIDEO}, episode 1, observation.images.wrist: "),
    "no video": (lambda root: (root / V21_VIDEO).unlink(), f"{V21_VIDEO}, episode 1"),
    "no known codec": (
        lambda root: (root / V21_VIDEO).write_bytes(
            (root / V21_VIDEO).read_bytes().replace(b"avc1", b"zzzz")
        ),
        f"{V21_VIDEO}, episode 1, observation.images.wrist: ",
    ),
    "outside": (
        edit_json("meta/info.json", data_path="../x/{episode_index}.parquet"),
        "meta/info.json, data_path: '../x/0.parquet' is a path outside the dataset's folder",
    ),
    "template": (
        edit_json("meta/info.json", video_path="{no_such}.mp4"),
        "meta/info.json, video_path: '{no_such}.mp4' cannot be filled in",
    ),
    "fps": (edit_json("meta/info.json", fps="ten"), "meta/info.json, fps: 'ten', must be a number"),
    "version": (
        edit_json("meta/info.json", codebase_version="v1.6"),
        "'v1.6' is not read; allowed: v3.0, v2.1, v2.0",
    ),
    "splits": (edit_json("meta/info.json", splits={"train": "0:9"}), "must be 'first:last'"),
}


@pytest.fixture(scope="module")
def v21(tmp_path_factory: pytest.TempPathFactory) -> Path:
    states = [expected_states("Calvin", n, i) for i, n in enumerate((20, 25, 22))]
    return write_v21(tmp_path_factory.mktemp("v21") / "set", states)


@pytest.mark.parametrize("case", V21)
def test_v21(case: str, v21: Path, tmp_path: Path) -> None:
    import shutil

    root = shutil.copytree(v21, tmp_path / "set")
    breaks, message = V21[case]
    breaks(root)
    assert message in say(root)


def test_v21_reads_what_was_written(v21: Path) -> None:
    dataset = open_dataset(v21)
    assert [(e.length, e.split) for e in dataset.episodes] == [(n, "train") for n in (20, 25, 22)]
    for index, length in enumerate((20, 25, 22)):
        times, states, task = dataset.episode(index)
        np.testing.assert_array_equal(times, np.arange(length) / 10)
        formula = expected_states("Calvin", length, index).astype(np.float32)
        np.testing.assert_array_equal(states, formula)
        assert task == ("put it down" if index % 2 else "lift the red cube")
    assert dataset.start_frames(0) is None
    with pytest.raises(ValueError, match="missing column; the file has"):
        dataset.column(0, "force")
    with pytest.raises(ValueError, match=r"episode 3 is not one of 0\.\.2"):
        dataset.episode(3)


def relist(**changes: object) -> Break:
    def edit(root: Path) -> None:
        meta = json.loads((root / "agibot.json").read_text())
        meta["datalist"][1] |= changes
        (root / "agibot.json").write_text(json.dumps(meta))

    return edit


AGIBOT: dict[str, tuple[Break, str]] = {
    "outside": (
        relist(top_path="../x"),
        "agibot.json, episode 1, datalist: '../x' is a path outside the dataset's folder",
    ),
    "no path": (relist(top_path=3), "agibot.json, episode 1, datalist: 3, must be a path"),
    "no number": (relist(episode_index="1"), "agibot.json, episode 1, datalist: must be an object"),
    "length": (relist(length=0), f"{AGIBOT_DATA}, episode 1, length: 0, must be a number of"),
    "rows": (relist(length=34), f"{AGIBOT_DATA}, episode 1: 35 rows, the meta file says 34"),
    "no segments": (
        relist(action_config=[]),
        f"{AGIBOT_DATA}, episode 1, action_config: must list segments",
    ),
    "zero quaternion": (
        edit_table(AGIBOT_DATA, "actions.end.orientation", put(3, [[0.0] * 4, [0, 0, 0, 1.0]])),
        f"{AGIBOT_DATA}, episode 1, actions.end.orientation: the quaternion of frame 3",
    ),
    "no column": (
        edit_table(AGIBOT_DATA, "actions.effector.position", None),
        f"{AGIBOT_DATA}, episode 1, actions.effector.position: missing column",
    ),
}


@pytest.mark.parametrize("case", AGIBOT)
def test_agibot(case: str, tmp_path: Path) -> None:
    root = write_agibot(tmp_path / "set", (40, 35))
    breaks, message = AGIBOT[case]
    breaks(root)
    assert message in say(root)


def test_unchecked_sets_still_name_a_defect_when_it_is_read(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", "robotwin2_clean", (40, 35))
    HDF5["zero quaternion"][0](root)
    dataset = open_dataset(root, check=False)
    dataset.episode(0)
    with pytest.raises(ValueError, match="episode 1, endpose/right_endpose: the quaternion"):
        dataset.episode(1)


def test_an_episode_is_no_dataset(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", "Bridge", (12,))
    with pytest.raises(ValueError, match=r"0\.hdf5: is no meta JSON; give the"):
        open_dataset(root / "episodes/0.hdf5")


def test_several_meta_files_are_listed(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", "Bridge", (12,))
    (root / "second.json").write_text((root / "meta.json").read_text())
    with pytest.raises(ValueError, match=r"meta files meta.json, second.json give one by its path"):
        open_dataset(root)
    assert len(open_dataset(root / "second.json").episodes) == 1
