"""Anchors against the closed form of a helix, and the rules at the ends of an episode."""

import numpy as np
import pytest
from make_lerobot import CLIMB_M_S, FPS, RADIUS_M, TURN_RAD_S, helix

from xvla.data.resample import allowed_starts, anchors, episode_anchors, moving, training_starts
from xvla.data.rotation import rot6d_to_matrix

TIMES = np.arange(60) / FPS
STATES = helix(TIMES, phase=0.4, two_arms=True).astype(np.float32)


def _lerp_of_closed_form(query: np.ndarray) -> np.ndarray:
    """Interpolate linearly between the helix's values at the two frames around each time."""
    query = query.astype(np.float32).astype(np.float64)
    low = np.minimum(np.floor(query * FPS + 1e-9), len(TIMES) - 2)
    part = (query * FPS - low)[:, None]
    below = helix(low / FPS, 0.4, two_arms=True)
    above = helix((low + 1) / FPS, 0.4, two_arms=True)
    return below * (1 - part) + above * part


@pytest.mark.parametrize(("start", "window_s", "count"), [(0, 4.0, 30), (7, 1.0, 30), (12, 2.5, 7)])
def test_helix(start: int, window_s: float, count: int) -> None:
    rows = anchors(TIMES, STATES, start, window_s=window_s, num_anchors=count)
    assert rows.shape == (count + 1, 20)
    assert rows.dtype == np.float32
    query = start / FPS + np.linspace(0, window_s, count + 1)
    # 1e-5 where the float32 query time (1e-7 s off) meets the gripper's step of 10 / s.
    np.testing.assert_allclose(rows, _lerp_of_closed_form(query), atol=1e-5)
    # A chord leaves its arc by at most (angle of a frame)^2 / 8 of the radius.
    sagitta_m = RADIUS_M * (TURN_RAD_S / FPS) ** 2 / 8
    true_xyz = helix(query, 0.4)[:, :3]
    assert np.abs(rows[:, :3] - true_xyz).max() <= sagitta_m + 1e-6
    np.testing.assert_allclose(rows[:, 2], CLIMB_M_S * query, atol=1e-6)


def test_row_zero_is_the_current_pose() -> None:
    rows = episode_anchors(TIMES, STATES, range(60), window_s=4.0, num_anchors=30)
    np.testing.assert_allclose(rows[:, 0], STATES, atol=3e-5)


def test_window_is_compressed_at_the_end_not_padded() -> None:
    rows = anchors(TIMES, STATES, 49, window_s=4.0, num_anchors=30)
    query = np.linspace(4.9, 5.9, 31)
    np.testing.assert_allclose(rows, _lerp_of_closed_form(query), atol=1e-5)
    np.testing.assert_allclose(rows[-1], STATES[-1], atol=1e-5)
    assert np.all(np.diff(rows[:, 2]) > 0)
    last = anchors(TIMES, STATES, 59, window_s=4.0, num_anchors=30)
    np.testing.assert_array_equal(last, np.repeat(STATES[-1:], 31, axis=0))


def test_gripper_is_fractional_at_a_transition() -> None:
    rows = anchors(TIMES, STATES, 10, window_s=1.0, num_anchors=30)
    values = rows[:, 9]
    assert ((values > 0.01) & (values < 0.99)).sum() == 2
    assert values[0] == 0.0
    assert values[-1] == 1.0


def test_query_times_are_float32() -> None:
    """At 1,000 s the float32 grid is 6e-5 s wide: a ramp of 1 m/s shows it in every anchor."""
    times = 1000.0 + np.arange(50) / 7.0
    states = np.zeros((50, 20), np.float64)
    states[:, 0] = times
    rows = anchors(times, states, 3, window_s=4.0, num_anchors=30)
    exact = np.linspace(times[3], times[3] + 4.0, 31)
    np.testing.assert_array_equal(rows[:, 0], exact.astype(np.float32))
    assert np.abs(rows[:, 0] - exact).max() > 1e-6


def test_irregular_times() -> None:
    times = np.array([0.0, 0.1, 0.5, 0.6, 1.6])
    states = np.zeros((5, 20), np.float32)
    states[:, 0] = [0, 1, 2, 3, 4]
    rows = anchors(times, states, 1, window_s=1.0, num_anchors=4)
    expected = np.interp([0.1, 0.35, 0.6, 0.85, 1.1], times, states[:, 0])
    np.testing.assert_allclose(rows[:, 0], expected, atol=1e-5)


