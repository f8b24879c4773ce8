"""Rotation 6D in the interleaved convention."""

import numpy as np
from scipy.spatial.transform import Rotation

from xvla.data.rotation import geodesic_angle, matrix_to_rot6d, rot6d_to_matrix, slerp_rot6d

RANDOM = Rotation.random(200, random_state=0).as_matrix()


def test_interleaved_layout() -> None:
    matrix = np.arange(9.0).reshape(3, 3)
    assert matrix_to_rot6d(matrix).tolist() == [0, 1, 3, 4, 6, 7]


def test_round_trip_on_random_rotations() -> None:
    np.testing.assert_allclose(rot6d_to_matrix(matrix_to_rot6d(RANDOM)), RANDOM, atol=1e-12)


def test_gram_schmidt_of_any_six_numbers_is_a_rotation() -> None:
    noise = np.random.default_rng(1).normal(size=(200, 6))
    degenerate = np.array([[0.0] * 6, [1, 2, 1, 2, 1, 2], [0, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]])
    matrix = rot6d_to_matrix(np.concatenate([noise, degenerate]))
    np.testing.assert_allclose(matrix @ matrix.swapaxes(-1, -2), np.eye(3) + 0 * matrix, atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(matrix), 1.0, atol=1e-9)


def test_gram_schmidt_ignores_scale_and_shear() -> None:
    first, second = RANDOM[:, :, 0], RANDOM[:, :, 1]
    sheared = np.stack([3.0 * first, 0.5 * second + 2.0 * first], axis=-1).reshape(-1, 6)
    np.testing.assert_allclose(rot6d_to_matrix(sheared), RANDOM, atol=1e-9)


def test_geodesic_angle() -> None:
    axis = np.array([2.0, -1.0, 2.0]) / 3.0
    angles = np.array([0.0, 1e-7, 1e-3, 0.5, 3.0])
    turned = RANDOM[:5] @ Rotation.from_rotvec(angles[:, None] * axis).as_matrix()
    np.testing.assert_allclose(geodesic_angle(RANDOM[:5], turned), angles, rtol=1e-6, atol=1e-15)


def test_slerp_against_scipy() -> None:
    low, high = RANDOM[:100], RANDOM[100:]
    part = np.linspace(0, 1, 100)
    turn = Rotation.from_matrix(low.swapaxes(1, 2) @ high).as_rotvec() * part[:, None]
    expected = low @ Rotation.from_rotvec(turn).as_matrix()
    ours = rot6d_to_matrix(slerp_rot6d(matrix_to_rot6d(low), matrix_to_rot6d(high), part))
    np.testing.assert_allclose(ours, expected, atol=1e-9)
