"""Owns the scripted expert: each task is a generator of phases, performed slowly and with noise."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation

from xvla.sim.scene import CONTROL_HZ, Arm, Scene

SETTLE_STEPS = 8
SETTLED_M = 0.006
FOLLOW_M, FOLLOW_RAD = 4.0, 2.0  # share of the error asked of the controller each step
NOISE_M, NOISE_TAU_S = 0.006, 0.6
MISS_SHARE = 1 / 3  # of pick-and-place demonstrations show a correction

Pose = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Move every arm to its target (world position and rotation), then go on when settled.

    `grip` is commanded throughout (1 closed); a phase lasts at least `seconds`; `noise` scales
    the wandering around the straight line.
    """

    targets: list[Pose]
    grip: int
    speed_m_s: float = 0.1
    turn_rad_s: float = 0.5
    seconds: float = 0.0
    noise: float = 0.0
    settle: bool = True


@dataclass(slots=True)
class Style:
    """What differs between two demonstrations of one task besides the objects' places."""

    rng: np.random.Generator
    speed: float = 1.0
    clearance_m: float = 0.1
    lift_m: float = 0.17
    home: list[Pose] = field(default_factory=list)


def draw_style(rng: np.random.Generator, *, speed: float, home: list[Pose]) -> Style:
    """Return a random style: speed within 10 %, heights within a few cm."""
    return Style(
        rng=rng,
        speed=speed * rng.uniform(0.9, 1.1),
        clearance_m=rng.uniform(0.08, 0.12),
        lift_m=rng.uniform(0.15, 0.20),
        home=home,
    )


def _up(position: np.ndarray, height: float) -> np.ndarray:
    return position + np.array([0.0, 0.0, height])


def grasp_rotation(home: np.ndarray, yaw: float, symmetry: float) -> np.ndarray:
    """Return the rotation that points down with the site's y axis at `yaw`.

    Of the equivalent yaws (every `symmetry` rad) it takes the one nearest to the home rotation,
    so that the wrist never winds up. The fingers close along the site's x axis.
    """
    at_home = np.arctan2(home[1, 1], home[0, 1])
    angle = yaw + np.round((at_home - yaw) / symmetry) * symmetry
    y = np.array([np.cos(angle), np.sin(angle), 0.0])
    z = np.array([0.0, 0.0, -1.0])
    return np.stack([np.cross(y, z), y, z], axis=1)


def lift(scene: Scene, style: Style) -> Iterator[Phase]:
    """Reach above the cube, descend, close, raise, hold."""
    place, yaw = scene.object_pose(0)
    down = grasp_rotation(style.home[0][1], yaw, np.pi / 2)
    above = (_up(place, style.clearance_m), down)
    raised = (_up(place, style.lift_m), down)
    yield Phase(targets=[above], grip=0, speed_m_s=0.075, noise=1.0)
    yield Phase(targets=[(place, down)], grip=0, speed_m_s=0.045)
    yield Phase(targets=[(place, down)], grip=1, seconds=0.8, settle=False)
    yield Phase(targets=[raised], grip=1, speed_m_s=0.065, noise=0.5)
    yield Phase(targets=[raised], grip=1, seconds=0.6, settle=False)


def stack(scene: Scene, style: Style) -> Iterator[Phase]:
    """Pick the small cube, carry it over the large one, set it down, let go, withdraw."""
    arm = scene.arms[0]
    place, yaw = scene.object_pose(0)
    down = grasp_rotation(style.home[0][1], yaw, np.pi / 2)
    yield Phase(targets=[(_up(place, style.clearance_m), down)], grip=0, speed_m_s=0.12, noise=1.0)
    yield Phase(targets=[(place, down)], grip=0, speed_m_s=0.07)
    yield Phase(targets=[(place, down)], grip=1, seconds=0.7, settle=False)
    yield Phase(targets=[(_up(place, 0.13), down)], grip=1, speed_m_s=0.10)

    def hand_for(height: float) -> Pose:
        """Return the hand's pose that brings the held cube `height` above the large one."""
        held = scene.object_pose(0)[0] - arm.pose()[0]
        return _up(scene.object_pose(1)[0], height) - held, down

    on_top = sum(scene.sizes)
    yield Phase(targets=[hand_for(on_top + 0.07)], grip=1, speed_m_s=0.10, noise=0.5)
    yield Phase(targets=[hand_for(on_top + 0.004)], grip=1, speed_m_s=0.05)
    rest = arm.pose()[0]
    yield Phase(targets=[(rest, down)], grip=0, seconds=0.7, settle=False)
    yield Phase(targets=[(_up(rest, 0.12), down)], grip=0, speed_m_s=0.11)


