"""Random pictures of one film: ours beside torchcodec (exact mode) and LeRobot's way with PyAV."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from data_sets import FPS, film

from xvla.data.readers.video import decode_frames
from xvla.data.writing.video import VideoOptions, VideoWriter

FRAMES = 8 * FPS
SIZES = ((224, 224), (480, 640))
GOPS = (2, 10, 60)
DRAWS = 40
Read = Callable[[int], np.ndarray]


def bench_films(folder: Path, *, repeats: int) -> dict[str, dict[str, float]]:
    """Print and return CPU ms a picture by film and reader, interleaved, medians of repeats."""
    found = {}
    for height, width in SIZES:
        pictures = film(FRAMES, seed=1, height=height, width=width)
        for gop in GOPS:
            path = folder / f"film-{height}-{gop}.mp4"
            options = VideoOptions(crf=23, preset="veryfast", gop=gop)
            with VideoWriter(path, options, fps=FPS, height=height, width=width) as writer:
                writer.add(pictures)
            name = f"{width} x {height}, GOP {gop}"
            found[name] = _timed(_readers(path), repeats)
            _say(name, found[name])
    return found


def _readers(path: Path) -> dict[str, Read]:
    readers: dict[str, Read] = {
        "LeRobot's way with PyAV": lambda k: as_lerobot(path, k),
        "ours": lambda k: decode_frames(path, [k / FPS], step_s=1 / FPS)[0],
    }
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError) as error:
        print(f"  torchcodec: ABSENT, no row ({str(error).splitlines()[0]})")
        return readers
    decoder: Any = VideoDecoder(str(path), seek_mode="exact", num_ffmpeg_threads=1)
    return {"torchcodec, exact": lambda k: decoder.get_frame_at(k).data, **readers}


def as_lerobot(path: Path, number: int) -> np.ndarray:
    """Open, seek to the key frame before, decode up to the time and take the nearest picture."""
    wanted, found = number / FPS, []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        container.seek(int(wanted / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            found.append((abs(float(frame.pts * stream.time_base) - wanted), frame))
            if float(frame.pts * stream.time_base) >= wanted:
                break
        return min(found, key=lambda one: one[0])[1].to_ndarray(format="rgb24")


def _timed(readers: dict[str, Read], repeats: int) -> dict[str, float]:
    ours = readers["ours"](77)
    for name, read in readers.items():
        picture = np.asarray(read(77))
        same = picture if picture.shape == ours.shape else picture.transpose(1, 2, 0)
        assert np.array_equal(same, ours), name
    found: dict[str, list[float]] = {name: [] for name in readers}
    for turn in range(repeats):
        numbers = np.random.default_rng(turn).integers(0, FRAMES, DRAWS).tolist()
        for name, read in readers.items():
            began = time.process_time()
            for number in numbers:
                read(number)
            found[name].append(1e3 * (time.process_time() - began) / DRAWS)
    return {name: statistics.median(values) for name, values in found.items()}


def _say(name: str, ms: dict[str, float]) -> None:
    parts = [
        f"{reader} {value:.2f} ms ({value / ms['ours']:.2f} x)" for reader, value in ms.items()
    ]
    print(f"  {name}: {', '.join(parts)}")
