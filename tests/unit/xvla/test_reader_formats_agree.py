"""The simulated suite in LeRobot v2.1, v3.0 and X-VLA's HDF5 gives equal samples."""

import json
import shutil
from fractions import Fraction
from pathlib import Path

import av
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from xvla.config import DataConfig, DomainEntry
from xvla.data import open_dataset
from xvla.data.readers.base import Dataset
from xvla.data.readers.lerobot_meta import read_tasks
from xvla.data.samples import SampleMaker
from xvla.data.sources import Mixture
from xvla.domains import DEMO_ROOT

EPISODES = 2
# Which of X-VLA's layouts holds a set, and the rate that its meta file must state.
LAYOUT = {"sim_panda": "AIRBOT", "sim_kinova3_dual": "AIR-AGILEX-HQ"}

pytestmark = pytest.mark.skipif(
    not (DEMO_ROOT / "manifest.json").exists(), reason="the demo sets are not recorded yet"
)


def write_hdf5(root: Path, source: Dataset, name: str) -> None:
    """Write the first episodes as HDF5 with lossless pictures."""
    root.mkdir(parents=True)
    for index in range(EPISODES):
        times, states, task = source.episode(index)
        with h5py.File(root / f"{index}.hdf5", "w") as file:
            file["text"] = [task]
            for view in source.views:
                file[view] = source.frames(index, view, range(len(states)))
            if name == "sim_panda":
                file["eef_6d"] = np.hstack([states[:, :9], 1.0 - states[:, 9:10]])
                continue
            raw = states.astype(np.float64)
            raw[:, [9, 19]] = 0.07 * (1.0 - raw[:, [9, 19]])
            file["observations/eef_6d"] = raw
            file["observations/eef_left_time"] = times
            file["observations/eef_right_time"] = times
    meta = {
        "dataset_name": LAYOUT[name],
        "datalist": [f"{index}.hdf5" for index in range(EPISODES)],
        "observation_key": list(source.views),
        "language_instruction_key": "text",
        "freq": 10,
        "tail_margin": 10,
        "rotation": "rot6d_interleaved",
        "splits": {"train": f"0:{EPISODES}"},
    }
    (root / "meta.json").write_text(json.dumps(meta))


def write_v21(root: Path, source: Dataset, demo: Path) -> None:
    """Write the first episodes as LeRobot v2.1: the v3.0 set cut into one file an episode."""
    (root / "meta").mkdir(parents=True)
    info = json.loads((demo / "meta/info.json").read_text())
    info |= {
        "codebase_version": "v2.1",
        "chunks_size": 1000,
        "splits": {"train": f"0:{EPISODES}"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/"
        "episode_{episode_index:06d}.mp4",
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    tasks = read_tasks(demo)
    lines = [json.dumps({"task_index": i, "task": task}) for i, task in tasks.items()]
    (root / "meta/tasks.jsonl").write_text("\n".join(lines))
    lines = [
        json.dumps({"episode_index": e.id, "tasks": [e.task], "length": e.length})
        for e in source.episodes[:EPISODES]
    ]
    (root / "meta/episodes.jsonl").write_text("\n".join(lines))
    rows = pq.read_table(demo / "data/chunk-000/file-000.parquet", partitioning=None)
    first = 0
    for episode in source.episodes[:EPISODES]:
        data = root / f"data/chunk-000/episode_{episode.id:06d}.parquet"
        data.parent.mkdir(parents=True, exist_ok=True)
        part = rows.slice(first, episode.length)
        column = part.column_names.index("timestamp")
        stamps = pa.array((np.arange(episode.length) / 10).astype(np.float32))
        pq.write_table(part.set_column(column, "timestamp", stamps), data)
        for view in source.views:
            target = root / f"videos/chunk-000/{view}/episode_{episode.id:06d}.mp4"
            target.parent.mkdir(parents=True, exist_ok=True)
            cut(demo / f"videos/{view}/chunk-000/file-000.mp4", target, first, episode.length)
        first += episode.length


def cut(source: Path, target: Path, first: int, count: int) -> None:
    """Copy frames of a video without loss: its own planes, encoded at quantiser 0."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream("libx264", rate=10)
        stream.pix_fmt = "yuv420p"
        stream.options = {"qp": "0", "g": "10"}
        stream.codec_context.time_base = Fraction(1, 10)
        shown = old.streams.video[0]
        stream.width, stream.height = shown.width, shown.height
        for number, frame in enumerate(old.decode(video=0)):
            if number >= first + count:
                break
            if number >= first:
                frame.pts, frame.time_base = number - first, Fraction(1, 10)
                new.mux(stream.encode(frame))
        new.mux(stream.encode())


def maker(root: Path, name: str) -> SampleMaker:
    config = DataConfig(
        mixture=[DomainEntry(name=name)],
        anchor_domain=name,
        root=str(root),
        image_size=64,
        tokenizer="demo",
    )
    return SampleMaker(Mixture.open(config))


@pytest.mark.parametrize("name", LAYOUT)
def test_samples_are_equal(name: str, tmp_path: Path) -> None:
    demo = DEMO_ROOT / name
    source = open_dataset(demo)
    shutil.copytree(demo, tmp_path / "v3" / name)
    write_v21(tmp_path / "v21" / name, source, demo)
    write_hdf5(tmp_path / "hdf5" / name, source, name)
    length = source.episodes[1].length
    keys = [(name, 0, 0), (name, 1, 13), (name, 0, 40), (name, 1, length - 12)]
    expected = maker(tmp_path / "v3", name).make(keys)
    for other in ("v21", "hdf5"):
        samples = maker(tmp_path / other, name)
        assert samples.sources[name].dataset.episodes[1].task == source.episodes[1].task
        assert (
            samples.starts(name, 1).tolist()
            == maker(tmp_path / "v3", name).starts(name, 1).tolist()
        )
        batch = samples.make(keys)
        for field in ("input_ids", "images", "view_mask", "domain_id", "proprio", "action"):
            ours, theirs = getattr(batch, field), getattr(expected, field)
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs), f"{other}: {field} differs"
