"""Chunks of different windows are scored on the same frames, at the same times."""

from dataclasses import replace

import pytest
import torch
from make_lerobot import SetSpec, write_set

from xvla.config import DataConfig, DomainEntry
from xvla.data.evaluation import eval_frames
from xvla.data.horizon import Horizon, at_horizon, horizon_frames, horizon_targets
from xvla.data.normalise import Normaliser
from xvla.data.samples import SampleMaker
from xvla.data.sources import Mixture

WINDOWS = (0.8, 1.2, 1.6)
HORIZON = Horizon.of(WINDOWS)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    root = tmp_path_factory.mktemp("horizon")
    write_set(root / "sim_panda", SetSpec(two_arms=True))
    return DataConfig(
        mixture=[DomainEntry(name="sim_panda")],
        anchor_domain="sim_panda",
        tokenizer="demo",
        decode_images=False,
        root=str(root),
    )


def test_frames_have_the_largest_window_ahead(config: DataConfig) -> None:
    frames = horizon_frames(Mixture.open(config), "val", HORIZON)
    # 31 frames at 10 Hz: the last start that has 1.6 s ahead is 14.
    assert max(start for _, _, start in frames) == 14
    assert frames == [key for key in eval_frames(Mixture.open(config), "val") if key[2] <= 14]
    for window in WINDOWS:
        assert (
            horizon_frames(
                Mixture.open(replace(config, prediction_window_s=window)), "val", HORIZON
            )
            == frames
        )


@pytest.mark.parametrize("window", WINDOWS)
def test_perfect_chunks_have_no_error_on_any_window(config: DataConfig, window: float) -> None:
    # Anchors every 0.05 s: recorded frames and the eight times 0.1, 0.2, ... 0.8 s are on them.
    fine = replace(config, prediction_window_s=window, num_anchors=round(window / 0.05))
    keys = horizon_frames(Mixture.open(fine), "val", HORIZON)
    poses = SampleMaker(Mixture.open(fine), Normaliser()).poses(keys)
    proprio, chunk = torch.from_numpy(poses.proprio), torch.from_numpy(poses.action)
    found = at_horizon(proprio, chunk, window_s=window, horizon=HORIZON)
    assert found.shape == (len(keys), 8, 20)
    torch.testing.assert_close(
        found, horizon_targets(Mixture.open(fine), keys, HORIZON), atol=1e-6, rtol=0
    )


def test_coarse_chunks_are_interpolated_between_anchors(config: DataConfig) -> None:
    proprio = torch.zeros(1, 20)
    chunk = torch.tensor([1.0, 3.0]).view(1, 2, 1).expand(1, 2, 20)  # at 0.8 s and 1.6 s
    found = at_horizon(proprio, chunk, window_s=1.6, horizon=HORIZON)
    torch.testing.assert_close(found[0, :, 0], torch.arange(1, 9) / 8)
    moved = at_horizon(proprio, chunk, window_s=0.8, horizon=HORIZON)  # now at 0.4 s and 0.8 s
    torch.testing.assert_close(moved[0, 3:, 7], torch.tensor([1.0, 1.5, 2.0, 2.5, 3.0]))


def test_mistakes(config: DataConfig) -> None:
    with pytest.raises(ValueError, match=r"a window of 2.0 s is not compared on this horizon"):
        at_horizon(torch.zeros(1, 20), torch.zeros(1, 3, 20), window_s=2.0, horizon=HORIZON)
    with pytest.raises(ValueError, match=r"has 90\.0 s ahead of it"):
        horizon_frames(Mixture.open(config), "val", Horizon(smallest_s=1.0, largest_s=90.0))
    with pytest.raises(ValueError, match="the smallest must be above 0"):
        Horizon.of([0.0, 2.0])