def pick_place(scene: Scene, style: Style) -> Iterator[Phase]:
    """Fetch the can from the tray, carry it over the walls, set it down in its compartment.

    In a third of the demonstrations the hand first comes in beside the can and has to correct.
    """
    arm = scene.arms[0]
    style.speed *= style.rng.uniform(0.8, 1.15)
    place, yaw = scene.object_pose(0)
    down = grasp_rotation(style.home[0][1], yaw, np.pi / 2)
    above = _up(place, style.clearance_m + 0.04)
    if style.rng.random() < MISS_SHARE:
        angle, away = style.rng.uniform(-np.pi, np.pi), style.rng.uniform(0.025, 0.05)
        beside = above + away * np.array([np.cos(angle), np.sin(angle), 0.0])
        yield Phase(targets=[(beside, down)], grip=0, speed_m_s=0.16, noise=1.0)
        above = _up(place, style.clearance_m)
    yield Phase(targets=[(above, down)], grip=0, speed_m_s=0.16, noise=1.0)
    yield Phase(targets=[(place, down)], grip=0, speed_m_s=0.08)
    yield Phase(targets=[(place, down)], grip=1, seconds=0.7, settle=False)
    carry = place[2] + style.lift_m
    yield Phase(targets=[(_up(place, style.lift_m), down)], grip=1, speed_m_s=0.12)
    held = scene.object_pose(0)[0] - arm.pose()[0]
    goal = scene.compartment() - held
    over = np.array([goal[0], goal[1], carry])
    yield Phase(targets=[(over, down)], grip=1, speed_m_s=0.17, noise=0.5)
    bottom = scene.sizes[0] * scene.task.objects[0].shape[2] + 0.012
    yield Phase(targets=[(_up(goal, bottom), down)], grip=1, speed_m_s=0.09)
    rest = arm.pose()[0]
    yield Phase(targets=[(rest, down)], grip=0, seconds=0.7, settle=False)
    yield Phase(targets=[(_up(rest, 0.14), down)], grip=0, speed_m_s=0.13)


def two_arm_lift(scene: Scene, style: Style) -> Iterator[Phase]:
    """Bring each hand above its handle, descend, close both, raise together, hold."""
    ends = scene.handles()
    along = ends[0] - ends[1]
    across = float(np.arctan2(along[1], along[0])) + np.pi / 2
    downs = [grasp_rotation(home[1], across, np.pi) for home in style.home]

    def both(height: float) -> list[Pose]:
        return [(_up(end, height), down) for end, down in zip(ends, downs, strict=True)]

    yield Phase(targets=both(style.clearance_m), grip=0, speed_m_s=0.08, noise=1.0)
    yield Phase(targets=both(0.0), grip=0, speed_m_s=0.045)
    yield Phase(targets=both(0.0), grip=1, seconds=1.0, settle=False)
    yield Phase(targets=both(style.lift_m), grip=1, speed_m_s=0.06)
    yield Phase(targets=both(style.lift_m), grip=1, seconds=0.6, settle=False)


EXPERTS: dict[str, Callable[[Scene, Style], Iterator[Phase]]] = {
    "lift": lift,
    "stack": stack,
    "pick_place": pick_place,
    "two_arm_lift": two_arm_lift,
}


