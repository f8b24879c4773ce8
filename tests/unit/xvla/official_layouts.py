"""X-VLA's own layouts, written out by hand one function a source, over a closed-form motion.

Nothing here is read from the package's table, so that a mistake in it shows.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Motion:
    """Closed-form motion of one arm at times [n] in s: a helix, turning about three axes."""

    times: np.ndarray
    arm: int = 0
    close_s: float = 1.0

    def xyz(self) -> np.ndarray:
        """Position [n, 3] in m."""
        angle = 0.8 * self.times + self.arm
        height = 0.03 * self.times - 0.1 * self.arm
        return np.stack([0.3 * np.cos(angle), 0.3 * np.sin(angle), height], axis=1)

    def euler(self) -> np.ndarray:
        """Angles [n, 3] in rad about the fixed axes x, y, z (applied in this order)."""
        t = self.times
        return np.stack([0.4 + 0.2 * t, 0.3 * np.sin(t) - 0.1, -0.5 + 0.6 * t + self.arm], axis=1)

    def matrix(self) -> np.ndarray:
        """Rotation [n, 3, 3] = Rz Ry Rx, multiplied out."""
        (cx, cy, cz), (sx, sy, sz) = np.cos(self.euler()).T, np.sin(self.euler()).T
        rows = [
            [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
            [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
            [-sy, cy * sx, cy * cx],
        ]
        return np.array(rows).transpose(2, 0, 1)

    def quat(self) -> np.ndarray:
        """Quaternion [n, 4], scalar last, by half angles."""
        (cx, cy, cz), (sx, sy, sz) = np.cos(self.euler() / 2).T, np.sin(self.euler() / 2).T
        return np.stack(
            [
                sx * cy * cz - cx * sy * sz,
                cx * sy * cz + sx * cy * sz,
                cx * cy * sz - sx * sy * cz,
                cx * cy * cz + sx * sy * sz,
            ],
            axis=1,
        )

    def interleaved(self) -> np.ndarray:
        """[R00, R01, R10, R11, R20, R21]."""
        m = self.matrix()
        pairs = [m[:, i, j] for i in range(3) for j in range(2)]
        return np.stack(pairs, axis=1)

    def columns(self) -> np.ndarray:
        """[R00, R10, R20, R01, R11, R21]."""
        m = self.matrix()
        return np.stack([m[:, i, j] for j in range(2) for i in range(3)], axis=1)

    def closed(self) -> np.ndarray:
        """1.0 where the gripper is closed, [n, 1]."""
        return (self.times > self.close_s).astype(float)[:, None]

    def state(self, grip: np.ndarray | None = None) -> np.ndarray:
        """Pose [n, 10] as training sees it."""
        return np.hstack([self.xyz(), self.interleaved(), self.closed() if grip is None else grip])


def bridge(a: Motion, b: Motion) -> Arrays:
    n = len(a.times)
    return {
        "proprio": np.hstack([a.xyz(), a.euler(), np.zeros((n, 1))]),
        "action": np.hstack([np.zeros((n, 6)), 1.0 - a.closed()]),
    }


def rt1(a: Motion, b: Motion) -> Arrays:
    return {"eef_quat_orientation": np.hstack([a.xyz(), a.quat()]), "gripper": a.closed()}


def calvin(a: Motion, b: Motion) -> Arrays:
    return {"proprio": np.hstack([a.xyz(), a.euler(), 1.0 - 2.0 * a.closed()])}


def libero(a: Motion, b: Motion) -> Arrays:
    return {"abs_action_6d": np.hstack([a.xyz(), a.columns(), 2.0 * a.closed() - 1.0])}


def softfold(a: Motion, b: Motion) -> Arrays:
    arms = [np.hstack([m.xyz(), m.interleaved(), 0.07 * (1.0 - m.closed())]) for m in (a, b)]
    return {
        "observations/eef_6d": np.hstack(arms),
        "observations/eef_left_time": a.times,
        "observations/eef_right_time": b.times,
    }


def robotwin(a: Motion, b: Motion) -> Arrays:
    return {
        "endpose/left_endpose": np.hstack([a.xyz(), a.quat()]),
        "endpose/right_endpose": np.hstack([b.xyz(), b.quat()]),
        "endpose/left_gripper": 1.0 - a.closed()[:, 0],
        "endpose/right_gripper": 1.0 - b.closed()[:, 0],
    }


def vlabench(a: Motion, b: Motion) -> Arrays:
    return {"proprio": np.hstack([a.xyz(), a.euler(), a.closed()])}


def air_agilex(a: Motion, b: Motion) -> Arrays:
    arms = [np.hstack([m.xyz(), m.quat(), 0.07 * (1.0 - m.closed())]) for m in (a, b)]
    return {"observations/eef_quaternion": np.hstack(arms)}


def robomind(a: Motion, b: Motion) -> Arrays:
    joints = np.hstack([np.full((len(a.times), 7), 0.3), a.closed()])
    return {
        "puppet/end_effector": np.hstack([a.xyz(), a.euler()]),
        "puppet/joint_position": joints,
    }


def robomind_agilex(a: Motion, b: Motion) -> Arrays:
    return {
        f"puppet/end_effector_{side}": np.hstack([m.xyz(), m.euler(), 5.0 * m.closed()])
        for side, m in (("left", a), ("right", b))
    }


def robomind_dual(a: Motion, b: Motion) -> Arrays:
    arm = np.full((len(a.times), 7), 0.3)
    return {
        "puppet/end_effector": np.hstack([a.xyz(), a.euler(), b.xyz(), b.euler()]),
        "puppet/joint_position": np.hstack([arm, a.closed(), arm, b.closed()]),
    }


def droid_grip(a: Motion) -> np.ndarray:
    """Continuous opening [n, 1], which the source keeps."""
    return 0.5 + 0.4 * np.sin(a.times)[:, None]


def droid(a: Motion, b: Motion) -> Arrays:
    return {
        "observation/cartesian_position": np.hstack([a.xyz(), a.euler()]),
        "observation/gripper_position": droid_grip(a)[:, 0],
    }


def widowx(a: Motion, b: Motion) -> Arrays:
    return {"abs_action_6d": np.hstack([a.xyz(), a.interleaved(), 1.0 - a.closed()])}


def airbot(a: Motion, b: Motion) -> Arrays:
    return {"eef_6d": np.hstack([a.xyz(), a.interleaved(), 1.0 - a.closed()])}


def robocasa(a: Motion, b: Motion) -> Arrays:
    return {
        "action_dict/abs_pos": a.xyz(),
        "action_dict/abs_rot_6d": a.interleaved(),
        "action_dict/gripper": 2.0 * a.closed() - 1.0,
    }


@dataclass(frozen=True)
class Layout:
    """A source as the facts state it: id, rate, window, tail, its arrays, one arm or two."""

    arrays: Callable[[Motion, Motion], Arrays]
    domain_id: int
    rate_hz: float
    window_s: float
    tail: int
    two_arms: bool = False
    stride: int = 1
    meta: dict = field(default_factory=dict)


SIX = {"rotation": "rot6d_interleaved"}
LAYOUTS: dict[str, Layout] = {
    "Bridge": Layout(bridge, 0, 5, 5, 10),
    "RT1": Layout(rt1, 1, 3, 10, 6),
    "Calvin": Layout(calvin, 2, 30, 1, 20),
    "libero": Layout(libero, 3, 30, 1, 10),
    "AIR-AGILEX-HQ": Layout(softfold, 5, 30, 2, 60, True),
    "robotwin2_abs_ee": Layout(robotwin, 6, 30, 1, 10, True),
    "robotwin2_clean": Layout(robotwin, 6, 30, 1, 10, True),
    "VLABench": Layout(vlabench, 8, 30, 1, 15),
    "AIR-AGILEX": Layout(air_agilex, 10, 30, 2, 30, True, stride=2),
    "robomind-franka": Layout(robomind, 11, 30, 4, 30),
    "robomind-ur": Layout(robomind, 12, 30, 4, 30),
    "Droid-Left": Layout(droid, 13, 15, 4, 30),
    "Droid-Right": Layout(droid, 14, 15, 4, 30),
    "robomind-agilex": Layout(robomind_agilex, 16, 30, 4, 30, True),
    "robomind-franka-dual": Layout(robomind_dual, 17, 30, 4, 30, True),
    "widowx-air": Layout(widowx, 4, 5, 5, 15, meta=SIX),
    "robocasa-human": Layout(robocasa, 7, 30, 1, 30, meta=SIX),
    "AIRBOT": Layout(airbot, 18, 10, 3, 10, meta=SIX),
}
UNKNOWN = ("widowx-air", "robocasa-human", "AIRBOT")


def clocks(name: str, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Times [n] in s of the two arms: only SoftFold's differ, by up to 8 ms."""
    grid = np.arange(frames) / LAYOUTS[name].rate_hz
    if name != "AIR-AGILEX-HQ":
        return grid, grid
    wobble = 0.004 * np.sin(np.arange(frames))
    return 100.0 + grid + wobble, 100.0 + grid - wobble


def motions(name: str, frames: int, episode: int) -> tuple[Motion, Motion]:
    """The two arms' motion in an episode; another episode closes its grippers later."""
    left, right = clocks(name, frames)
    close = (left[0] + right[0]) / 2 + (0.4 + 0.1 * episode) * frames / LAYOUTS[name].rate_hz
    return Motion(left, 0, close), Motion(right, 1, close)


def expected_states(name: str, frames: int, episode: int) -> np.ndarray:
    """Poses [n, 20] by the formula; SoftFold's at the arms' own times."""
    a, b = motions(name, frames, episode)
    grip = droid_grip(a) if name.startswith("Droid") else None
    right = b.state() if LAYOUTS[name].two_arms else np.zeros((frames, 10))
    return np.hstack([a.state(grip), right])
