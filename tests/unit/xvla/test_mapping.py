"""States of one's own robot: mappings that read them, bad ones that are refused, proposals."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from make_lerobot import VIEWS, SetSpec, helix, write_set
from scipy.spatial.transform import Rotation

from scaling.spec import RunSpec, load_spec
from xvla.config import DataConfig, DomainEntry, SplitConfig
from xvla.data import open_dataset
from xvla.data.propose import propose_mapping
from xvla.data.readers.base import DatasetError
from xvla.data.resample import anchors
from xvla.data.rotation import rot6d_to_matrix
from xvla.data.sources import Mixture
from xvla.data.verify import dataset_digest
from xvla.data.writing.convert import ConvertOptions, convert_dataset
from xvla.mapping import StateMapping, parse_mapping

DATA = "data/chunk-000/file-000.parquet"
LENGTHS = [22, 24, 26]


def own_set(root: Path, kind: str, *, scale: float = 1.0, views: tuple[str, ...] = ()) -> Path:
    """Write the helix set with its rotation as `kind`; x, y, z times `scale`, gripper 100..0."""
    write_set(root, SetSpec(lengths=LENGTHS, views=views, splits={}))
    table = pq.read_table(root / DATA, partitioning=None)
    states = np.array(table.column("observation.state").to_pylist())
    turned = Rotation.from_matrix(rot6d_to_matrix(states[:, 3:9]))
    quaternion = turned.as_quat()
    numbers = {
        "rotation6d_columns": states[:, [3, 5, 7, 4, 6, 8]],
        "quaternion_xyzw": quaternion,
        "quaternion_wxyz": np.roll(quaternion, 1, axis=1),
        "euler": turned.as_euler("ZYX"),
        "axis_angle": np.rad2deg(turned.as_rotvec()),
        "matrix": turned.as_matrix().reshape(-1, 9),
    }[kind]
    own = np.concatenate([states[:, :3] * scale, numbers, 100 - 100 * states[:, 9:10]], axis=1)
    info = json.loads((root / "meta/info.json").read_text())
    for key, values in (("observation.state", own), ("action", own + 0.0)):
        column = pa.array(values.astype(np.float32).tolist(), type=pa.list_(pa.float32()))
        table = table.set_column(table.column_names.index(key), key, column)
        info["features"][key]["shape"] = [own.shape[1]]
    pq.write_table(table, root / DATA)
    (root / "meta/info.json").write_text(json.dumps(info))
    return root


def document(kind: str, width: int, **fields: Any) -> dict[str, Any]:
    """Return the mapping of `own_set` as it stands in a file."""
    rotation: dict[str, Any] = {"columns": [*range(3, 3 + width)], "kind": kind}
    rotation |= {"order": "ZYX"} if kind == "euler" else {}
    rotation |= {"unit": "deg"} if kind == "axis_angle" else {}
    arm = {
        "position": {"columns": [0, 1, 2], "unit": "mm"},
        "rotation": rotation,
        "gripper": {"column": 3 + width, "open": 100.0, "closed": 0.0},
    }
    return {"version": "v3.0", "width": 4 + width, "arms": [arm], **fields}


WIDTHS = {
    "rotation6d_columns": 6,
    "quaternion_xyzw": 4,
    "quaternion_wxyz": 4,
    "euler": 3,
    "axis_angle": 3,
    "matrix": 9,
}


@pytest.mark.parametrize("kind", WIDTHS)
def test_each_kind_of_rotation_gives_the_same_poses(kind: str, tmp_path: Path) -> None:
    root = own_set(tmp_path / "set", kind, scale=1000)
    before = dataset_digest(root)
    (root / "mapping.yaml").write_text(yaml.safe_dump(document(kind, WIDTHS[kind])))
    assert dataset_digest(root) != before
    states = open_dataset(root).episode(1).states
    np.testing.assert_allclose(states, helix(np.arange(24) / 10, phase=0.3), atol=2e-6)


def _arm(**changes: Any) -> dict[str, Any]:
    return {"arms": [document("euler", 3)["arms"][0] | changes]}


BAD: dict[str, tuple[Any, str]] = {
    "a column too many": (
        _arm(position={"columns": [0, 1, 2, 3]}),
        r"position has 4 columns .* needs 3",
    ),
    "missing rotation": (
        {"arms": [{"position": {"columns": [0, 1, 2]}}]},
        r"rotation \(rotation6d_interleaved\) has 0 columns",
    ),
    "no such sense": (_arm(gripper={"column": 6, "open": 1, "closed": 1}), "open and closed at 1"),
    "unknown key": (_arm(speed={}), r"arms\[0\]\.speed is unknown; allowed: position, rotation"),
    "unknown kind": (_arm(rotation={"kind": "euler_xyz"}), "kind='euler_xyz'; allowed: rotation6d"),
    "order": (
        _arm(rotation={"columns": [3, 4, 5], "kind": "euler", "order": "xyx"}),
        "order='xyx'; allowed",
    ),
    "twice": (_arm(gripper={"column": 5}), "names column 5 twice"),
    "beyond": (_arm(gripper={"column": 7}), r"column 7, but observation.state has 7 numbers"),
    "another set": ({"width": 9}, r"width=9, but observation.state has 7 .* another version"),
    "another version": ({"version": "v2.1"}, r"'v2.1', the set is 'v3.0': .* another version"),
    "no feature": ({"state": ["state"]}, "'state' is no feature of the set; it has observation"),
    "no view": ({"views": ["top"]}, "'top' is no view of the set"),
    "no arms": ({"arms": []}, "arms is empty"),
    "joints": ({"arms": [], "joints": [0, 1]}, "joint states are not trained on yet"),
    "a text": ("arms", "mapping is 'arms'; it must have the keys version, state"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_mappings_are_refused_in_one_line(case: str, tmp_path: Path) -> None:
    root = own_set(tmp_path / "set", "euler")
    change, message = BAD[case]
    given = change if isinstance(change, str) else document("euler", 3) | change
    (root / "mapping.yaml").write_text(yaml.safe_dump(given))
    with pytest.raises(DatasetError, match=message) as caught:
        open_dataset(root)
    assert "\n" not in str(caught.value)
    assert caught.value.problems[0].file in ("mapping.yaml", "meta/info.json")


def test_a_mapping_given_counts_before_the_file(tmp_path: Path) -> None:
    root = own_set(tmp_path / "set", "euler", scale=1000)
    (root / "mapping.yaml").write_text("arms: []")
    dataset = open_dataset(root, mapping=parse_mapping(document("euler", 3)))
    assert dataset.meta["mapping"]["arms"][0]["rotation"]["order"] == "ZYX"


def test_numbers_of_another_meaning_are_refused(tmp_path: Path) -> None:
    root = own_set(tmp_path / "set", "quaternion_xyzw")  # in m, the mapping says mm
    given = document("quaternion_xyzw", 4)
    given["arms"][0]["rotation"]["columns"] = [0, 1, 2, 3]
    given["arms"][0]["position"]["columns"] = [4, 5, 6]
    with pytest.raises(DatasetError, match=r"quaternion of frame \d+ has norm"):
        open_dataset(root, mapping=parse_mapping(given))


def test_views_are_those_named_main_first(tmp_path: Path) -> None:
    root = own_set(tmp_path / "set", "euler", scale=1000, views=VIEWS)
    named = [*reversed(VIEWS)]
    given = parse_mapping(document("euler", 3, views=named))
    assert open_dataset(root, mapping=given).views == (VIEWS[1], VIEWS[0])


def test_actions_are_reached_where_the_mapping_says_so(tmp_path: Path) -> None:
    root = own_set(tmp_path / "set", "euler", scale=1000)
    table = pq.read_table(root / DATA, partitioning=None)
    moved = np.array(table.column("action").to_pylist())
    moved[:, 0] += 50
    column = pa.array(moved.tolist(), type=pa.list_(pa.float32()))
    place = table.column_names.index("action")
    pq.write_table(table.set_column(place, "action", column), root / DATA)
    dataset = open_dataset(root, mapping=parse_mapping(document("euler", 3, target="action")))
    recorded: dict[str, Any] = dataset.poses(0).recorded()
    chunk = anchors(**recorded, start=3, window_s=1.0, num_anchors=10)
    states = recorded["states"]
    np.testing.assert_allclose(chunk[0], states[3], atol=1e-6)
    np.testing.assert_allclose(chunk[1:, 0], states[4:14, 0] + 0.05, atol=1e-5)


PROPOSED = {
    "quaternion_xyzw": ("quaternion_xyzw", "rad"),
    "euler": ("euler", "rad"),
    "rotation6d_columns": ("rotation6d_columns", "rad"),
    "matrix": ("matrix", "rad"),
}


@pytest.mark.parametrize("kind", PROPOSED)
def test_a_proposal_by_shape_is_written_and_read(kind: str, tmp_path: Path) -> None:
    root = own_set(tmp_path / "set", kind)
    proposal = propose_mapping(root, write=True)
    (arm,) = proposal.mapping.arms
    assert (arm.rotation.kind, arm.rotation.unit) == PROPOSED[kind]
    assert arm.gripper
    assert (arm.gripper.open, arm.gripper.closed) == (100.0, 0.0)
    assert (proposal.source, proposal.problem) == ("shape", "")
    shown = {span.name: (span.least, span.most) for span in proposal.states}
    assert shown["arm1/gripper"] == (0.0, 1.0)
    assert open_dataset(root).episodes.num_frames == sum(LENGTHS)
    assert propose_mapping(root).source == "file"
    with pytest.raises(ValueError, match=r"mapping\.yaml is there; move it away"):
        propose_mapping(root, write=True)


NAMED = {
    "euler": [*("x", "y", "z", "yaw", "pitch", "roll"), "gripper"],
    "quaternion_wxyz": [*("ee_x", "ee_y", "ee_z", "qw", "qx", "qy", "qz"), "gripper.pos"],
}


@pytest.mark.parametrize("kind", NAMED)
def test_a_proposal_reads_the_names_of_columns(kind: str, tmp_path: Path) -> None:
    root = own_set(tmp_path / "set", kind)
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["observation.state"]["names"] = {"motors": NAMED[kind]}
    (root / "meta/info.json").write_text(json.dumps(info))
    proposal = propose_mapping(root)
    order = {"euler": [5, 4, 3], "quaternion_wxyz": [4, 5, 6, 3]}[kind]
    assert proposal.source == "names"
    assert proposal.mapping.arms[0].rotation.columns == order


def test_named_joints_stay_joints(tmp_path: Path) -> None:
    root = own_set(tmp_path / "set", "euler")
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["observation.state"]["names"] = [f"joint_{i}.pos" for i in range(7)]
    (root / "meta/info.json").write_text(json.dumps(info))
    proposal = propose_mapping(root)
    assert (proposal.mapping.arms, proposal.mapping.joints) == ([], [*range(7)])


def test_our_own_layout_needs_no_mapping_and_keeps_its_gripper(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", SetSpec(lengths=LENGTHS, views=(), splits={}))
    proposal = propose_mapping(root)
    assert "no mapping is needed" in proposal.notes[0]
    assert [arm.gripper.closed for arm in proposal.mapping.arms if arm.gripper] == [1.0, 1.0]


def test_a_study_may_hold_the_mapping_itself(tmp_path: Path) -> None:
    root = own_set(tmp_path / "mine", "euler", scale=1000, views=VIEWS)
    mapping = parse_mapping(document("euler", 3))
    entry = DomainEntry(name="mine", mapping=mapping)
    data = DataConfig(
        mixture=[entry],
        anchor_domain="mine",
        root=str(tmp_path),
        split=SplitConfig(val="0.3", test="0.3"),
    )
    spec = RunSpec(data=data).validate()
    assert (
        spec.run_id != replace(spec, data=replace(data, mixture=[DomainEntry(name="mine")])).run_id
    )
    spec.save(tmp_path / "run.yaml")
    assert load_spec(tmp_path / "run.yaml").data == spec.data
    (source,) = Mixture.open(spec.data).sources.values()
    inline = source.dataset.episode(0).states
    (root / "mapping.yaml").write_text(yaml.safe_dump(document("euler", 3)))
    np.testing.assert_array_equal(inline, open_dataset(root).episode(0).states)
    with pytest.raises(ValueError, match="give one or two arms"):
        replace(
            spec, data=replace(data, mixture=[replace(entry, mapping=StateMapping())])
        ).validate()


def test_a_mapped_set_is_converted_to_our_layout(tmp_path: Path) -> None:
    root = own_set(tmp_path / "set", "quaternion_wxyz", scale=1000, views=VIEWS)
    (root / "mapping.yaml").write_text(yaml.safe_dump(document("quaternion_wxyz", 4)))
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps(info | {"robot_type": "so101"}))
    convert_dataset(root, tmp_path / "out", options=ConvertOptions(crf=10, preset="veryfast"))
    before, after = open_dataset(root), open_dataset(tmp_path / "out")
    assert after.mapping is None
    assert after.meta["robot_type"] == "so101"
    for episode in range(len(LENGTHS)):
        np.testing.assert_array_equal(after.episode(episode).states, before.episode(episode).states)


def test_pictures_that_would_be_lost_are_said_and_not_converted(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", SetSpec(lengths=LENGTHS, views=(), splits={}))
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["observation.images.front"] = {"dtype": "image", "shape": [32, 32, 3]}
    (root / "meta/info.json").write_text(json.dumps(info))
    (problem,) = open_dataset(root).problems()
    assert (problem.severity, problem.field) == ("warning", "observation.images.front")
    with pytest.raises(ValueError, match=r"dtype image \(observation.images.front\).*as videos"):
        convert_dataset(root, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
