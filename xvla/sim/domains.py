"""Owns the table of simulated domains: which robots, which tasks, which cameras, which words."""

from dataclasses import dataclass

import numpy as np

Range = tuple[float, float]

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.80, 0.12, 0.10),
    "yellow": (0.90, 0.75, 0.10),
    "green": (0.12, 0.60, 0.20),
    "blue": (0.10, 0.30, 0.80),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """A fixed camera looking at a point; angles in degrees (MuJoCo's convention), lengths in m."""

    azimuth: float
    elevation: float = -35.0
    distance: float = 0.85
    lookat: tuple[float, float, float] = (-0.10, 0.0, 0.92)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimObject:
    """A movable object: its MuJoCo names, its colours, and the range of its half size in m.

    `shape` is the half extent along x, y, z in half sizes; `geom_size` what MuJoCo calls size.
    """

    body: str
    joint: str
    colours: tuple[str, ...]
    coloured_geoms: tuple[str, ...]
    half_size: Range | None = None
    shape: tuple[float, float, float] = (1.0, 1.0, 1.0)
    geom_size: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task: robosuite environment, objects, ranges of placement (m, rad) and instructions.

    `{0}` and `{1}` in a template are the colours of the objects, then one of `goals` by name.
    `framing` is the main camera's distance and look-at point where the scene is wider.
    """

    name: str
    env: str
    objects: tuple[SimObject, ...]
    place_x: Range
    place_y: Range
    place_yaw: Range
    templates: tuple[str, ...]
    min_gap: float = 0.0
    goals: tuple[str, ...] = ()
    framing: tuple[float, tuple[float, float, float]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """One embodiment seen by one set of cameras; episode i does `tasks[i % len(tasks)]`.

    `more_tasks` are those the expert also masters here, recorded on request only.

    `start` is the box (m, in the arm's base frame, around its home pose) from which episodes
    begin; `start_turn` (rad about the vertical) turns the hands first, so that of two equal
    grasps one is always the nearer; `speed` scales the expert's.
    """

    name: str
    robots: tuple[str, ...]
    tasks: tuple[str, ...]
    camera: Camera
    start: tuple[Range, Range, Range] = ((-0.06, 0.10), (-0.12, 0.12), (-0.06, 0.06))
    start_turn: float = 0.0
    speed: float = 1.0
    more_tasks: tuple[str, ...] = ()

    @property
    def views(self) -> tuple[str, ...]:
        """Return the view keys, main camera first."""
        wrists = ("wrist",) if len(self.robots) == 1 else ("wrist_left", "wrist_right")
        return tuple(f"observation.images.{view}" for view in ("main", *wrists))

    @property
    def robot_type(self) -> str:
        """Return the robot's name as the data set states it, marked as simulated."""
        return "simulated_" + "_".join(robot.lower() for robot in self.robots)


def _cube(name: str, colours: tuple[str, ...], half_size: Range) -> SimObject:
    return SimObject(
        body=f"{name}_main",
        joint=f"{name}_joint0",
        colours=colours,
        coloured_geoms=(f"{name}_g0_vis",),
        half_size=half_size,
    )


_POT = SimObject(
    body="pot_root",
    joint="pot_joint0",
    colours=("red", "yellow"),  # the handles are green and blue: the pot must differ from both
    coloured_geoms=("pot_base_vis", *(f"pot_body{side}_vis" for side in range(4))),
)

TASKS: dict[str, Task] = {
    "lift": Task(
        name="lift",
        env="Lift",
        objects=(_cube("cube", tuple(COLOURS), (0.018, 0.024)),),
        place_x=(-0.12, 0.12),
        place_y=(-0.15, 0.15),
        place_yaw=(-0.6, 0.6),
        templates=(
            "lift the {0} cube",
            "pick up the {0} cube",
            "grasp the {0} block and raise it",
            "take the {0} cube off the table",
            "raise the {0} block",
        ),
    ),
    "stack": Task(
        name="stack",
        env="Stack",
        objects=(
            _cube("cubeA", ("red", "yellow"), (0.018, 0.022)),
            _cube("cubeB", ("green", "blue"), (0.024, 0.028)),
        ),
        place_x=(-0.11, 0.11),
        place_y=(-0.14, 0.14),
        place_yaw=(-0.6, 0.6),
        min_gap=0.09,
        templates=(
            "stack the {0} cube on the {1} cube",
            "put the {0} cube on top of the {1} cube",
            "place the {0} block onto the {1} block",
            "pick up the {0} cube and set it on the {1} one",
        ),
    ),
    "two_arm_lift": Task(
        name="two_arm_lift",
        env="TwoArmLift",
        objects=(_POT,),
        place_x=(-0.08, 0.08),
        place_y=(-0.06, 0.06),
        place_yaw=(-0.6, 0.6),
        templates=(
            "lift the {0} pot with both arms",
            "raise the {0} pot by its two handles",
            "pick up the {0} pot using both hands",
            "grasp both handles and lift the {0} pot",
        ),
    ),
}

# Tasks beyond the shipped set's; apart, as the shipped tokenizer is made of the words above.
MORE_TASKS: dict[str, Task] = {
    "pick_place": Task(
        name="pick_place",
        env="PlaceInBin",
        objects=(
            SimObject(
                body="can_main",
                joint="can_joint0",
                colours=tuple(COLOURS),
                coloured_geoms=("can_g0_vis",),
                half_size=(0.019, 0.025),
                shape=(1.0, 1.0, 1.8),
                geom_size=(1.0, 1.8, 0.0),
            ),
        ),
        place_x=(-0.15, 0.03),
        place_y=(-0.38, -0.14),
        place_yaw=(-0.6, 0.6),
        templates=(
            "put the {0} can into the {1} compartment",
            "move the {0} can from the tray to the {1} corner of the box",
            "pick up the {0} can and place it in the {1} compartment",
            "take the {0} can off the tray and drop it {1}",
        ),
        goals=("near right", "far right", "near left", "far left"),
        framing=(1.35, (-0.10, 0.01, 0.97)),
    ),
}

_MIXED = ("lift", "stack", "lift", "stack", "lift")
_DUAL_CAMERA = Camera(azimuth=180.0, elevation=-35.0, distance=0.95, lookat=(-0.04, 0.0, 0.95))
_DUAL_START = ((-0.14, -0.02), (-0.10, 0.10), (0.0, 0.10))  # away from the pot and each other
_FRONT = Camera(azimuth=180.0)

DOMAINS: dict[str, Domain] = {
    domain.name: domain
    for domain in (
        Domain(
            name="sim_kinova3_dual",
            robots=("Kinova3", "Kinova3"),
            tasks=("two_arm_lift",),
            camera=_DUAL_CAMERA,
            start=_DUAL_START,
            start_turn=-np.pi / 2,
        ),
        Domain(
            name="sim_panda_left",
            robots=("Panda",),
            tasks=_MIXED,
            camera=Camera(azimuth=215.0),
            more_tasks=("pick_place",),
        ),
        Domain(
            name="sim_panda_right",
            robots=("Panda",),
            tasks=_MIXED,
            camera=Camera(azimuth=145.0),
            more_tasks=("pick_place",),
        ),
        Domain(
            name="sim_panda",
            robots=("Panda",),
            tasks=_MIXED,
            camera=_FRONT,
            more_tasks=("pick_place",),
        ),
        Domain(
            name="sim_panda_dual",
            robots=("Panda", "Panda"),
            tasks=("two_arm_lift",),
            camera=_DUAL_CAMERA,
            start=_DUAL_START,
            start_turn=-np.pi / 2,
        ),
        Domain(
            name="sim_ur5e",
            robots=("UR5e",),
            tasks=_MIXED,
            camera=_FRONT,
            more_tasks=("pick_place",),
        ),
        Domain(
            name="sim_ur5e_dual",
            robots=("UR5e", "UR5e"),
            tasks=("two_arm_lift",),
            camera=_DUAL_CAMERA,
            start=((-0.06, 0.06), (-0.10, 0.10), (0.0, 0.10)),
            start_turn=-np.pi / 2,
        ),
        Domain(
            name="sim_xarm7",
            robots=("XArm7",),
            tasks=_MIXED,
            camera=_FRONT,
            start=((0.0, 0.14), (-0.12, 0.12), (-0.16, -0.04)),  # its home is high and far back
            more_tasks=("pick_place",),
        ),
        Domain(
            name="sim_iiwa",
            robots=("IIWA",),
            tasks=_MIXED,
            camera=_FRONT,
            speed=0.9,
            more_tasks=("pick_place",),
        ),
    )
}


def find_task(name: str) -> Task:
    """Return the task of this name; an unknown name raises ValueError with the list."""
    tasks = TASKS | MORE_TASKS
    if name not in tasks:
        raise ValueError(f"unknown simulated task {name!r}; allowed: {', '.join(tasks)}")
    return tasks[name]


def find_domain(name: str) -> Domain:
    """Return the domain of this name; an unknown name raises ValueError with the list."""
    if name not in DOMAINS:
        raise ValueError(
            f"unknown simulated domain {name!r}; allowed: {', '.join(DOMAINS)}; "
            "give one of these names"
        )
    return DOMAINS[name]
