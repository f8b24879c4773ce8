"""Episodes that cannot be decoded: replaced, counted, named, and too many of them stop the run."""

import itertools
import json
import logging
from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from make_lerobot import VIEWS, SetSpec, write_set
from make_official import write_v21
from official_layouts import expected_states

from xvla.config import DataConfig, DomainEntry
from xvla.data.caches import LoaderOptions
from xvla.data.loader import make_loader
from xvla.data.prepare import prepare_caches
from xvla.data.readers.base import DatasetError
from xvla.data.readers.lerobot_v3 import LeRobotV3
from xvla.data.sources import Mixture
from xvla.data.verify import verify_mixture

BROKEN = 2
SPLITS = {"train": "0:10", "val": "10:11"}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataConfig:
    """A set whose episode 2 lies beyond what its videos hold, found out only when it is read."""
    write_set(tmp_path / "sim_panda", SetSpec(lengths=[20] * 11, splits=SPLITS))
    real = LeRobotV3.frames

    def frames(self, index, view, indices):
        if index == BROKEN and view == VIEWS[1]:
            raise ValueError(f"cannot decode episode {index}")
        return real(self, index, view, indices)

    monkeypatch.setattr(LeRobotV3, "frames", frames)
    return DataConfig(
        mixture=[DomainEntry(name="sim_panda")],
        anchor_domain="sim_panda",
        image_size=24,
        tokenizer="demo",
        prediction_window_s=1.0,
        num_anchors=4,
        augmentation="none",
        root=str(tmp_path),
        batch_size=4,
        frame_cache_gib=0.0,
    )


def _keys(config: DataConfig, count: int, **options) -> tuple[list, dict]:
    chosen = LoaderOptions(max_failed_share=0.1)
    loader = make_loader(config, split="train", seed=0, options=chosen, **options)
    keys = []
    for _ in range(count):
        assert torch.isfinite(next(loader).images).all()
        keys += loader.last_keys
    return keys, loader.failures.episodes


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_counted_and_named(
    config: DataConfig, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="xvla.data"):
        keys, failed = _keys(replace(config, num_workers=workers), 25)
    assert len(keys) == 100
    assert BROKEN not in {episode for _, episode, _ in keys}
    assert failed == {("sim_panda", BROKEN): f"cannot decode episode {BROKEN}"}
    assert caplog.messages == [f"skipped sim_panda episode {BROKEN}: cannot decode episode 2"]


def test_the_rest_of_the_order_stays_and_ranks_agree(config: DataConfig) -> None:
    blind, _ = _keys(replace(config, decode_images=False), 25)
    keys, _ = _keys(config, 25)
    assert [a for a, b in zip(keys, blind, strict=True) if b[1] != BROKEN] == [
        key for key in blind if key[1] != BROKEN
    ]
    half = replace(config, batch_size=2)
    ranks = [_keys(half, 25, rank=rank, world_size=2)[0] for rank in (0, 1)]
    joined = [key for i in range(0, 50, 2) for rank in ranks for key in rank[i : i + 2]]
    assert joined == keys


def test_too_many_stop_the_run(config: DataConfig) -> None:
    loader = make_loader(config, split="train", seed=0)
    message = r"1 of 10 training episodes cannot be read \(sim_panda episode 2"
    with pytest.raises(ValueError, match=message):
        deque(itertools.islice(loader, 50))


def test_evaluation_never_skips(config: DataConfig, tmp_path: Path) -> None:
    write_set(tmp_path / "more/sim_panda", SetSpec(splits={"train": "0:2", "val": "2:3"}))
    loader = make_loader(replace(config, root=str(tmp_path / "more")), split="val", seed=0)
    with pytest.raises(ValueError, match="cannot decode episode 2"):
        list(loader)


def _write_really_broken(root: Path) -> None:
    """Twenty episodes of two tasks: a cut video, a missing table, a pose that is NaN."""
    states = [expected_states("Calvin", 25, i) for i in range(20)]
    states[4][7, 2] = np.nan
    write_v21(root, states)
    (root / "data/chunk-002/episode_000005.parquet").unlink()  # two episodes a chunk
    cut = root / "videos/chunk-003/observation.images.wrist/episode_000006.mp4"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    info = root / "meta/info.json"
    spans = {"train": "0:16", "val": "16:18", "test": "18:20"}
    info.write_text(json.dumps({**json.loads(info.read_text()), "splits": spans}))


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("checked", [False, True])
def test_files_that_cannot_be_read(
    config: DataConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    checked: bool,
    indexed: bool,
) -> None:
    """Small sets are checked when they are opened; of larger ones each episode as it is read."""
    if not checked:
        monkeypatch.setattr("xvla.data.readers.formats.checked_at_open", lambda _: False)
    root = tmp_path / "real"
    _write_really_broken(root / "sim_panda")
    config = replace(config, root=str(root), proprio_norm="none")
    options = LoaderOptions(max_failed_share=0.2, cache=str(tmp_path / "c") if indexed else "")
    if indexed:
        prepare_caches(Mixture.open(config), tmp_path / "c", yes=True, say=lambda _: None)
    loader = make_loader(config, split="train", seed=0, options=options)
    seen = set()
    for _ in range(40):
        assert torch.isfinite(next(loader).action).all()
        seen |= {episode for _, episode, _ in loader.last_keys}
    assert seen == {*range(16)} - {4, 5, 6}
    failed = loader.failures.episodes
    assert sorted(episode for _, episode in failed) == [4, 5, 6]
    assert "episode 4, observation.state: NaN or infinite" in failed["sim_panda", 4]
    assert "episode_000005.parquet, episode 5: missing" in failed["sim_panda", 5]
    assert "episode_000006.mp4" in failed["sim_panda", 6]
    with pytest.raises(ValueError, match="of 16 training episodes cannot be read"):
        deque(itertools.islice(make_loader(config, split="train", seed=0), 20))


def test_a_run_is_stopped_when_it_starts_by_too_many_or_by_one_to_evaluate(
    config: DataConfig, tmp_path: Path
) -> None:
    _write_really_broken(tmp_path / "real/sim_panda")
    config = replace(config, root=str(tmp_path / "real"))
    for episodes in (0, 1):
        entry = DomainEntry(name="sim_panda", num_episodes=episodes)
        with pytest.raises(DatasetError, match=r"NaN or infinite in 1 frames .*and 2 more prob"):
            verify_mixture(Mixture.open(replace(config, mixture=[entry])))
    borne = replace(config, max_failed_share=0.2)
    verify_mixture(Mixture.open(borne))
    (tmp_path / "real/sim_panda/data/chunk-008/episode_000017.parquet").unlink()
    info = tmp_path / "real/sim_panda/meta/info.json"
    info.write_text(info.read_text() + "\n")
    with pytest.raises(DatasetError, match=r"000017\.parquet, episode 17: missing"):
        verify_mixture(Mixture.open(borne))
    next(make_loader(borne, split="train", seed=0))
    with pytest.raises(DatasetError, match=r"000017\.parquet, episode 17: missing"):
        make_loader(borne, split="val", seed=0)


def test_share_outside_its_range() -> None:
    with pytest.raises(ValueError, match=r"max_failed_share=1\.5; allowed: a number, 0 to 1"):
        LoaderOptions(max_failed_share=1.5)
