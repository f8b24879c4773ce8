"""Random samples a second and core, an index of 290K episodes, and the wait for data.

    make bench-data                               frames, films and index, about five minutes
    python tests/bench/data.py --parts films      readers of one film at 224 px and 640 x 480
    python tests/bench/data.py --parts wait       the 50M model on one core, the loader on another

A sample is three views of 224 px, h264. The baseline opens the file, seeks and decodes for each
frame; the limit is decoding the files from end to end. CPU time, medians of interleaved repeats.
Beside it stand torchcodec (exact mode) and a reader as LeRobot's with PyAV. torchcodec is no
dependency: its row is left out, and said to be, where it cannot be imported. It needs FFmpeg's
libraries: `pip install --no-deps --target FOLDER torchcodec==0.13.0`, a folder of links to those in
site-packages/av.libs (libavcodec.so.62 to libavcodec-*.so.62.*, ...) as LD_LIBRARY_PATH.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from data_films import bench_films
from data_sets import DOMAIN, FPS, VIEWS, cached, data_config, filmed_set, long_config, long_set

from xvla.data.caches import LoaderOptions
from xvla.data.frame_cache import FrameCache
from xvla.data.loader import make_loader
from xvla.data.order import SampleOrder
from xvla.data.readers.lerobot_v3 import LeRobotV3

GOPS = (2, 10, 60)
SIZES = (1_000, 10_000, 100_000, 290_000)
OURS = ("raw cache", "jpeg cache")
TARGETS = {2: 2.5, 10: 2.5, 60: 8.0}
Frames = list[tuple[int, int]]  # (episode, frame) of a sample


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    if args.child:
        print(json.dumps(open_long_set(Path(args.child))))
        return
    result: dict = {"name": "data", "repeats": args.repeats}
    with tempfile.TemporaryDirectory() as folder:
        if "frames" in args.parts:
            result |= bench_frames(Path(folder), args)
        if "films" in args.parts:
            result["films"] = bench_films(Path(folder), repeats=args.repeats)
        if "index" in args.parts:
            result |= bench_index(Path(folder), args)
        if "wait" in args.parts:
            result |= bench_wait(Path(folder), args)
    print(json.dumps(result))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--parts", nargs="+", default=["frames", "films", "index"])
    parser.add_argument("--episodes", type=int, default=6, help="episodes of a filmed set")
    parser.add_argument("--steps", type=int, default=6, help="training steps of part wait")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def bench_frames(folder: Path, args: argparse.Namespace) -> dict:
    """Compare readers on random samples of the same sets."""
    rows, ratios, shares = [], {}, {}
    for gop in GOPS:
        root, cache = folder / f"gop{gop}", folder / f"cache{gop}"
        dataset = filmed_set(root, gop=gop, episodes=args.episodes, seconds=8)
        print(f"GOP {gop}: {args.episodes} episodes of 8 s, {video_kib(dataset):.1f} KiB a frame")
        ms = {name: 1e3 * value for name, value in time_readers(dataset, cache, args).items()}
        ms |= time_loaders(root, cache, args)
        rows += [(gop, name, value) for name, value in ms.items()]
        ratios[gop] = {name: ms["open, seek, decode"] / ms[name] for name in OURS}
        shares[gop] = {name: ms["sequential limit"] / ms[name] for name in OURS}
        print_readers(gop, ms)
    print("targets: x2.5 at GOP 2, x8 at GOP 60, 50 % of the sequential limit at each")
    last = {name: value for gop, name, value in rows if gop == GOPS[-1]}
    met = {
        name: all(ratios[g][name] >= TARGETS[g] and shares[g][name] >= 0.5 for g in GOPS)
        for name in OURS
    }
    print("all met: " + ", ".join(f"{name}: {'yes' if met[name] else 'no'}" for name in OURS))
    return {
        "ratio": round(ratios[GOPS[-1]][OURS[0]], 2),
        "baseline_s": last["open, seek, decode"] / 1e3,
        "ours_s": last[OURS[0]] / 1e3,
        "ratios": ratios,
        "share_of_sequential": shares,
        "met": met,
    }


def time_readers(dataset: LeRobotV3, cache: Path, args: argparse.Namespace) -> dict[str, float]:
    """Return CPU seconds a frame of each way to read random samples."""
    caches = {codec: FrameCache(dataset, *cached(dataset, cache, codec)) for codec in
              ("jpeg", "raw")}  # fmt: skip
    readers: dict[str, tuple[int, Callable[[Frames], int]]] = {
        "open, seek, decode": (16, lambda frames: naive(dataset, frames)),
        "sequential limit": (0, lambda _: sequential(dataset)),
        "open files kept": (32, lambda frames: from_video(dataset, frames)),
        "jpeg cache": (128, lambda frames: from_cache(caches["jpeg"], frames)),
        "raw cache": (128, lambda frames: from_cache(caches["raw"], frames)),
    }
    check_equal(dataset, caches)
    found: dict[str, list[float]] = {name: [] for name in readers}
    for turn in range(args.repeats):
        for name, (samples, read) in readers.items():
            frames = random_frames(dataset, samples, seed=turn)
            began = time.process_time()
            count = read(frames)
            found[name].append((time.process_time() - began) / count)
    return {name: statistics.median(values) for name, values in found.items()}


def time_loaders(root: Path, cache: Path, args: argparse.Namespace) -> dict[str, float]:
    """Return CPU ms a frame of whole batches: pixels, normalisation, poses, tokens."""
    found: dict[str, list[float]] = {}
    loaders = {
        f"loader, {frames}, {augmentation}": make_loader(
            data_config(root, augmentation=augmentation),
            split="train",
            seed=0,
            options=LoaderOptions(cache=str(cache), frames=frames),
        )
        for frames, augmentation in (("raw", "none"), ("jpeg", "none"), ("raw", "color_jitter"))
    }
    for turn in range(args.repeats + 1):
        for name, loader in loaders.items():
            began = time.process_time()
            count = sum(len(next(loader)) for _ in range(4)) * len(VIEWS)
            if turn:  # the first turn lists start frames and fills tables
                found.setdefault(name, []).append(1e3 * (time.process_time() - began) / count)
    return {name: statistics.median(values) for name, values in found.items()}


def print_readers(gop: int, ms: dict[str, float]) -> None:
    base, limit = ms["open, seek, decode"], ms["sequential limit"]
    print(f"  {'':28}{'ms/frame':>9}{'samples/s':>11}{'ratio':>8}{'of limit':>10}")
    for name, value in ms.items():
        rate = 1e3 / value / len(VIEWS)
        print(f"  {name:28}{value:9.3f}{rate:11.0f}{base / value:8.1f}{limit / value:10.0%}")


def video_kib(dataset: LeRobotV3) -> float:
    files = list(Path(dataset.path, "videos").rglob("*.mp4"))
    frames = sum(e.length for e in dataset.episodes) * len(dataset.views)
    return sum(file.stat().st_size for file in files) / frames / 1024


def random_frames(dataset: LeRobotV3, count: int, *, seed: int) -> Frames:
    rng = np.random.default_rng(seed)
    episodes = rng.integers(0, len(dataset.episodes), count).tolist()
    return [(e, int(rng.integers(0, dataset.episodes[e].length))) for e in episodes]


def naive(dataset: LeRobotV3, frames: Frames) -> int:
    """Open the file, seek, decode up to the frame; for each view of each sample."""
    for episode, frame in frames:
        for view in VIEWS:
            first = dataset.slots.clips[view].start_s[episode] * FPS
            naive_frame(dataset.video_file(episode, view), round(first) + frame)
    return len(frames) * len(VIEWS)


def naive_frame(path: Path, number: int) -> np.ndarray:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        container.seek(int((number + 0.5) / FPS / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if round(frame.pts * stream.time_base * FPS) >= number:
                return np.asarray(frame.to_ndarray(format="rgb24"))
    raise ValueError(f"{path} has no frame {number}")


def sequential(dataset: LeRobotV3) -> int:
    """Decode every video from end to end, with the cheapest colour conversion there is."""
    count, to_rgb = 0, VideoReformatter()
    for view in VIEWS:
        with av.open(str(dataset.video_file(0, view))) as container:
            container.streams.video[0].codec_context.thread_count = 1
            for frame in container.decode(video=0):
                to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
                count += 1
    return count


def from_video(dataset: LeRobotV3, frames: Frames) -> int:
    for episode, frame in frames:
        for view in VIEWS:
            dataset.frames(episode, view, [frame])
    return len(frames) * len(VIEWS)


def from_cache(cache: FrameCache, frames: Frames) -> int:
    for episode, frame in frames:
        assert cache.get(episode, frame) is not None
    return len(frames) * len(VIEWS)


def check_equal(dataset: LeRobotV3, caches: dict[str, FrameCache]) -> None:
    """Stop if the ways compared do not give the same pictures; print what JPEG changes."""
    gaps = []
    for episode, frame in random_frames(dataset, 8, seed=99):
        exact = np.stack([dataset.frames(episode, view, [frame])[0] for view in VIEWS])
        start = round(dataset.slots.clips[VIEWS[0]].start_s[episode] * FPS)
        first = naive_frame(dataset.video_file(episode, VIEWS[0]), start + frame)
        assert np.array_equal(exact[0], first)
        exact = exact.transpose(0, 3, 1, 2).astype(int)
        found = {codec: cache.get(episode, frame) for codec, cache in caches.items()}
        assert found["raw"] is not None
        assert found["jpeg"] is not None
        assert np.array_equal(found["raw"], exact)
        gaps.append(np.abs(found["jpeg"] - exact))
    print(f"  jpeg differs by {np.mean(gaps):.2f} grey levels on average, raw by none")


def bench_index(folder: Path, args: argparse.Namespace) -> dict:
    """Open made-up sets of several lengths, each in a process of its own."""
    heads = ("episodes", "open s", "CPU s", "first s", "MB", "MB anon", "us/pose", "ms/sample")
    print("".join(f"{head:>10}" for head in heads))
    found = {}
    for size in SIZES:
        root = folder / f"long{size}"
        long_set(root, root / "cache", size)
        command = [sys.executable, __file__, "--child", str(root)]
        runs = [json.loads(subprocess.check_output(command)) for _ in range(min(3, args.repeats))]
        found[size] = one = {k: statistics.median(run[k] for run in runs) for k in runs[0]}
        print(f"{size:10}" + "".join(f"{value:10.2f}" for value in one.values()))
    began = time.process_time()
    SampleOrder({DOMAIN: 1.0}, {DOMAIN: 90_000_000}, 0).samples(12_345_678, 1024)
    order_s = time.process_time() - began
    print(f"  order of 90,000,000 start frames from sample 12,345,678: {order_s:.2f} s")
    print("targets: open 1 s, first sample 3 s, 300 MB, a sample's cost the same in each row;")
    print("MB is what opening and 400 samples add to a process that has torch and our modules")
    return {"index": {str(size): value for size, value in found.items()}, "order_s": order_s}


def open_long_set(root: Path) -> dict[str, float]:
    """Measure one process: opening, the first sample, later samples, memory added."""
    config = long_config(root)
    options = LoaderOptions(cache=str(root / "cache"))
    before = memory_mb()
    began, began_cpu = time.perf_counter(), time.process_time()
    loader = make_loader(config, split="train", seed=0, options=options)
    opened, opened_cpu = time.perf_counter(), time.process_time()
    next(loader)
    first = time.perf_counter()
    sample_s = per_sample(loader, 100)
    blind = make_loader(
        long_config(root, decode_images=False), split="train", seed=0, options=options
    )
    next(blind)
    pose_s = per_sample(blind, 300)
    after = memory_mb()
    return {
        "open_s": opened - began,
        "open_cpu_s": opened_cpu - began_cpu,
        "first_s": first - began,
        "mb": after["VmRSS"] - before["VmRSS"],
        "mb_anon": after["RssAnon"] - before["RssAnon"],
        "pose_us": 1e6 * pose_s,
        "sample_ms": 1e3 * sample_s,
    }


def per_sample(loader, count: int) -> float:
    began = time.process_time()
    for _ in range(count):
        next(loader)
    return (time.process_time() - began) / count


def memory_mb() -> dict[str, float]:
    lines = Path("/proc/self/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return {key: int(values[key].split()[0]) / 1024 for key in ("VmRSS", "RssAnon")}


def bench_wait(folder: Path, args: argparse.Namespace) -> dict:
    """Train the 50M model on one core, micro-batch 1, while a worker loads on another."""
    from scaling.sizes import SIZES as MODELS
    from xvla.model import XVLA

    root = folder / "wait"
    filmed_set(root, gop=10, episodes=2, seconds=8)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[-1:])  # the worker is forked here and stays on this core
    config = data_config(root, batch_size=1, augmentation="color_jitter", num_workers=1)
    loader = make_loader(config, split="train", seed=0)
    os.sched_setaffinity(0, cores[:1])
    model = XVLA(MODELS["50m"]).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    waits, steps = [], []
    for step in range(args.steps + 1):
        began = time.perf_counter()
        batch = next(loader)
        arrived = time.perf_counter()
        torch.stack(list(model(batch).values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        if step:  # the first one starts the worker
            waits.append(arrived - began)
            steps.append(time.perf_counter() - began)
    share = sum(waits) / sum(steps)
    print(f"  50m, micro-batch 1, 3 views: step {statistics.median(steps):.2f} s, waiting for data "
          f"{share:.2%} of it (target 5 %), {len(cores)} cores")  # fmt: skip
    return {"wait_share": share, "step_s": statistics.median(steps)}


if __name__ == "__main__":
    main()
