"""Make tiny LeRobot v3.0 sets with a closed-form motion, independently of the package's writer."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FPS = 10
VIEWS = ("observation.images.front", "observation.images.wrist")
RADIUS_M, TURN_RAD_S, CLIMB_M_S, SPIN_RAD_S = 0.1, 0.7, 0.02, 0.4


@dataclass
class SetSpec:
    """What the made set holds; the fields after `size` break it in one way each."""

    lengths: list[int] = field(default_factory=lambda: [30, 35, 40, 33, 31, 36])
    splits: dict[str, str] = field(
        default_factory=lambda: {"train": "0:4", "val": "4:5", "test": "5:6"}
    )
    two_arms: bool = False
    views: tuple[str, ...] = VIEWS
    size: int = 32
    version: str = "v3.0"
    video_frames_missing: int = 0
    nan_in: str = ""
    task_text: str = "lift the cube"
    task_rows: int = 2


def helix(times_s: np.ndarray, phase: float, two_arms: bool = False) -> np.ndarray:
    """States [n, 20] of a helix: position, rotation about z, a gripper that closes."""
    times_s = np.asarray(times_s, dtype=np.float64)
    states = np.zeros((len(times_s), 20))
    for arm in range(2 if two_arms else 1):
        angle = TURN_RAD_S * times_s + phase + arm
        spin = SPIN_RAD_S * times_s + phase
        zero, one = np.zeros_like(spin), np.ones_like(spin)
        columns = [
            RADIUS_M * np.cos(angle),
            RADIUS_M * np.sin(angle),
            CLIMB_M_S * times_s,
            # R = Rz(spin): first two columns, row by row
            *(np.cos(spin), -np.sin(spin), np.sin(spin), np.cos(spin), zero, zero),
            np.where(times_s > 1.5, one, zero),
        ]
        states[:, 10 * arm : 10 * arm + 10] = np.stack(columns, axis=1)
    return states


def pixel(episode: int, frame: int, view: int) -> int:
    """Grey level of a frame, so that a decoded frame tells which one it is (steps of 4)."""
    return 20 + 4 * ((frame + 7 * episode + 3 * view) % 50)


def write_set(root: Path, spec: SetSpec | None = None) -> Path:
    """Write the set into the new folder `root` and return it."""
    spec = spec or SetSpec()
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    (root / "data/chunk-000").mkdir(parents=True)
    _write_info(root, spec)
    tasks = [spec.task_text, "put it down"][: spec.task_rows]
    _write(
        root / "meta/tasks.parquet",
        {"task_index": list(range(len(tasks))), "__index_level_0__": tasks},
    )
    _write_data(root, spec)
    _write_episodes(root, spec)
    for number, view in enumerate(spec.views):
        _write_video(root, spec, number, view)
    return root


def _write(path: Path, columns: dict[str, list]) -> None:
    pq.write_table(pa.table(columns), path)


def _write_info(root: Path, spec: SetSpec) -> None:
    shape = [spec.size, spec.size, 3]
    features = {
        "observation.state": {"dtype": "float32", "shape": [20]},
        **{view: {"dtype": "video", "shape": shape} for view in spec.views},
        "action": {"dtype": "float32", "shape": [20]},
    }
    info = {
        "codebase_version": spec.version,
        "fps": FPS,
        "features": features,
        "splits": spec.splits,
        "total_episodes": len(spec.lengths),
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    (root / "meta/info.json").write_text(json.dumps(info))


def _write_data(root: Path, spec: SetSpec) -> None:
    columns: dict[str, list] = {
        key: []
        for key in ("observation.state", "action", "timestamp", "frame_index", "episode_index")
    }
    columns["task_index"] = []
    for episode, length in enumerate(spec.lengths):
        times = np.arange(length) / FPS
        states = helix(times, phase=0.3 * episode, two_arms=spec.two_arms).astype(np.float32)
        action = np.concatenate([states[1:], states[-1:]])
        if spec.nan_in and episode == 1:
            {"observation.state": states, "action": action}[spec.nan_in][5, 2] = np.nan
        columns["observation.state"] += list(states)
        columns["action"] += list(action)
        columns["timestamp"] += list(times.astype(np.float32))
        columns["frame_index"] += list(range(length))
        columns["episode_index"] += [episode] * length
        columns["task_index"] += [episode % 2] * length
    _write(root / "data/chunk-000/file-000.parquet", columns)


def _write_episodes(root: Path, spec: SetSpec) -> None:
    starts = np.concatenate([[0], np.cumsum(spec.lengths)])
    columns = {
        "episode_index": list(range(len(spec.lengths))),
        "length": spec.lengths,
        "dataset_from_index": starts[:-1].tolist(),
        "dataset_to_index": starts[1:].tolist(),
    }
    for view in spec.views:
        columns[f"videos/{view}/chunk_index"] = [0] * len(spec.lengths)
        columns[f"videos/{view}/file_index"] = [0] * len(spec.lengths)
        columns[f"videos/{view}/from_timestamp"] = (starts[:-1] / FPS).tolist()
        columns[f"videos/{view}/to_timestamp"] = (starts[1:] / FPS).tolist()
    _write(root / "meta/episodes/chunk-000/file-000.parquet", columns)


def _write_video(root: Path, spec: SetSpec, number: int, view: str) -> None:
    path = root / f"videos/{view}/chunk-000/file-000.mp4"
    path.parent.mkdir(parents=True)
    grey = [pixel(e, f, number) for e, length in enumerate(spec.lengths) for f in range(length)]
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width = stream.height = spec.size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "10", "g": "10"}
        for level in grey[: len(grey) - spec.video_frames_missing]:
            image = np.full((spec.size, spec.size, 3), level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
