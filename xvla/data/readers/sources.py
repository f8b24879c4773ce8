"""The table of published sources: where each keeps its poses, and the rules of its samples.

Every number is one of the released data handlers'; a new source is a new row. The code that
reads a row is in `poses.py` and knows no source by name.
"""

from dataclasses import dataclass
from typing import Literal

Rotation = Literal[
    "euler_xyz", "quat_xyzw", "quat_wxyz", "rot6d_interleaved", "rot6d_columns", "unknown"
]
ROTATION_WIDTH: dict[str, int] = {
    "euler_xyz": 3,
    "quat_xyzw": 4,
    "quat_wxyz": 4,
    "rot6d_interleaved": 6,
    "rot6d_columns": 6,
    "unknown": 6,
}
UNKNOWN_ROTATION = (
    "its six rotation numbers are read from the file as they are and their convention is not "
    "published"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gripper:
    """Where a gripper lies and how it becomes 1 = closed.

    `keep` takes the value, `invert` 1 - value, `above` / `below` compare value * scale with
    `threshold`. `column` counts from the end when negative.
    """

    key: str
    column: int = -1
    rule: Literal["keep", "invert", "above", "below"] = "keep"
    threshold: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """Where one arm's pose lies: xyz in m from column `first` of `key`, its rotation after it.

    `rotation_key` names another array that holds the rotation alone. `part` picks one arm of
    arrays [T, arms, d]. `time_key` names the arm's own time stamps in s.
    """

    key: str
    gripper: Gripper
    first: int = 0
    rotation_key: str = ""
    part: int | None = None
    time_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRule:
    """One row: a source's names, clock, start frames, pose keys and quirks.

    Start frames are every `stride`-th (validation: `eval_stride`-th) of the first T - `tail`.
    `container` is one HDF5 file an episode, or LeRobot's parquet and mp4 an episode.
    `first_image` is the image that belongs to pose 0. `window_s` is the released prediction
    window in s; the one that a run uses is its own field. `refusal` is why it cannot be read.
    """

    name: str
    domain: str
    weight: float = 1.0
    rate_hz: float = 30.0
    window_s: float = 1.0
    tail: int = 30
    stride: int = 1
    eval_stride: int = 1
    rotation: Rotation = "euler_xyz"
    arms: tuple[Arm, ...] = ()
    container: Literal["hdf5", "parquet"] = "hdf5"
    views: tuple[str, ...] = ()
    first_image: int = 0
    refusal: str = ""
    task_separator: str = ""


def _robomind(name: str, domain: str, weight: float, arms: tuple) -> SourceRule:
    return SourceRule(name=name, domain=domain, weight=weight, window_s=4.0, arms=arms)


_ROBOMIND_ARM = Arm(key="puppet/end_effector", gripper=Gripper(key="puppet/joint_position"))


def _robomind_side(side: str) -> Arm:
    key = f"puppet/end_effector_{side}"
    return Arm(key=key, gripper=Gripper(key=key, rule="above", threshold=2.5))


def _droid(side: str) -> SourceRule:
    # The gripper stays continuous: the released handler keeps the measured opening.
    arm = Arm(
        key="observation/cartesian_position", gripper=Gripper(key="observation/gripper_position")
    )
    return SourceRule(
        name=f"Droid-{side}",
        domain=f"droid_{side.lower()}",
        weight=0.15,
        rate_hz=15.0,
        window_s=4.0,
        arms=(arm,),
    )


def _agibot(name: str, domain: str, weight: float) -> SourceRule:
    arms = tuple(
        Arm(
            key="actions.end.position",
            rotation_key="actions.end.orientation",
            part=part,
            gripper=Gripper(key="actions.effector.position", column=part),
        )
        for part in (0, 1)
    )
    views = ("head", "hand_left", "hand_right")
    return SourceRule(
        name=name,
        domain=domain,
        weight=weight,
        window_s=4.0,
        stride=4,
        eval_stride=120,
        rotation="quat_xyzw",
        arms=arms,
        container="parquet",
        task_separator=" | ",
        views=tuple(f"observation.images.{view}" for view in views),
    )


def _robotwin(name: str) -> SourceRule:
    arms = tuple(
        Arm(
            key=f"endpose/{side}_endpose",
            gripper=Gripper(key=f"endpose/{side}_gripper", rule="invert"),
        )
        for side in ("left", "right")
    )
    return SourceRule(name=name, domain="robotwin2", tail=10, rotation="quat_xyzw", arms=arms)


def _refused(name: str, weight: float, reason: str) -> SourceRule:
    return SourceRule(name=name, domain="", weight=weight, refusal=reason)


_JOINTS = "its actions are joint angles, not end-effector poses"
_ON_SITE = (
    "its actions are joint angles or poses by a switch of the training run, resampled by frame "
    "count"
)

ROWS: tuple[SourceRule, ...] = (
    SourceRule(
        name="Bridge",
        domain="bridge",
        rate_hz=5.0,
        window_s=5.0,
        tail=10,
        arms=(Arm(key="proprio", gripper=Gripper(key="action", rule="invert")),),
    ),
    SourceRule(
        name="RT1",
        domain="rt1",
        rate_hz=3.0,
        window_s=10.0,
        tail=6,
        rotation="quat_xyzw",
        arms=(Arm(key="eef_quat_orientation", gripper=Gripper(key="gripper")),),
    ),
    SourceRule(
        name="Calvin",
        domain="calvin",
        tail=20,
        arms=(Arm(key="proprio", gripper=Gripper(key="proprio", rule="below")),),
    ),
    SourceRule(
        name="libero",
        domain="libero",
        tail=10,
        rotation="rot6d_columns",
        arms=(Arm(key="abs_action_6d", gripper=Gripper(key="abs_action_6d", rule="above")),),
        first_image=1,
    ),
    SourceRule(
        name="widowx-air",
        domain="widowx_air",
        rate_hz=5.0,
        window_s=5.0,
        tail=15,
        rotation="unknown",
        arms=(
            Arm(
                key="abs_action_6d",
                gripper=Gripper(key="abs_action_6d", rule="below", threshold=0.5),
            ),
        ),
    ),
    SourceRule(
        name="AIR-AGILEX-HQ",
        domain="air_agilex_hq",
        window_s=2.0,
        tail=60,
        rotation="rot6d_interleaved",
        arms=tuple(
            Arm(
                key="observations/eef_6d",
                first=first,
                gripper=Gripper(
                    key="observations/eef_6d",
                    column=first + 9,
                    rule="below",
                    threshold=1.0,
                    scale=50.0,
                ),
                time_key=f"observations/eef_{side}_time",
            )
            for first, side in ((0, "left"), (10, "right"))
        ),
    ),
    _robotwin("robotwin2_abs_ee"),
    _robotwin("robotwin2_clean"),
    SourceRule(
        name="robocasa-human",
        domain="robocasa_human",
        rotation="unknown",
        arms=(
            Arm(
                key="action_dict/abs_pos",
                rotation_key="action_dict/abs_rot_6d",
                gripper=Gripper(key="action_dict/gripper", rule="above"),
            ),
        ),
    ),
    SourceRule(
        name="VLABench",
        domain="vlabench",
        tail=15,
        arms=(Arm(key="proprio", gripper=Gripper(key="proprio")),),
    ),
    _agibot("AGIBOT-challenge", "agibot_challenge", 1.0),
    SourceRule(
        name="AIR-AGILEX",
        domain="air_agilex",
        window_s=2.0,
        stride=2,
        eval_stride=2,
        rotation="quat_xyzw",
        arms=tuple(
            Arm(
                key="observations/eef_quaternion",
                first=first,
                gripper=Gripper(
                    key="observations/eef_quaternion",
                    column=first + 7,
                    rule="below",
                    threshold=1.0,
                    scale=50.0,
                ),
            )
            for first in (0, 8)
        ),
    ),
    _robomind("robomind-franka", "robomind_franka", 0.1, (_ROBOMIND_ARM,)),
    _robomind("robomind-ur", "robomind_ur", 0.1, (_ROBOMIND_ARM,)),
    _droid("Left"),
    _droid("Right"),
    _agibot("AGIBOT", "agibot", 0.4),
    _robomind(
        "robomind-agilex",
        "robomind_agilex",
        0.07,
        (_robomind_side("left"), _robomind_side("right")),
    ),
    _robomind(
        "robomind-franka-dual",
        "robomind_franka_dual",
        0.03,
        (
            Arm(key="puppet/end_effector", gripper=Gripper(key="puppet/joint_position", column=7)),
            Arm(key="puppet/end_effector", first=6, gripper=Gripper(key="puppet/joint_position")),
        ),
    ),
    SourceRule(
        name="AIRBOT",
        domain="airbot",
        rate_hz=10.0,
        window_s=3.0,
        tail=10,
        rotation="unknown",
        arms=(Arm(key="eef_6d", gripper=Gripper(key="eef_6d", rule="below", threshold=0.5)),),
    ),
    _refused("agiworld-on-site-pack", 0.8, _ON_SITE),
    _refused("agiworld-on-site-pack-extra", 0.2, _ON_SITE),
    _refused("agiworld-on-site-conveyor", 0.8, _ON_SITE),
    _refused("agiworld-on-site-conveyor-extra", 0.2, _ON_SITE),
    _refused("agiworld-on-site-restock", 1.0, _ON_SITE),
    _refused("agiworld-on-site-pour", 1.0, _ON_SITE),
    _refused("agiworld-on-site-microwave", 1.2, _ON_SITE),
    _refused("agiworld-on-site-cloth", 1.2, _ON_SITE),
    _refused("agiworld-on-site-cloth-2", 0.1, _ON_SITE),
    _refused("lift2", 1.0, _JOINTS),
    _refused("x2robot", 1.0, _JOINTS),
)
SOURCES: dict[str, SourceRule] = {row.name: row for row in ROWS}
