"""From a source's own arrays to poses [n, 20], by the source's row of the table."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xvla.data.readers.base import STATE_DIM, FieldError, Poses
from xvla.data.readers.plausible import check_poses, check_rotation
from xvla.data.readers.sources import ROTATION_WIDTH, Arm, Gripper, Rotation, SourceRule
from xvla.data.resample import interpolate
from xvla.data.rotation import MIN_NORM, columns_to_interleaved, euler_to_rot6d, quat_to_rot6d

Read = Callable[[str], NDArray[Any]]


def build_poses(rule: SourceRule, read: Read) -> Poses:
    """Return the poses of one episode; `read(key)` returns an array of the episode.

    An arm that the source lacks is zero, as in the released code.

    Raises:
        FieldError: a missing array, a wrong shape, no frames, values that are not finite, a
            quaternion or a rotation of zero norm, time that does not advance.
    """
    states = np.zeros((0, STATE_DIM))
    for number, arm in enumerate(rule.arms):
        pose = _arm(arm, rule.rotation, read)
        if number == 0:
            states = np.zeros((len(pose), STATE_DIM))
        if len(pose) != len(states):
            raise FieldError(arm.key, f"{len(pose)} rows, the first arm has {len(states)}")
        states[:, 10 * number : 10 * number + 10] = pose
    rows = to_float32(states, rule.arms[0].key)
    if not rule.arms[0].time_key:
        return Poses(times=np.arange(len(rows), dtype=np.float64) / rule.rate_hz, states=rows)
    return _own_clocks(rule, rows, read)


def check_states(states: NDArray[Any], field: str) -> None:
    """Raise FieldError unless poses [n, 20] are finite and what they seem to be."""
    check_finite(states, field)
    check_poses(states, field)


def to_float32(states: NDArray[Any], field: str) -> NDArray[np.float32]:
    """Return finite poses in single precision; FieldError where they are too large for it."""
    if states.dtype == np.float32:
        return states.copy()
    with np.errstate(over="ignore"):
        rows = states.astype(np.float32)
    check_finite(rows, field)
    return rows


def _arm(arm: Arm, rotation: Rotation, read: Read) -> NDArray[np.float64]:
    """Return one arm's poses [n, 10]."""
    width = ROTATION_WIDTH[rotation]
    position = _columns(arm.key, _part(arm, read), arm.first, 3)
    if arm.rotation_key:
        raw = _columns(arm.rotation_key, _part(arm, read, arm.rotation_key), 0, width)
    else:
        raw = _columns(arm.key, _part(arm, read), arm.first + 3, width)
    rot6d = _rot6d(rotation, raw, arm.rotation_key or arm.key)
    grip = _gripper(arm.gripper, read)
    lengths = {len(position), len(rot6d), len(grip)}
    if len(lengths) > 1:
        raise FieldError(
            arm.gripper.key,
            f"{len(grip)} rows, the pose has {len(position)}; every frame needs all of them",
        )
    if not len(position):
        raise FieldError(arm.key, "the episode is empty: no frames")
    return np.concatenate([position, rot6d, grip[:, None]], axis=1)


def _part(arm: Arm, read: Read, key: str = "") -> NDArray[np.float64]:
    """Return an array [n, d] of floats, of one arm where the source stacks them."""
    key = key or arm.key
    values = _floats(key, read(key))
    if arm.part is None:
        return values
    if values.ndim != 3 or values.shape[1] <= arm.part:
        raise FieldError(key, f"has shape {list(values.shape)}, must be [frames, 2 arms, numbers]")
    return values[:, arm.part]


def _columns(key: str, values: NDArray[np.float64], first: int, count: int) -> NDArray[np.float64]:
    if values.ndim != 2 or values.shape[1] < first + count:
        raise FieldError(
            key,
            f"has shape {list(values.shape)}, must be [frames, {first + count} or more]; "
            "it is not in this source's layout",
        )
    return values[:, first : first + count]


def _floats(key: str, values: NDArray[Any]) -> NDArray[np.float64]:
    if values.dtype.kind not in "biuf":
        raise FieldError(key, f"holds {values.dtype}, must hold numbers")
    floats = np.asarray(values, dtype=np.float64)
    check_finite(floats.reshape(len(floats), -1) if floats.ndim else floats.reshape(1, 1), key)
    return floats


def check_finite(values: NDArray[Any], key: str) -> None:
    """Raise FieldError unless all numbers of an array [n, d] are finite."""
    finite = np.isfinite(values)
    if not finite.all():
        bad = ~finite.all(axis=1)
        count, first = int(bad.sum()), int(bad.argmax())
        message = f"NaN or infinite in {count} frames (first: frame {first}); record it again"
        raise FieldError(key, message)


def _rot6d(rotation: Rotation, raw: NDArray[np.float64], key: str) -> NDArray[np.float64]:
    """Return interleaved rot6d [n, 6] of the source's own rotation."""
    if rotation.startswith("quat"):
        norm = np.linalg.norm(raw, axis=1)
        if len(norm) and norm.min() < MIN_NORM:
            raise FieldError(
                key, f"the quaternion of frame {int(norm.argmin())} has zero norm; record it again"
            )
        return quat_to_rot6d(np.roll(raw, -1, axis=1) if rotation == "quat_wxyz" else raw)
    if rotation == "euler_xyz":
        return euler_to_rot6d(raw)
    six = columns_to_interleaved(raw) if rotation == "rot6d_columns" else raw
    check_rotation(six, key, columns=rotation == "rot6d_columns")
    return six


def _gripper(gripper: Gripper, read: Read) -> NDArray[np.float64]:
    """Return [n], 1 = closed, by the source's rule."""
    values = _floats(gripper.key, read(gripper.key))
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or not -values.shape[1] <= gripper.column < values.shape[1]:
        raise FieldError(
            gripper.key, f"has shape {list(values.shape)} and no gripper column {gripper.column}"
        )
    column = values[:, gripper.column]
    if gripper.rule == "keep":
        return column
    if gripper.rule == "invert":
        return 1.0 - column
    scaled = column * gripper.scale
    closed = scaled > gripper.threshold if gripper.rule == "above" else scaled < gripper.threshold
    return closed.astype(np.float64)


def _own_clocks(rule: SourceRule, rows: NDArray[np.float32], read: Read) -> Poses:
    """Return poses at the mean of the arms' clocks, from 0, and what was recorded.

    The clocks are counted from the episode's start: the float32 times of the released code
    cannot tell frames apart in seconds since 1970.
    """
    clocks = []
    for arm in rule.arms:
        clock = _floats(arm.time_key, read(arm.time_key)).reshape(-1)
        if len(clock) != len(rows):
            raise FieldError(arm.time_key, f"{len(clock)} time stamps for {len(rows)} poses")
        if (steps := np.diff(clock) <= 0).any():
            raise FieldError(
                arm.time_key,
                f"time does not advance at frame {int(steps.argmax()) + 1}; times must increase",
            )
        clocks.append(clock)
    arm_times = np.stack(clocks, axis=1)
    if arm_times[0].max() > arm_times[-1].min():
        message = "the clocks of the two arms share no moment; they must count from one zero"
        raise FieldError(rule.arms[1].time_key, message)
    mean = arm_times.mean(axis=1)
    arm_times, times = arm_times - mean[0], mean - mean[0]
    halves = [
        interpolate(arm_times[:, arm], rows[:, 10 * arm : 10 * arm + 10], times) for arm in (0, 1)
    ]
    states = np.concatenate(halves, axis=1).astype(np.float32)
    return Poses(times=times, states=states, arm_times=arm_times, arm_states=rows)
