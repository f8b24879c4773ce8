"""Are recorded numbers what they seem: rotations, metres, grippers, time; if not, what probably.

Limits are wide: a set that is read wrongly misses them by far (its rotations by 0.45 and more),
one that is read rightly keeps them by far (1e-7), and sensors overshoot.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xvla.data.readers.base import FieldError, Severity
from xvla.data.rotation import MIN_NORM, columns_to_interleaved

# Largest deviation of a rotation's column norms from 1 and of their dot product from 0.
WRONG_ROTATION, ROUGH_ROTATION = 0.05, 1e-3
# No arm reaches so far, in m.
WRONG_REACH_M, LONG_REACH_M = 10.0, 3.0
# Beyond 0..1, in strokes.
WRONG_STROKE, ROUGH_STROKE = 0.05, 1e-3
# Of the median step against 1 / fps: 24 against 25 passes, 25 against 30 does not.
WRONG_STEP = 0.1
UNITS_S = {"seconds": 1.0, "milliseconds": 1e-3, "microseconds": 1e-6, "nanoseconds": 1e-9}
# A gripper whose stroke in a whole set is below this is recorded in m, not in strokes.
SHORT_STROKE = 0.2

Array = NDArray[np.floating[Any]]


def check_poses(states: Array, field: str, *, severity: Severity = "error") -> None:
    """Raise FieldError where poses [n, 20] are no rotations, no metres or no strokes of a gripper.

    An arm of zeros is absent. `severity` is that of positions and grippers: the numbers of
    published sources are taken as their own code takes them.
    """
    for first in (0, 10):
        arm = np.asarray(states[:, first : first + 10], dtype=np.float64)
        if not arm.any():
            continue
        check_rotation(arm[:, 3:9], field)
        _check_reach(arm[:, :3], field, WRONG_REACH_M, severity)
        _check_stroke(arm[:, 9], field, WRONG_STROKE, severity)


def check_doubtful(states: Array, field: str) -> None:
    """Raise a warning for poses [n, 20] that `check_poses` lets pass but that may be wrong."""
    for first in (0, 10):
        arm = np.asarray(states[:, first : first + 10], dtype=np.float64)
        if not arm.any():
            continue
        worst = float(rotation_deviation(arm[:, 3:9]).max())
        if worst > ROUGH_ROTATION:
            message = (
                f"rotations are {worst:.2g} from rotations (column norms and dot product); "
                "rounded or averaged numbers should be made orthonormal before they are stored"
            )
            raise FieldError(field, message, severity="warning")
        _check_reach(arm[:, :3], field, LONG_REACH_M, "warning")
        _check_stroke(arm[:, 9], field, ROUGH_STROKE, "warning")


def rotation_deviation(six: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return [n]: how far column norms of interleaved rot6d [n, 6] are from 1, dots from 0."""
    columns = six.reshape(-1, 3, 2)
    # Of few rows numpy's calls cost more than their sums: one product, no nan_to_num.
    with np.errstate(over="ignore", invalid="ignore"):
        products = np.einsum("nij,nik->jkn", columns, columns)
        norms = np.sqrt(products[[0, 1], [0, 1]])
        worst: NDArray[np.float64] = np.maximum(
            np.abs(norms - 1).max(axis=0), np.abs(products[0, 1])
        )
    worst[np.isnan(worst)] = np.inf
    return worst


def check_rotation(six: NDArray[np.float64], key: str, *, columns: bool = False) -> None:
    """Raise FieldError where interleaved rot6d [n, 6] is none, and say what it probably is.

    `columns`: it was made of numbers that were taken as two columns one after another.
    """
    off = rotation_deviation(six)
    if not len(off) or off.max() <= WRONG_ROTATION:
        return
    frame, count = int(off.argmax()), int((off > WRONG_ROTATION).sum())
    first, second = six[frame, 0::2], six[frame, 1::2]
    probably = _other_convention(six, columns=columns)
    if not probably and np.linalg.norm(np.cross(first, second)) < MIN_NORM:
        raise FieldError(
            key,
            f"the rotation of frame {frame} has zero norm (or its two columns are parallel); "
            "record it again",
        )
    message = (
        f"{count} of {len(six)} frames hold no rotation: in frame {frame} its columns have norms "
        f"{np.linalg.norm(first):.3g} and {np.linalg.norm(second):.3g}, must be 1, and dot product "
        f"{float(first @ second):.3g}, must be 0 (deviation {off.max():.2g})"
    )
    probably = probably or "probably other numbers than a rotation 6D: say in a mapping what it is"
    raise FieldError(key, f"{message}; {probably}")


