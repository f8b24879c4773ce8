"""The expert, the recorder and the renderer in a real simulator (extra `sim`)."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.spatial.transform import Rotation

from xvla.sim.collect import EpisodeJob, episode_rng, record_episode
from xvla.sim.domains import COLOURS, find_domain
from xvla.sim.expert import grasp_rotation
from xvla.sim.record import Trajectory, read_state, render, restore, roll_out
from xvla.sim.render import ViewRenderer
from xvla.sim.scene import Scene, load_robosuite
from xvla.sim.ship import DEMO, SEED
from xvla.stand_in.frames import KEYPOINTS, FrameJob, frame_table

SIZE = 64


@pytest.fixture(scope="module")
def scene() -> Scene:
    """Return a Panda in front of one cube."""
    try:
        load_robosuite()  # also chooses the GL backend, which must happen before MuJoCo is imported
    except ImportError as error:
        pytest.skip(str(error))
    return Scene(find_domain("sim_panda_left"), "lift")


@pytest.fixture(scope="module")
def demonstration(scene: Scene) -> Trajectory:
    """Return one recorded demonstration."""
    return roll_out(scene, np.random.default_rng(11))


@pytest.fixture(scope="module")
def renderer(scene: Scene) -> ViewRenderer:
    """Return a renderer of small pictures."""
    return ViewRenderer(scene, SIZE)


def test_grasp_takes_the_equivalent_yaw_nearest_to_home() -> None:
    home = Rotation.from_euler("x", np.pi).as_matrix()
    for yaw in np.linspace(-7, 7, 29):
        rotation = grasp_rotation(home, yaw, np.pi / 2)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(rotation[:, 2], [0, 0, -1], atol=1e-12)
        turned = np.arctan2(rotation[1, 1], rotation[0, 1])
        assert np.isclose(np.sin(2 * (turned - yaw)), 0, atol=1e-9)
        angle = Rotation.from_matrix(rotation @ home.T).magnitude()
        assert angle <= np.pi / 4 + 1e-9


@pytest.mark.sim
def test_demonstration_succeeds_slowly(demonstration: Trajectory) -> None:
    assert demonstration.success
    assert 6.0 < len(demonstration.states) / 10 < 14.0
    lifted = demonstration.objects[-1, 2] - demonstration.objects[0, 2]
    assert 0.1 < lifted < 0.25
    speed = np.linalg.norm(np.diff(demonstration.states[:, :3], axis=0), axis=1) * 10
    assert speed.max() < 0.3
    grip = demonstration.states[:, 9]
    assert grip[0] == 0
    assert grip[-1] == 1
    assert np.abs(np.diff(grip)).sum() == 1


@pytest.mark.sim
def test_same_seed_same_demonstration_whatever_came_before(
    scene: Scene, demonstration: Trajectory
) -> None:
    roll_out(scene, np.random.default_rng(12))
    again = roll_out(scene, np.random.default_rng(11))
    np.testing.assert_array_equal(again.qpos, demonstration.qpos)
    assert again.instruction == demonstration.instruction


@pytest.mark.sim
def test_shipped_episode_is_what_the_code_records(scene: Scene) -> None:
    job = EpisodeJob(domain="sim_panda_left", index=0, seed=SEED, size=SIZE, path="")
    made = roll_out(scene, episode_rng(job, 0))
    table = pq.read_table(DEMO / "sim_panda_left/data/chunk-000/file-000.parquet").to_pydict()
    length = table["episode_index"].count(0)
    shipped = np.array(table["observation.state"][:length])
    np.testing.assert_allclose(made.states, shipped, atol=5e-3)
    tasks = pq.read_table(DEMO / "sim_panda_left/meta/tasks.parquet").to_pydict()
    assert tasks["task"][table["task_index"][0]] == made.instruction


@pytest.mark.sim
def test_state_is_the_grip_site_in_the_base_frame(scene: Scene, demonstration: Trajectory) -> None:
    restore(scene, demonstration, 20)
    data = scene.data
    site, base = data.site("gripper0_right_grip_site"), data.body("robot0_base")
    turn = base.xmat.reshape(3, 3)
    state = read_state(scene, 1)
    np.testing.assert_allclose(state[:3], turn.T @ (site.xpos - base.xpos), atol=1e-6)
    local = turn.T @ site.xmat.reshape(3, 3)
    wanted = [local[0, 0], local[0, 1], local[1, 0], local[1, 1], local[2, 0], local[2, 1]]
    np.testing.assert_allclose(state[3:9], wanted, atol=1e-6)
    assert state[9] == 1
    assert not state[10:].any()


@pytest.mark.sim
def test_projected_cube_is_where_its_colour_is(
    scene: Scene, demonstration: Trajectory, renderer: ViewRenderer
) -> None:
    restore(scene, demonstration, 0)
    for view in scene.domain.views:
        picture = renderer.frame(view).astype(float)
        assert picture.shape == (SIZE, SIZE, 3)
        where = renderer.project(view, scene.object_pose(0)[0][None])[0]
        assert ((where > 0) & (where < 1)).all()
        colour = np.array(COLOURS[demonstration.colours[0]])
        bright = picture / np.linalg.norm(picture, axis=-1, keepdims=True).clip(1)
        alike = bright @ (colour / np.linalg.norm(colour)) > 0.97
        rows, cols = np.nonzero(alike & (picture.max(-1) > 40))
        assert len(rows) > 3
        found = np.array([cols.mean() + 0.5, rows.mean() + 0.5]) / SIZE
        assert np.abs(found - where).max() < 0.05


@pytest.mark.sim
def test_pictures_move_with_the_arm(
    scene: Scene, demonstration: Trajectory, renderer: ViewRenderer
) -> None:
    frames = render(scene, renderer, demonstration)
    for view in scene.domain.views:
        assert frames[view].shape == (len(demonstration.states), SIZE, SIZE, 3)
        assert frames[view].dtype == np.uint8
        change = np.abs(frames[view][0].astype(int) - frames[view][-1]).mean()
        assert change > 1.0


@pytest.mark.sim
def test_recorded_file_is_complete_and_not_redone(scene: Scene, tmp_path: Path) -> None:
    job = EpisodeJob(
        domain="sim_panda_left", index=2, seed=5, size=SIZE, path=str(tmp_path / "e.npz")
    )
    record_episode(job)
    with np.load(job.path) as stored:
        meta = json.loads(str(stored["meta"]))
        assert meta["task"] == "lift"
        assert len(stored["states"]) == len(stored["observation.images.wrist"])
    before = Path(job.path).stat().st_mtime_ns
    assert record_episode(job) == job.path
    assert Path(job.path).stat().st_mtime_ns == before
    assert [p.name for p in tmp_path.iterdir()] == ["e.npz"]


@pytest.mark.sim
def test_frame_labels_agree_with_each_other(scene: Scene, tmp_path: Path) -> None:
    job = FrameJob(
        domain="sim_panda_left", index=0, seed=3, size=SIZE, path=str(tmp_path / "f.npz")
    )
    frame_table(job)
    with np.load(job.path) as stored:
        table = dict(stored)
    count = len(table["state"])
    assert count >= 30
    np.testing.assert_allclose(
        table["to_object"][:, 0, 0], table["objects"][:, 0] - table["grippers"][:, 0], atol=1e-6
    )
    np.testing.assert_allclose(
        np.linalg.norm(table["to_object_hand"][:, 0, 0], axis=1),
        np.linalg.norm(table["to_object"][:, 0, 0], axis=1),
        atol=1e-6,
    )
    np.testing.assert_allclose(table["grippers"][:, 0], table["state"][:, :3], atol=1e-6)
    free = table["closed"][:, 0] == 0
    assert len(np.unique(table["objects"][free, 0].round(4), axis=0)) > 0.7 * free.sum()
    present = [KEYPOINTS.index("object0"), KEYPOINTS.index("gripper0")]
    assert table["present"].sum(0)[present].tolist() == [count, count]
    assert table["present"].sum() == 2 * count
    assert table["seen"][:, 0, present[0]].mean() > 0.95
