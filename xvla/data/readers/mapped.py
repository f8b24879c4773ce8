"""States of one's own robot as our 20 numbers, by a mapping."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from xvla.data.readers.base import STATE_DIM, FieldError, fail, one_line
from xvla.data.readers.lerobot_meta import Features
from xvla.data.readers.poses import check_finite
from xvla.data.rotation import MIN_NORM, columns_to_interleaved, matrix_to_rot6d
from xvla.mapping import MAPPING_FILE, ArmColumns, RotationColumns, StateMapping, parse_mapping

METRES = {"m": 1.0, "cm": 1e-2, "mm": 1e-3}


def read_mapping(root: Path) -> StateMapping | None:
    """Return the mapping beside a set, None where there is none; DatasetError for a bad one."""
    file = root / MAPPING_FILE
    if not file.is_file():
        return None
    try:
        return parse_mapping(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        fail(root, file, None, f"not readable as YAML ({one_line(error, 200)})")
    except ValueError as error:
        fail(root, file, None, str(error))


def check_mapping(root: Path, mapping: StateMapping, version: str, features: Features) -> None:
    """Raise DatasetError where a mapping does not fit a set's codebase_version and features."""
    if mapping.version and mapping.version != version:
        message = (
            f"mapping.version={mapping.version!r}, the set is {version!r}: it is a mapping for "
            "another version of the set; propose one with `scaling data map`"
        )
        fail(root, MAPPING_FILE, "version", message)
    if mapping.target == "action":
        _check_joined(root, mapping, features, mapping.action)
    _check_joined(root, mapping, features, mapping.state)
    known = [feature.name for feature in features.values() if feature.dtype == "video"]
    for view in mapping.views:
        if view not in known:
            message = f"{view!r} is no view of the set; it has {', '.join(known)}"
            fail(root, MAPPING_FILE, "views", message)


def _check_joined(root: Path, mapping: StateMapping, features: Features, names: list[str]) -> None:
    for name in names:
        if name not in features or not features[name].width:
            message = f"{name!r} is no feature of the set; it has {', '.join(features)}"
            fail(root, MAPPING_FILE, "state", message)
    try:
        mapping.check_width(sum(features[name].width for name in names), "+".join(names))
    except ValueError as error:
        fail(root, MAPPING_FILE, "width", str(error))


def map_states(mapping: StateMapping, joined: NDArray[Any], field: str) -> NDArray[np.float64]:
    """Return poses [n, 20] of joined features [n, d]; FieldError where a used value is none."""
    try:
        mapping.check_width(joined.shape[1], field)
    except ValueError as error:
        raise FieldError(field, str(error)) from None
    check_finite(joined[:, mapping.columns()], field)
    states = np.zeros((len(joined), STATE_DIM))
    for number, arm in enumerate(mapping.arms):
        states[:, 10 * number : 10 * number + 10] = _arm(arm, joined.astype(np.float64), field)
    return states


def _arm(arm: ArmColumns, joined: NDArray[np.float64], field: str) -> NDArray[np.float64]:
    position = joined[:, arm.position.columns] * METRES[arm.position.unit]
    six = to_rot6d(arm.rotation, joined[:, arm.rotation.columns], field)
    grip = np.zeros((len(joined), 1))
    if arm.gripper:
        span = arm.gripper.closed - arm.gripper.open
        grip = (joined[:, [arm.gripper.column]] - arm.gripper.open) / span
    return np.concatenate([position, six, grip], axis=1)


def to_rot6d(
    rotation: RotationColumns, raw: NDArray[np.float64], field: str
) -> NDArray[np.float64]:
    """Return interleaved rot6d [n, 6] of a recorded rotation [n, k]."""
    from scipy.spatial.transform import Rotation

    if rotation.kind == "rotation6d_interleaved":
        return raw
    if rotation.kind == "rotation6d_columns":
        return columns_to_interleaved(raw)
    if rotation.kind == "matrix":
        return matrix_to_rot6d(raw.reshape(-1, 3, 3))
    degrees = rotation.unit == "deg"
    if rotation.kind == "euler":
        turned = Rotation.from_euler(rotation.order, raw, degrees=degrees)
    elif rotation.kind == "axis_angle":
        turned = Rotation.from_rotvec(raw, degrees=degrees)
    else:
        _check_quaternions(raw, field)
        wxyz = rotation.kind == "quaternion_wxyz"
        turned = Rotation.from_quat(np.roll(raw, -1, axis=1) if wxyz else raw)
    return matrix_to_rot6d(turned.as_matrix())


def _check_quaternions(raw: NDArray[np.float64], field: str) -> None:
    """Raise FieldError for quaternions far from length 1: other numbers stand there."""
    norm = np.linalg.norm(raw, axis=1)
    worst = int(np.abs(norm - 1).argmax()) if len(norm) else 0
    if len(norm) and (abs(norm[worst] - 1) > 0.1 or norm.min() < MIN_NORM):
        message = f"the quaternion of frame {worst} has norm {norm[worst]:.3g}, must be 1"
        raise FieldError(field, f"{message}; the mapping's columns hold something else")