def check_step(stamps: NDArray[np.float64], fps: float, field: str) -> None:
    """Raise FieldError when time stamps [n] in s do not advance by 1 / fps in the median.

    An episode of fewer than three frames has no median.
    """
    if len(stamps) < 3:
        return
    steps = np.sort(stamps[1:] - stamps[:-1])
    step = float(steps[len(steps) // 2])  # np.median takes five times as long on few numbers
    if abs(step * fps - 1) <= WRONG_STEP:
        return
    fits = [unit for unit, size in UNITS_S.items() if abs(step * size * fps - 1) <= WRONG_STEP]
    probably = (
        f"it is 1/fps in {fits[0]}: store the time in s"
        if fits
        else f"the rows are {1 / step:.3g} a second, if the stamps are in s: mend fps in "
        "meta/info.json, or the stamps"
    )
    message = f"the median step is {step:.4g}, 1/fps is {1 / fps:.4g} s; {probably}"
    raise FieldError(field, message)


def check_strokes(widest: NDArray[np.float64], field: str) -> None:
    """Raise a warning for grippers whose largest values in a set are `widest`, one an arm."""
    short = widest[(widest > MIN_NORM) & (widest < SHORT_STROKE)]
    if len(short):
        message = (
            f"the gripper never exceeds {short[0]:.3g} of 1 (closed) in any episode; it is "
            "probably an opening in m: map it with its open and closed values"
        )
        raise FieldError(field, message, severity="warning")


def _other_convention(six: NDArray[np.float64], *, columns: bool) -> str:
    """Return how else the numbers of interleaved rot6d [n, 6] would be rotations, "" if not."""
    raw = six.reshape(-1, 3, 2).swapaxes(1, 2).reshape(-1, 6)
    other, names = columns_to_interleaved(six), ("rotation6d_columns", "rotation6d_interleaved")
    if columns:
        other, names = raw, names[::-1]
    if rotation_deviation(other).max() <= WRONG_ROTATION:
        return f"they are rotations as {names[0]}, not {names[1]}: say so, or write them again"
    size = float(np.median(np.linalg.norm(six[:, 0::2], axis=1)))
    if size > MIN_NORM and rotation_deviation(six / size).max() <= WRONG_ROTATION:
        return f"they are rotations times {size:.4g}: write them unscaled"
    return ""


def _check_reach(xyz: NDArray[np.float64], field: str, limit: float, severity: Severity) -> None:
    reach = np.abs(xyz).max(axis=0)
    axis = int(reach.argmax())
    if reach[axis] <= limit:
        return
    units = {"millimetres": 1e-3, "centimetres": 1e-2}
    fits = [f"{unit} ({reach[axis] * size:.3g} m)" for unit, size in units.items()
            if 0.1 <= reach[axis] * size <= LONG_REACH_M]  # fmt: skip
    probably = f"; probably {' or '.join(fits)}" if fits else ""
    message = f"{'xyz'[axis]} reaches {reach[axis]:.4g}, must be a position in m{probably}"
    raise FieldError(field, f"{message}; say its unit in a mapping", severity=severity)


def _check_stroke(
    gripper: NDArray[np.float64], field: str, slack: float, severity: Severity
) -> None:
    low, high = float(gripper.min()), float(gripper.max())
    if -slack <= low and high <= 1 + slack:
        return
    ranges = {(-1.0, 1.0): "-1..1", (0.0, 100.0): "percent, 0..100", (0.0, 255.0): "0..255"}
    fits = [
        text
        for (least, most), text in ranges.items()
        if least - slack <= low and high <= most * (1 + slack)
    ]
    probably = f"; probably {fits[0]}" if fits and severity == "error" else ""
    message = (
        f"the gripper goes from {low:.4g} to {high:.4g}, must be 0 (open) to 1 (closed){probably}; "
        "say its open and closed values in a mapping"
    )
    raise FieldError(field, message, severity=severity)
