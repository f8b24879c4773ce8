"""Both six-number conventions, quaternions and angles on random rotations; relative xyz."""

import numpy as np
import pytest
from official_layouts import Motion

from xvla.data.normalise import Normaliser
from xvla.data.rotation import (
    columns_to_interleaved,
    euler_to_rot6d,
    quat_to_rot6d,
    rot6d_to_matrix,
)

GENERATOR = np.random.default_rng(5)
# Orthogonal factors of normal matrices, turned right-handed: uniform random rotations.
MATRICES = np.linalg.qr(GENERATOR.normal(size=(500, 3, 3)))[0]
MATRICES *= np.sign(np.linalg.det(MATRICES))[:, None, None]


def test_conventions_name_the_same_rotation() -> None:
    columns = np.concatenate([MATRICES[:, :, 0], MATRICES[:, :, 1]], axis=1)
    six = columns_to_interleaved(columns)
    assert six[0].tolist() == [MATRICES[0, i, j] for i in range(3) for j in range(2)]
    np.testing.assert_array_equal(six[:, [0, 2, 4, 1, 3, 5]], columns)
    np.testing.assert_allclose(rot6d_to_matrix(six), MATRICES, atol=1e-12)
    assert np.abs(rot6d_to_matrix(columns) - MATRICES).max(axis=(1, 2)).min() > 1e-3


def test_quaternions_and_angles_against_the_formula() -> None:
    motion = Motion(GENERATOR.uniform(-20, 20, size=300))
    np.testing.assert_allclose(euler_to_rot6d(motion.euler()), motion.interleaved(), atol=1e-12)
    np.testing.assert_allclose(quat_to_rot6d(motion.quat()), motion.interleaved(), atol=1e-12)
    scaled = motion.quat() * GENERATOR.uniform(-3, -0.5, size=(300, 1))
    np.testing.assert_allclose(quat_to_rot6d(scaled), motion.interleaved(), atol=1e-12)


@pytest.mark.parametrize("target", ["absolute", "delta", "delta_xyz"])
def test_control_interfaces_decode_to_absolute_poses(target: str) -> None:
    proprio, action = GENERATOR.normal(size=(4, 20)), GENERATOR.normal(size=(4, 30, 20))
    rules = Normaliser(target=target)
    _, encoded = rules.encode("sim_panda", proprio, action)
    np.testing.assert_allclose(rules.decode("sim_panda", proprio, encoded), action, atol=1e-12)
    change = {int(d) for d in np.flatnonzero(np.abs(encoded - action).max(axis=(0, 1)) > 0)}
    xyz = {0, 1, 2, 10, 11, 12}
    assert change == {"absolute": set(), "delta_xyz": xyz}.get(target, set(range(20)) - {9, 19})
