"""From recorded poses to anchor points: the current pose and T poses over the prediction window.

The rules are those of the released code (BaseHDF5Handler): poses are interpolated linearly in all
dimensions at T + 1 times spread evenly over the window, computed in float32; near the end of an
episode the window is compressed in time, not padded.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xvla.data.rotation import slerp_rot6d

# A start frame is skipped when no dimension moves more than this up to the first anchor.
STATIC_TOLERANCE = 1e-5
ROTATIONS = ("linear", "slerp")
ROTATION_SLICES = (slice(3, 9), slice(13, 19))


def anchors(
    times: NDArray[np.float64],
    states: NDArray[np.float32],
    start: int,
    *,
    window_s: float,
    num_anchors: int,
    rotation: Literal["linear", "slerp"] = "linear",
    arm_times: NDArray[np.float64] | None = None,
    targets: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Return [T + 1, A]: row 0 the pose at frame `start`, rows 1..T the anchor points after it.

    `times` [n] in s, increasing; `states` [n, A]; `rotation="slerp"` keeps rotations on SO(3)
    where the released code interpolates the six numbers linearly. `arm_times` [n, 2] are the
    arms' own clocks, where a source has them (`states` are then the rows as recorded, and `times`
    the mean of the clocks). `targets` [n, A] are reached in the place of the later states.

    Raises:
        ValueError: a start outside the episode, no positive window or anchor count, an unknown
            rotation, or not one time a state.
    """
    return episode_anchors(
        times,
        states,
        [start],
        window_s=window_s,
        num_anchors=num_anchors,
        rotation=rotation,
        arm_times=arm_times,
        targets=targets,
    )[0]


def episode_anchors(
    times: NDArray[np.float64],
    states: NDArray[np.float32],
    starts: ArrayLike,
    *,
    window_s: float,
    num_anchors: int,
    rotation: Literal["linear", "slerp"] = "linear",
    arm_times: NDArray[np.float64] | None = None,
    targets: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Return the anchors of many start frames of one episode, [N, T + 1, A] float32."""
    starts = np.asarray(starts, dtype=np.int64)
    _check(len(times), starts, window_s, num_anchors)
    if len(states) != len(times) or rotation not in ROTATIONS:
        raise ValueError(
            f"{len(times)} times, {len(states)} states, rotation {rotation!r}; allowed: one time a "
            f"state, rotation {' or '.join(ROTATIONS)}"
        )
    query = _query_times(times, starts, window_s, num_anchors)
    slerp = rotation == "slerp"
    if targets is not None:
        chunks = interpolate(times, targets, query, slerp=slerp).astype(np.float32)
        chunks[:, 0] = states[starts]
        return chunks
    if arm_times is None:
        return interpolate(times, states, query, slerp=slerp).astype(np.float32)
    half = states.shape[1] // 2
    arms = [
        interpolate(arm_times[:, arm], states[:, part], query, slerp=slerp)
        for arm, part in enumerate((slice(0, half), slice(half, None)))
    ]
    return np.concatenate(arms, axis=-1).astype(np.float32)


def interpolate(
    times: NDArray[np.float64],
    states: NDArray[Any],
    query: NDArray[np.float64],
    *,
    slerp: bool = False,
) -> NDArray[np.float64]:
    """Return rows [..., A] of `states` [n, A] at `query` [...] in s, held beyond both ends."""
    if len(times) == 1:
        return np.broadcast_to(states[0].astype(np.float64), (*query.shape, states.shape[1]))
    query = np.clip(query, times[0], times[-1])
    high = np.clip(np.searchsorted(times, query), 1, len(times) - 1)
    low = high - 1
    fraction = (query - times[low]) / (times[high] - times[low])
    rows = states[low] + fraction[..., None] * (states[high].astype(np.float64) - states[low])
    if slerp:
        for part in ROTATION_SLICES:
            if part.stop <= states.shape[1]:
                rows[..., part] = slerp_rot6d(
                    states[low][..., part], states[high][..., part], fraction
                )
    return rows


def allowed_starts(length: int, *, fps: float, tail_s: float) -> int:
    """Return how many of an episode's first frames may start a sample; at least 1.

    The released code keeps the last 30 frames at 30 Hz (`tail_s` = 1) free of starts: chunks
    from there would be squeezed into less than a second.
    """
    return max(1, length - round(tail_s * fps))


def moving(chunks: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return [N], True where a chunk [N, T + 1, A] moves before its first anchor.

    A static start is one where no dimension of either arm changes by 1e-5 from row 0 to row 1.
    """
    return np.abs(chunks[:, 1] - chunks[:, 0]).max(axis=-1) >= STATIC_TOLERANCE


def training_starts(
    chunks: NDArray[np.float32], candidates: NDArray[np.int64], *, stride: int
) -> NDArray[np.int64]:
    """Return the start frames to train on: every `stride`-th candidate that moves.

    `chunks` [n, T + 1, A] are the anchors of all frames of the episode.
    """
    starts = candidates[::stride]
    return starts[moving(chunks[starts])]


def _query_times(
    times: NDArray[np.float64], starts: NDArray[np.int64], window_s: float, num_anchors: int
) -> NDArray[np.float64]:
    """Return [N, T + 1] in s, rounded to float32 as released."""
    first = times[starts]
    last = np.minimum(first + window_s, times[-1])
    step = (last - first) / num_anchors
    query = first[:, None] + np.arange(num_anchors + 1) * step[:, None]
    query[:, -1] = last
    return query.astype(np.float32).astype(np.float64)


def _check(length: int, starts: NDArray[np.int64], window_s: float, num_anchors: int) -> None:
    outside = starts[(starts < 0) | (starts >= length)]
    if len(outside):
        raise ValueError(
            f"start frame {int(outside[0])} is outside the episode; allowed: 0..{length - 1}"
        )
    if not 0 < window_s < np.inf:
        raise ValueError(f"prediction_window_s = {window_s}; it must be finite, above 0 s")
    if num_anchors < 1:
        raise ValueError(f"num_anchors = {num_anchors}; at least one anchor is needed")
