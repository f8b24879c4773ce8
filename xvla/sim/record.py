"""Owns one demonstration: roll it out in physics, then render what was recorded."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from xvla.sim.expert import EXPERTS, draw_style, perform, random_start
from xvla.sim.render import ViewRenderer
from xvla.sim.scene import CONTROL_HZ, Scene

RECORD_HZ = 10
OBJECT_NAMES = [
    f"object{index}_{part}"
    for index in (0, 1)
    for part in ("x", "y", "z", "yaw_sin", "yaw_cos", "half_size")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """A demonstration without pictures; n recorded instants at RECORD_HZ.

    `states` float32 [n, 20] and `objects` float32 [n, 12] are laid out as STATE_NAMES and
    OBJECT_NAMES; `qpos` float64 [n, nq] rebuilds the scene for rendering.
    """

    task: str
    instruction: str
    colours: list[str]
    sizes: list[float]
    states: np.ndarray
    objects: np.ndarray
    qpos: np.ndarray
    success: bool


def read_state(scene: Scene, grip: int) -> np.ndarray:
    """Return [20]: per arm xyz (m, own base frame), rotation 6D interleaved, gripper 1 closed.

    Rotation 6D is the first two columns of R, row by row (facts of the released code). The
    second arm of a one-armed robot is zeros.
    """
    state = np.zeros(20, dtype=np.float32)
    for index, arm in enumerate(scene.arms):
        origin, base = arm.base()
        position, rotation = arm.pose()
        here = slice(10 * index, 10 * index + 10)
        local = base.T @ rotation
        state[here] = [*(base.T @ (position - origin)), *local[:, :2].reshape(-1), grip]
    return state


def read_objects(scene: Scene) -> np.ndarray:
    """Return [12]: per object xyz (m, robot 0's base frame), yaw sin, yaw cos, half size (m)."""
    origin, base = scene.arms[0].base()
    turned = np.arctan2(base[1, 0], base[0, 0])
    row = np.zeros(len(OBJECT_NAMES), dtype=np.float32)
    for index, size in enumerate(scene.sizes):
        position, yaw = scene.object_pose(index)
        local = base.T @ (position - origin)
        row[6 * index : 6 * index + 6] = [*local, np.sin(yaw - turned), np.cos(yaw - turned), size]
    return row


def roll_out(scene: Scene, rng: np.random.Generator) -> Trajectory:
    """Perform one demonstration; everything random comes from `rng`."""
    colours = scene.reset(rng)
    turn = Rotation.from_euler("z", scene.domain.start_turn).as_matrix()
    home = [(place, turn @ facing) for place, facing in (arm.pose() for arm in scene.arms)]
    style = draw_style(rng, speed=scene.domain.speed, home=home)
    template = scene.task.templates[int(rng.integers(len(scene.task.templates)))]
    perform(scene, iter([random_start(scene, style)]), style=style, before_step=lambda _grip: None)
    states: list[np.ndarray] = []
    objects: list[np.ndarray] = []
    qpos: list[np.ndarray] = []
    step = 0

    def record(grip: int) -> None:
        nonlocal step
        if step % (CONTROL_HZ // RECORD_HZ) == 0:
            states.append(read_state(scene, grip))
            objects.append(read_objects(scene))
            qpos.append(scene.data.qpos.copy())
        step += 1

    perform(scene, EXPERTS[scene.task.name](scene, style), style=style, before_step=record)
    return Trajectory(
        task=scene.task.name,
        instruction=scene.instruction(template, colours),
        colours=colours,
        sizes=list(scene.sizes),
        states=np.stack(states),
        objects=np.stack(objects),
        qpos=np.stack(qpos),
        success=scene.succeeded(),
    )


def restore(scene: Scene, trajectory: Trajectory, instant: int) -> None:
    """Put the scene back to a recorded instant: joint positions and looks."""
    looks = zip(scene.task.objects, trajectory.colours, trajectory.sizes, strict=True)
    for item, colour, size in looks:
        scene.apply_look(item, colour=colour, half_size=size)
    scene.sizes = list(trajectory.sizes)
    scene.data.qpos[:] = trajectory.qpos[instant]
    scene.env.sim.forward()


def render(scene: Scene, renderer: ViewRenderer, trajectory: Trajectory) -> dict[str, np.ndarray]:
    """Return view key -> uint8 [n, size, size, 3] of a recorded demonstration."""
    frames: dict[str, list[np.ndarray]] = {view: [] for view in scene.domain.views}
    for instant in range(len(trajectory.qpos)):
        restore(scene, trajectory, instant)
        for view, pictures in frames.items():
            pictures.append(renderer.frame(view))
    return {view: np.stack(pictures) for view, pictures in frames.items()}
