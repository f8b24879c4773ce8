"""Owns one robosuite environment as the rest of the package sees it: arms, objects, resets."""

import logging
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from xvla.sim.domains import COLOURS, Domain, SimObject, Task, find_task

CONTROL_HZ = 20
PHYSICS_STEP_S = 0.005  # stable for every domain here, and 2.5 times cheaper than robosuite's 0.002
ARM = "right"  # robosuite's name for the only arm of a single-arm robot


def load_robosuite() -> Any:
    """Import robosuite quietly with our physics step; a missing extra raises ImportError."""
    os.environ.setdefault("MUJOCO_GL", "egl")
    os.environ.setdefault("LP_NUM_THREADS", "1")  # llvmpipe: one process a core is faster
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        import robosuite
        import robosuite.macros
    except ImportError as error:
        raise ImportError(
            f"simulated data needs robosuite and mujoco ({error}); pip install '.[sim]'"
        ) from error
    finally:
        logging.disable(previous)
    robosuite.macros.SIMULATION_TIMESTEP = PHYSICS_STEP_S
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    return robosuite


@dataclass(slots=True, kw_only=True)
class Arm:
    """Reads one arm's gripper site and turns a wanted pose into controller input."""

    env: Any
    robot_index: int

    @property
    def _robot(self) -> Any:
        return self.env.robots[self.robot_index]

    def base(self) -> tuple[np.ndarray, np.ndarray]:
        """Return this arm's base frame in the world: position [3] m, rotation [3, 3]."""
        data = self.env.sim.data
        name = f"robot{self.robot_index}_base"
        return data.get_body_xpos(name).copy(), data.get_body_xmat(name).reshape(3, 3).copy()

    def pose(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the grip site in the world: position [3] m, rotation [3, 3]."""
        data = self.env.sim.data
        site = self._robot.eef_site_id[ARM]
        return data.site_xpos[site].copy(), data.site_xmat[site].reshape(3, 3).copy()

    def command(self, *, delta_m: np.ndarray, delta_rad: np.ndarray, grip: int) -> np.ndarray:
        """Return robosuite's action for a world-frame pose change; grip 1 closes, 0 opens."""
        controller = self._robot.composite_controller.part_controllers[ARM]
        to_base = controller.origin_ori.T
        scale = controller.output_max
        move = np.concatenate([to_base @ delta_m / scale[:3], to_base @ delta_rad / scale[3:]])
        fingers = np.full(self._robot.gripper[ARM].dof, 2.0 * grip - 1.0)
        return self._robot.create_action_vector(
            {ARM: np.clip(move, -1.0, 1.0), f"{ARM}_gripper": fingers}
        )


class Scene:
    """One task of one domain in MuJoCo; costly to build (about 1 s), cheap to reset."""

    def __init__(self, domain: Domain, task: str) -> None:
        """Build the environment with observations off: poses are read from MuJoCo directly."""
        robosuite = load_robosuite()
        from robosuite.controllers import load_composite_controller_config

        import xvla.sim.bins  # noqa: F401  makes PlaceInBin known to robosuite

        self.domain = domain
        self.task: Task = find_task(task)
        self.env = robosuite.make(
            self.task.env,
            robots=list(domain.robots),
            controller_configs=load_composite_controller_config(robot=domain.robots[0]),
            has_renderer=False,
            has_offscreen_renderer=False,
            use_camera_obs=False,
            use_object_obs=False,
            control_freq=CONTROL_HZ,
            ignore_done=True,
            hard_reset=False,
            initialization_noise=None,  # starts are randomised by moving the arm, see expert.py
            seed=0,
        )
        self.env.reset()
        for name in list(self.env._observables):
            self.env.modify_observable(name, "enabled", False)
            self.env.modify_observable(name, "active", False)
        self.arms = [Arm(env=self.env, robot_index=i) for i in range(len(domain.robots))]
        self._compiled = self._read_compiled()
        self.sizes: list[float] = []

    @property
    def model(self) -> Any:
        """Return MuJoCo's own model."""
        return self.env.sim.model._model

    @property
    def data(self) -> Any:
        """Return MuJoCo's own data."""
        return self.env.sim.data._data

    def _read_compiled(self) -> dict[str, tuple[float, float, np.ndarray]]:
        """Return each sized object's half size, mass and inertia as robosuite built it."""
        model = self.model
        return {
            o.body: (
                float(model.geom(o.coloured_geoms[0]).size[0]),
                float(model.body(o.body).mass[0]),
                model.body(o.body).inertia.copy(),
            )
            for o in self.task.objects
            if o.half_size is not None
        }

    def reset(self, rng: np.random.Generator) -> list[str]:
        """Reset everything from `rng` alone and return the objects' colours."""
        self.env.rng = np.random.default_rng(0)  # robosuite's own placement is overwritten below
        self.env.reset()
        colours = [self._dress(o, rng) for o in self.task.objects]
        self.place(self.sample_placements(rng))
        if self.task.goals:
            self.env.goal = int(rng.integers(len(self.task.goals)))
        return colours

    def instruction(self, template: str, colours: list[str]) -> str:
        """Return a template with the objects' colours and the goal's name filled in."""
        goal = [self.task.goals[self.env.goal]] if self.task.goals else []
        return template.format(*colours, *goal)

    def _dress(self, item: SimObject, rng: np.random.Generator) -> str:
        """Give an object a colour and a size; return the colour's name."""
        colour = item.colours[int(rng.integers(len(item.colours)))]
        if item is self.task.objects[0]:
            self.sizes = []
        half = float(rng.uniform(*item.half_size)) if item.half_size else 0.07
        self.sizes.append(half)
        self.apply_look(item, colour=colour, half_size=half)
        return colour

    def apply_look(self, item: SimObject, *, colour: str, half_size: float) -> None:
        """Set an object's colour, and where it has one its half size in m, mass and inertia."""
        model = self.model
        for name in item.coloured_geoms:
            geom = model.geom(name)
            geom.matid[0] = -1  # the wood material would hide the colour
            geom.rgba[:3] = COLOURS[colour]
        if item.half_size is None:
            return
        built, mass, inertia = self._compiled[item.body]
        ratio = half_size / built
        body = model.body(item.body)
        body.mass[0], body.inertia[:] = mass * ratio**3, inertia * ratio**5
        extent = half_size * np.array(item.shape)
        for geom_id in range(body.geomadr[0], body.geomadr[0] + body.geomnum[0]):
            model.geom_size[geom_id] = half_size * np.array(item.geom_size)
            model.geom_rbound[geom_id] = half_size * np.linalg.norm(item.shape)
            model.geom_aabb[geom_id, 3:] = extent
        first, count = model.body_bvhadr[body.id], model.body_bvhnum[body.id]
        model.bvh_aabb[first : first + count, 3:] = extent

    def sample_placements(self, rng: np.random.Generator) -> np.ndarray:
        """Return [objects, 3] table x, y in m and yaw in rad, at least `min_gap` apart."""
        task = self.task
        low, high = zip(task.place_x, task.place_y, task.place_yaw, strict=True)
        while True:
            spots = rng.uniform(low, high, size=(len(task.objects), 3))
            gaps = [
                np.linalg.norm(a[:2] - b[:2]) for i, a in enumerate(spots) for b in spots[i + 1 :]
            ]
            if min(gaps, default=np.inf) >= task.min_gap:
                return spots

    def place(self, placements: np.ndarray) -> None:
        """Put every object on the table; placements [objects, 3]: x, y in m and yaw in rad."""
        for item, size, (x, y, yaw) in zip(self.task.objects, self.sizes, placements, strict=True):
            rest = self.table_height + size * item.shape[2] + 0.001
            height = rest if item.half_size else self._pot_height
            # robosuite's pot stands with its green handle towards robot 0 at a yaw of pi
            half_yaw = (yaw if item.half_size else yaw + np.pi) / 2.0
            pose = [x, y, height, np.cos(half_yaw), 0.0, 0.0, np.sin(half_yaw)]
            self.env.sim.data.set_joint_qpos(item.joint, np.array(pose))
            self.env.sim.data.set_joint_qvel(item.joint, np.zeros(6))
        self.env.sim.forward()

    @property
    def table_height(self) -> float:
        """Return the height of the table's top in the world, in m."""
        return float(self.env.table_offset[2])

    @property
    def _pot_height(self) -> float:
        return self.table_height - float(self.env.pot.bottom_offset[2]) + 0.001

    def object_pose(self, index: int) -> tuple[np.ndarray, float]:
        """Return an object's world position [3] in m and its yaw in rad."""
        body = self.task.objects[index].body
        rotation = self.env.sim.data.get_body_xmat(body).reshape(3, 3)
        yaw = float(np.arctan2(rotation[1, 0], rotation[0, 0]))
        return self.env.sim.data.get_body_xpos(body).copy(), yaw

    def handles(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the pot's two handles in the world, [3] m each; only for two_arm_lift."""
        return self.env._handle0_xpos.copy(), self.env._handle1_xpos.copy()

    def compartment(self) -> np.ndarray:
        """Return the wanted compartment's floor in the world, [3] m; only for pick_place."""
        return self.env.compartment()

    def step(self, action: np.ndarray) -> None:
        """Advance one control period (1 / CONTROL_HZ)."""
        self.env.step(action)

    def succeeded(self) -> bool:
        """Return robosuite's own success check."""
        return bool(self.env._check_success())

    def close(self) -> None:
        """Free the environment."""
        self.env.close()
