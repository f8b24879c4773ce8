"""The definition of validation l1, by cases that can be done in the head."""

import numpy as np
import pandas as pd
import pytest

from scaling.runs.folder import Run
from scaling.training.evaluate import clustered_mean, frame_errors, per_episode, summarise
from scaling.training.validation import append_episodes, rank_parts

IDENTITY_6D = [1, 0, 0, 1, 0, 0]  # interleaved: R00, R01, R10, R11, R20, R21
QUARTER_TURN_6D = [0, -1, 1, 0, 0, 0]


def chunk(xyz=(0, 0, 0), rot=IDENTITY_6D, gripper=0.0, arms=1) -> np.ndarray:
    arm = [*xyz, *rot, gripper]
    second = arm if arms == 2 else [0] * 10
    return np.tile(np.array([*arm, *second], dtype=np.float32), (1, 30, 1))


def test_an_absent_arm_does_not_count() -> None:
    present = np.array([[True] * 10 + [False] * 10])
    errors = frame_errors(chunk(xyz=(0.1, 0, 0)), chunk(), present)
    assert errors["l1"][0] == pytest.approx(0.1 / 10)
    assert errors["l1_position_m"][0] == pytest.approx(0.1 / 3)
    assert errors["l1_rotation_deg"][0] == pytest.approx(0, abs=1e-4)


def test_two_arms_are_averaged() -> None:
    both = np.ones((1, 20), dtype=bool)
    errors = frame_errors(chunk(gripper=1.0, arms=2), chunk(arms=2), both)
    assert errors["l1"][0] == pytest.approx(0.1)
    assert errors["l1_gripper"][0] == pytest.approx(1.0)


def test_rotation_is_the_geodesic_angle() -> None:
    present = np.array([[True] * 10 + [False] * 10])
    errors = frame_errors(chunk(rot=QUARTER_TURN_6D), chunk(), present)
    assert errors["l1_rotation_deg"][0] == pytest.approx(90)


def test_clustered_standard_error() -> None:
    # Two clusters of two equal values: the error is that of two observations, not of four.
    mean, sem = clustered_mean(np.array([1.0, 1.0, 3.0, 3.0]), np.array([0, 0, 1, 1]))
    assert (mean, sem) == (2.0, pytest.approx(1.0))
    assert np.isnan(clustered_mean(np.ones(3), np.zeros(3))[1])


def table() -> pd.DataFrame:
    rows = [("a", 0, 0.1), ("a", 0, 0.3), ("a", 1, 0.4), ("b", 0, 1.0)]
    frame = pd.DataFrame(rows, columns=["domain", "episode", "l1"])
    for name in ("l1_position_m", "l1_rotation_deg", "l1_gripper"):
        frame[name] = frame["l1"]
    return frame


def test_summary_is_over_frames_of_the_anchor_domain() -> None:
    metrics = summarise(table(), anchor="a", prefix="val")
    assert metrics["val/l1"] == pytest.approx(0.8 / 3)
    assert metrics["val/l1_all"] == pytest.approx((0.8 / 3 + 1.0) / 2)
    assert metrics["val/l1/b"] == 1.0


def test_per_episode_rows() -> None:
    rows = per_episode(table(), step=7, split="val")
    assert list(rows.columns) == ["step", "split", "domain", "episode", "l1", "l1_position_m",
                                  "l1_rotation_deg", "l1_gripper", "num_frames"]  # fmt: skip
    first = rows.iloc[0]
    assert (first["l1"], first["num_frames"]) == (pytest.approx(0.2), 2)


@pytest.mark.parametrize(("count", "ranks"), [(500, 1), (500, 2), (500, 16), (3, 8), (0, 2)])
def test_ranks_share_the_frames(count: int, ranks: int) -> None:
    frames = [("a", 0, start) for start in range(count)]
    parts = [rank_parts(frames, 64, rank=rank, world_size=ranks) for rank in range(ranks)]
    batches = [batch for part in parts for batch in part]
    assert sorted(frame for batch in batches for frame in batch) == frames
    assert max((len(batch) for batch in batches), default=0) <= 64
    loads = [sum(map(len, part)) for part in parts]
    assert max(loads) - min(loads) <= 64
    assert sum(load > 0 for load in loads) == min(ranks, count)


def test_two_ranks_cut_many_frames_into_the_batches_of_one() -> None:
    frames = [("a", 0, start) for start in range(500)]
    one = rank_parts(frames, 64, rank=0, world_size=1)
    two = [rank_parts(frames, 64, rank=rank, world_size=2) for rank in (0, 1)]
    assert sorted([*two[0], *two[1]]) == one


def test_rows_of_a_step_are_replaced_and_a_damaged_table_is_named(tmp_path) -> None:
    for step, l1 in ((4, 1.0), (8, 2.0), (8, 3.0)):
        rows = per_episode(table(), step=step, split="val").assign(l1=l1)
        append_episodes(Run(tmp_path), rows)
    path = tmp_path / "val_episodes.parquet"
    kept = pd.read_parquet(path)
    assert kept.groupby("step")["l1"].unique().to_dict() == {4: [1.0], 8: [3.0]}
    assert list(tmp_path.iterdir()) == [path]
    path.write_bytes(b"PAR1")
    with pytest.raises(
        ValueError, match=r"val_episodes.parquet is damaged .* delete it and submit"
    ):
        append_episodes(Run(tmp_path), rows)
