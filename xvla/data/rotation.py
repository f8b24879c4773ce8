"""Rotations as six numbers: the first two columns of the matrix, flattened row by row.

This is X-VLA's interleaved convention, [R00, R01, R10, R11, R20, R21]; LIBERO's stored sets use
concatenated columns instead, [R00, R10, R20, R01, R11, R21]: their reader converts them.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Shorter columns are no direction: below this a rotation counts as absent (an arm of zeros).
MIN_NORM = 1e-6


def matrix_to_rot6d(matrix: ArrayLike) -> NDArray[np.float64]:
    """Return rot6d [..., 6] of rotation matrices [..., 3, 3]."""
    matrix = np.asarray(matrix, dtype=np.float64)
    return matrix[..., :, :2].reshape(*matrix.shape[:-2], 6)


def columns_to_interleaved(columns: ArrayLike) -> NDArray[np.float64]:
    """Return interleaved rot6d [..., 6] of concatenated columns [..., 6]."""
    columns = np.asarray(columns, dtype=np.float64)
    return columns.reshape(*columns.shape[:-1], 2, 3).swapaxes(-1, -2).reshape(columns.shape)


def quat_to_rot6d(quaternion: ArrayLike) -> NDArray[np.float64]:
    """Return rot6d [n, 6] of quaternions [n, 4], scalar last; the norm does not matter."""
    from scipy.spatial.transform import Rotation

    quaternion = np.asarray(quaternion, dtype=np.float64)
    return matrix_to_rot6d(Rotation.from_quat(quaternion.reshape(-1, 4)).as_matrix())


def euler_to_rot6d(angles: ArrayLike) -> NDArray[np.float64]:
    """Return rot6d [n, 6] of angles [n, 3] in rad about the fixed axes x, then y, then z."""
    from scipy.spatial.transform import Rotation

    angles = np.asarray(angles, dtype=np.float64)
    return matrix_to_rot6d(Rotation.from_euler("xyz", angles.reshape(-1, 3)).as_matrix())


def rot6d_to_matrix(rot6d: ArrayLike) -> NDArray[np.float64]:
    """Return rotation matrices [..., 3, 3] of rot6d [..., 6] by Gram-Schmidt.

    The input need not be orthonormal (predictions and interpolated poses are not). A degenerate
    one (a zero column, parallel columns) gives the nearest defined axes: never NaN.
    """
    rot6d = np.asarray(rot6d, dtype=np.float64)
    first = _unit(rot6d[..., 0::2], np.array([1.0, 0.0, 0.0]))
    second = rot6d[..., 1::2]
    second = second - (first * second).sum(-1, keepdims=True) * first
    # The axis least aligned with `first` is never parallel to it.
    spare = np.eye(3)[np.abs(first).argmin(-1)]
    spare = spare - (first * spare).sum(-1, keepdims=True) * first
    second = _unit(second, spare / np.linalg.norm(spare, axis=-1, keepdims=True))
    return np.stack([first, second, np.cross(first, second)], axis=-1)


def geodesic_angle(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Return the angle in rad between rotation matrices [..., 3, 3].

    From ||A - B||_F = 2 sqrt(2) sin(angle / 2), which keeps its precision at small angles where
    the arc cosine of the trace loses half the digits.
    """
    gap = np.linalg.norm(np.asarray(a) - np.asarray(b), axis=(-2, -1))
    return 2.0 * np.arcsin(np.clip(gap / np.sqrt(8.0), 0.0, 1.0))


def slerp_rot6d(low: ArrayLike, high: ArrayLike, fraction: ArrayLike) -> NDArray[np.float64]:
    """Turn from `low` to `high` [..., 6] by `fraction` [...] of the angle between; stays on SO(3).

    Rotations whose first column is zero (an absent arm) stay zero.
    """
    from scipy.spatial.transform import Rotation

    low, high = np.broadcast_arrays(np.asarray(low, np.float64), np.asarray(high, np.float64))
    start = rot6d_to_matrix(low).reshape(-1, 3, 3)
    turn = start.transpose(0, 2, 1) @ rot6d_to_matrix(high).reshape(-1, 3, 3)
    part = np.broadcast_to(fraction, low.shape[:-1]).reshape(-1, 1)
    step = Rotation.from_rotvec(Rotation.from_matrix(turn).as_rotvec() * part).as_matrix()
    turned = matrix_to_rot6d(start @ step).reshape(low.shape)
    absent = np.linalg.norm(low, axis=-1, keepdims=True) < MIN_NORM
    return np.where(absent, 0.0, turned)


def _unit(vector: NDArray[np.float64], fallback: NDArray[np.float64]) -> NDArray[np.float64]:
    norm = np.linalg.norm(vector, axis=-1, keepdims=True)
    return np.where(norm > MIN_NORM, vector / np.maximum(norm, MIN_NORM), fallback)