def random_start(scene: Scene, style: Style) -> Phase:
    """Return a quick move to a random pose near home, performed before recording begins."""
    targets = []
    for arm, (home, rotation) in zip(scene.arms, style.home, strict=True):
        low, high = zip(*scene.domain.start, strict=True)
        offset = arm.base()[1] @ style.rng.uniform(low, high)
        turn = style.rng.uniform([-0.15, -0.15, -0.5], [0.15, 0.15, 0.5])
        targets.append((home + offset, Rotation.from_rotvec(turn).as_matrix() @ rotation))
    return Phase(targets=targets, grip=0, speed_m_s=0.25, turn_rad_s=1.2)


class _Wander:
    """Ornstein-Uhlenbeck offset in m, one row per arm: smooth noise that the path corrects."""

    def __init__(self, rng: np.random.Generator, arms: int) -> None:
        self._rng, self._value = rng, np.zeros((arms, 3))
        self._keep = np.exp(-1.0 / (CONTROL_HZ * NOISE_TAU_S))

    def next(self) -> np.ndarray:
        """Advance one control step and return the offset [arms, 3]."""
        fresh = self._rng.normal(0.0, NOISE_M * np.sqrt(1 - self._keep**2), self._value.shape)
        self._value = self._keep * self._value + fresh
        return self._value


def _steps(starts: list[Pose], phase: Phase, speed: float) -> int:
    """Return the number of control steps the slowest arm needs for this phase."""
    seconds = phase.seconds
    for (here, facing), (there, wanted) in zip(starts, phase.targets, strict=True):
        angle = float(Rotation.from_matrix(wanted @ facing.T).magnitude())
        path = float(np.linalg.norm(there - here))
        seconds = max(seconds, path / (phase.speed_m_s * speed), angle / (phase.turn_rad_s * speed))
    return max(2, int(np.ceil(seconds * CONTROL_HZ)))


def _follow(arm: Arm, *, position: np.ndarray, rotation: np.ndarray, grip: int) -> np.ndarray:
    here, facing = arm.pose()
    return arm.command(
        delta_m=FOLLOW_M * (position - here),
        delta_rad=FOLLOW_RAD * Rotation.from_matrix(rotation @ facing.T).as_rotvec(),
        grip=grip,
    )


def _settled(arms: list[Arm], phase: Phase) -> bool:
    gaps = (np.linalg.norm(arm.pose()[0] - to) for arm, (to, _) in zip(arms, phase.targets))  # noqa: B905
    return bool(max(gaps) < SETTLED_M)


def perform(
    scene: Scene, phases: Iterator[Phase], *, style: Style, before_step: Callable[[int], None]
) -> None:
    """Carry out phases along minimum-jerk lines; `before_step(grip)` is called before each step.

    The wandering vanishes at both ends of a phase, so it never spoils a grasp.
    """
    wander = _Wander(style.rng, len(scene.arms))
    for phase in phases:
        starts = [arm.pose() for arm in scene.arms]
        turns = [
            Rotation.from_matrix(wanted @ facing.T).as_rotvec()
            for (_, facing), (_, wanted) in zip(starts, phase.targets, strict=True)
        ]
        steps = _steps(starts, phase, style.speed)
        for k in range(steps + (SETTLE_STEPS if phase.settle else 0)):
            if k >= steps and _settled(scene.arms, phase):
                break
            t = min(1.0, (k + 1) / steps)
            share = t**3 * (10 - 15 * t + 6 * t**2)
            offsets = wander.next() * (phase.noise * 4 * t * (1 - t))
            before_step(phase.grip)
            actions = [
                _follow(
                    arm,
                    position=here + share * (there - here) + offset,
                    rotation=Rotation.from_rotvec(share * turn).as_matrix() @ facing,
                    grip=phase.grip,
                )
                for arm, (here, facing), (there, _), turn, offset in zip(
                    scene.arms, starts, phase.targets, turns, offsets, strict=True
                )
            ]
            scene.step(np.concatenate(actions))