def test_one_start_equals_its_row_of_the_episode() -> None:
    rows = episode_anchors(TIMES, STATES, range(60), window_s=4.0, num_anchors=30)
    for start in (0, 17, 40, 59):
        one = anchors(TIMES, STATES, start, window_s=4.0, num_anchors=30)
        np.testing.assert_array_equal(rows[start], one)


def test_linear_rotation_leaves_so3_and_slerp_stays() -> None:
    times = np.array([0.0, 1.0])
    angles = np.array([0.0, 1.2])
    states = np.zeros((2, 20), np.float32)
    states[:, 3:9] = np.stack(
        [np.cos(angles), -np.sin(angles), np.sin(angles), np.cos(angles), 0 * angles, 0 * angles],
        axis=1,
    )
    rules = {"window_s": 1.0, "num_anchors": 4}
    linear = anchors(times, states, 0, **rules)
    slerp = anchors(times, states, 0, rotation="slerp", **rules)
    np.testing.assert_allclose(linear[2, 3:9], states[:, 3:9].mean(axis=0), atol=1e-6)
    norms = np.linalg.norm(slerp[:, [3, 5, 7]], axis=1)
    np.testing.assert_allclose(norms, 1.0, atol=1e-6)
    turned = np.arccos(rot6d_to_matrix(slerp[:, 3:9])[:, 0, 0])
    np.testing.assert_allclose(turned, np.linspace(0, 1.2, 5), atol=1e-5)
    assert np.linalg.norm(linear[2, [3, 5, 7]]) < 0.9
    np.testing.assert_array_equal(slerp[:, 10:], 0.0)
    np.testing.assert_array_equal(
        np.delete(slerp, range(3, 9), 1), np.delete(linear, range(3, 9), 1)
    )


def test_allowed_starts() -> None:
    assert allowed_starts(300, fps=30, tail_s=1.0) == 270
    assert allowed_starts(80, fps=10, tail_s=1.0) == 70
    assert allowed_starts(80, fps=10, tail_s=0.0) == 80
    assert allowed_starts(6, fps=10, tail_s=1.0) == 1


def test_static_starts_are_skipped() -> None:
    states = STATES.copy()
    states[:20] = states[0]
    chunks = episode_anchors(TIMES, states, range(60), window_s=3.0, num_anchors=30)
    # Rows are 0.1 s apart: frame 18's first anchor is frame 19, still; frame 19's is frame 20.
    assert not moving(chunks)[:19].any()
    assert moving(chunks)[19:59].all()
    assert training_starts(chunks, np.arange(50), stride=1).tolist() == list(range(19, 50))
    assert training_starts(chunks, np.arange(50), stride=4).tolist() == list(range(20, 50, 4))


def test_one_moving_arm_or_a_gripper_is_motion() -> None:
    chunks = np.zeros((4, 3, 20), np.float32)
    chunks[1, 1, 12] = 2e-5
    chunks[2, 1, 9] = 1.0
    chunks[3, 1, 0] = 5e-6
    assert moving(chunks).tolist() == [False, True, True, False]


def test_mistakes() -> None:
    for start in (-1, 60):
        with pytest.raises(ValueError, match=r"outside the episode; allowed: 0\.\.59"):
            anchors(TIMES, STATES, start, window_s=4.0, num_anchors=30)
    with pytest.raises(ValueError, match="prediction_window_s = 0"):
        anchors(TIMES, STATES, 0, window_s=0.0, num_anchors=30)
    with pytest.raises(ValueError, match="num_anchors = 0"):
        anchors(TIMES, STATES, 0, window_s=4.0, num_anchors=0)
    with pytest.raises(ValueError, match="rotation 'cubic'; allowed: one time a state, rotation l"):
        anchors(TIMES, STATES, 0, window_s=4.0, num_anchors=3, rotation="cubic")
    with pytest.raises(ValueError, match="59 times, 60 states"):
        anchors(TIMES[:-1], STATES, 0, window_s=4.0, num_anchors=3)
