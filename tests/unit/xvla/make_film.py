"""Small video files of many kinds whose pictures carry their number, and what reads them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SIDE = 64
BLOCKS = 4  # a row of so many blocks per side: 16 bits of a picture's number, then their opposites


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmSpec:
    """How a file is encoded; `times` in s of its pictures (by default k / fps)."""

    codec: str = "libx264"
    fps: int = 10
    frames: int = 64
    suffix: str = ".mp4"
    options: dict[str, str] = field(default_factory=dict)
    container: dict[str, str] = field(default_factory=dict)
    times: Sequence[float] | None = None

    def pts_s(self) -> np.ndarray:
        """Return the time of each picture."""
        return np.asarray(
            self.times if self.times is not None else np.arange(self.frames) / self.fps
        )


def picture(number: int) -> np.ndarray:
    """Return a picture [SIDE, SIDE, 3] uint8 that says its number in bright and dark blocks."""
    bits = np.array([number >> bit & 1 for bit in range(BLOCKS * BLOCKS // 2)])
    grid = np.concatenate([bits, 1 - bits]).reshape(BLOCKS, BLOCKS)
    grey = np.kron(40 + 170 * grid, np.ones((SIDE // BLOCKS, SIDE // BLOCKS)))
    noise = np.random.default_rng(number).normal(0, 12, (SIDE, SIDE))
    return np.repeat(np.clip(grey + noise, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def numbers_in(pictures: np.ndarray) -> list[int]:
    """Return the numbers that pictures [k, SIDE, SIDE, 3] say; -1 for one at odds with itself."""
    side = SIDE // BLOCKS
    means = pictures.reshape(-1, BLOCKS, side, BLOCKS, side, 3).mean(axis=(2, 4, 5))
    bits = (means > 125).reshape(len(pictures), 2, -1)
    whole = (bits[:, 0] != bits[:, 1]).all(axis=1)
    values = bits[:, 0] @ (1 << np.arange(bits.shape[2]))
    return np.where(whole, values, -1).tolist()


def write_film(path: Path, spec: FilmSpec) -> Path:
    """Write the file; picture k says k."""
    tick = Fraction(1, 90_000)
    with av.open(str(path), "w", options=spec.container) as container:
        stream = container.add_stream(spec.codec, rate=spec.fps)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.options = spec.options
        stream.codec_context.time_base = tick
        stream.codec_context.thread_count = 1
        for number, time in enumerate(spec.pts_s()):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = round(time / tick), tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
