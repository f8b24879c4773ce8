"""Write small sets in X-VLA's own layouts and in LeRobot v2.1, without the package's code."""

import io
import json
from pathlib import Path

import av
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from official_layouts import LAYOUTS, Motion, motions
from PIL import Image

TASK = "lift the red cube"
KEYS = ("observation/third_image", "observation/wrist_image")
SIZE = 16


def level(episode: int, frame: int, view: int) -> int:
    """Grey level that tells a picture's episode, frame and view, in steps of 4."""
    return 20 + 4 * ((frame + 7 * episode + 3 * view) % 50)


def picture(episode: int, frame: int, view: int) -> np.ndarray:
    """A picture with a red left half above its grey level, so that swapped channels show."""
    image = np.full((SIZE, SIZE, 3), level(episode, frame, view), np.uint8)
    image[:, : SIZE // 2, 0] = 255
    return image


def encode(image: np.ndarray, kind: str = "PNG") -> np.ndarray:
    """Encoded bytes of a picture, uint8 [m]."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return np.frombuffer(stream.getvalue(), np.uint8)


def write_hdf5(path: Path, name: str, frames: int, episode: int, pictures: str = "png") -> None:
    """Write one episode; `pictures`: png, jpeg (variable bytes), padded (fixed width) or raw."""
    with h5py.File(path, "w") as file:
        for key, values in LAYOUTS[name].arrays(*motions(name, frames, episode)).items():
            file[key] = values
        file["language_instruction"] = TASK if episode % 2 == 0 else "put it down"
        # libero stores one picture more than poses: the first is dropped.
        shift = 1 if name == "libero" else 0
        for view, key in enumerate(KEYS):
            shown = [picture(episode, f - shift, view) for f in range(frames + shift)]
            if pictures == "raw":
                file[key] = np.stack(shown)
                continue
            coded = [encode(image, "PNG" if pictures == "png" else "JPEG") for image in shown]
            if pictures == "padded":
                width = max(len(code) for code in coded)
                file[key] = np.stack([np.pad(code, (0, width - len(code))) for code in coded])
                continue
            kind = h5py.vlen_dtype(np.uint8)
            rows = file.create_dataset(key, (len(coded),), dtype=kind)
            for i, code in enumerate(coded):
                rows[i] = code


def write_set(
    root: Path, name: str, lengths: tuple[int, ...] = (90, 75), pictures: str = "png"
) -> Path:
    """Write a set of HDF5 episodes and its meta JSON into the new folder `root`; return it."""
    (root / "episodes").mkdir(parents=True)
    for episode, frames in enumerate(lengths):
        write_hdf5(root / f"episodes/{episode}.hdf5", name, frames, episode, pictures)
    write_meta(root, name, [f"episodes/{i}.hdf5" for i in range(len(lengths))])
    return root


def write_meta(root: Path, name: str, datalist: list, **changes: object) -> None:
    meta = {
        "dataset_name": name,
        "datalist": datalist,
        "observation_key": list(KEYS),
        "language_instruction_key": "language_instruction",
        **(LAYOUTS[name].meta if name in LAYOUTS else {}),
        **changes,
    }
    (root / "meta.json").write_text(json.dumps(meta))


AGIBOT_VIEWS = tuple(f"observation.images.{v}" for v in ("head", "hand_left", "hand_right"))


def agibot_motions(frames: int, episode: int) -> tuple[Motion, Motion]:
    times = np.arange(frames) / 30.0
    return Motion(times, 0, 1.0 + 0.1 * episode), Motion(times, 1, 1.5)


def agibot_states(frames: int, episode: int) -> np.ndarray:
    return np.hstack([m.state() for m in agibot_motions(frames, episode)])


def write_agibot(root: Path, lengths: tuple[int, ...] = (100, 80), name: str = "AGIBOT") -> Path:
    """Write AGIBOT's layout: a meta JSON over parquet and mp4 episodes below a top path."""
    items = []
    for episode, frames in enumerate(lengths):
        a, b = agibot_motions(frames, episode)
        data = root / f"top/data/chunk-000/episode_{episode:06d}.parquet"
        data.parent.mkdir(parents=True, exist_ok=True)
        columns = {
            "actions.end.position": np.stack([a.xyz(), b.xyz()], axis=1).tolist(),
            "actions.end.orientation": np.stack([a.quat(), b.quat()], axis=1).tolist(),
            "actions.effector.position": np.hstack([a.closed(), b.closed()]).tolist(),
        }
        pq.write_table(pa.table(columns), data)
        for number, view in enumerate(AGIBOT_VIEWS):
            path = root / f"top/videos/chunk-000/{view}/episode_{episode:06d}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, [level(episode, f, number) for f in range(frames)], fps=30)
        segments = [
            {"start_frame": 5, "end_frame": 40, "action_text": "reach"},
            {"start_frame": 40, "end_frame": frames, "action_text": "lift"},
        ]
        items.append(
            {
                "top_path": "top",
                "episode_index": episode,
                "tasks": [f"{TASK} | reach | lift"],
                "length": frames,
                "action_config": segments,
            }
        )
    root.mkdir(exist_ok=True)
    (root / "agibot.json").write_text(json.dumps({"dataset_name": name, "datalist": items}))
    return root


def write_video(path: Path, levels: list[int], *, fps: int, size: int = 32) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "10", "g": "10"}
        for grey in levels:
            image = np.full((size, size, 3), grey, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def write_v21(
    root: Path, states: list[np.ndarray], *, fps: int = 10, views: tuple[str, ...] = ()
) -> Path:
    """Write a LeRobot v2.1 set of poses [n, 20] with grey videos; returns `root`."""
    views = views or ("observation.images.front", "observation.images.wrist")
    (root / "meta").mkdir(parents=True)
    features = {
        "observation.state": {"dtype": "float32", "shape": [20]},
        **{v: {"dtype": "video", "shape": [32, 32, 3]} for v in views},
        "timestamp": {"dtype": "float32", "shape": [1]},
    }
    info = {
        "codebase_version": "v2.1",
        "robot_type": "test_arm",
        "total_episodes": len(states),
        "chunks_size": 2,
        "fps": fps,
        "splits": {"train": f"0:{len(states)}"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/"
        "episode_{episode_index:06d}.mp4",
        "features": features,
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    tasks = [TASK, "put it down"]
    lines = [json.dumps({"task_index": i, "task": t}) for i, t in enumerate(tasks)]
    (root / "meta/tasks.jsonl").write_text("\n".join(lines) + "\n")
    lines = [
        json.dumps({"episode_index": i, "tasks": [tasks[i % 2]], "length": len(rows)})
        for i, rows in enumerate(states)
    ]
    (root / "meta/episodes.jsonl").write_text("\n".join(lines) + "\n")
    for episode, rows in enumerate(states):
        chunk = f"chunk-{episode // 2:03d}"
        data = root / f"data/{chunk}/episode_{episode:06d}.parquet"
        data.parent.mkdir(parents=True, exist_ok=True)
        n = len(rows)
        columns = {
            "observation.state": list(rows.astype(np.float32)),
            "timestamp": (np.arange(n) / fps).astype(np.float32),
            "frame_index": np.arange(n),
            "episode_index": np.full(n, episode),
            "task_index": np.full(n, episode % 2),
        }
        pq.write_table(pa.table(columns), data)
        for number, view in enumerate(views):
            path = root / f"videos/{chunk}/{view}/episode_{episode:06d}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, [level(episode, f, number) for f in range(n)], fps=fps)
    return root
