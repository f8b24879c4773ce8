"""Owns encoding frames into one h264 video whose frames can be sought simply (no B-frames)."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoOptions:
    """How frames are encoded: libx264's rate factor (lower is better), preset, key-frame gap."""

    crf: int = 23
    preset: str = "veryslow"
    gop: int = 10


# Of time stamps that leave the grid of k / fps; the file's own clock is about as fine.
TICK = Fraction(1, 90_000)


class VideoWriter:
    """A context manager that appends uint8 [n, H, W, 3] blocks to an mp4 file.

    yuv420p, a key frame every `options.gop` frames, no B-frames: presentation order is coding
    order, and frame k has timestamp k / fps unless told otherwise. H and W must be even.
    """

    def __init__(
        self,
        path: str | Path,
        options: VideoOptions | None = None,
        *,
        fps: int,
        height: int,
        width: int,
    ) -> None:
        """Open the file; raises ValueError for odd sizes, which yuv420p cannot hold."""
        if height % 2 or width % 2:
            raise ValueError(f"video size {height} x {width}; both must be even for yuv420p")
        options = options or VideoOptions()
        self._container = av.open(str(path), "w")
        stream = self._container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, fps)
        stream.codec_context.thread_count = 1  # a few small pictures: threads only cost
        stream.options = {
            "crf": str(options.crf),
            "preset": options.preset,
            "g": str(options.gop),
            "keyint_min": str(options.gop),
            "sc_threshold": "0",
            "bf": "0",
        }
        self.fps, self._stream, self._count = fps, stream, 0
        self._times: dict[int, float] = {}  # of frames that are in the encoder

    def add(self, frames: np.ndarray, times: Sequence[float] | None = None) -> None:
        """Append frames, uint8 [n, H, W, 3]; `times` in s from the file's start must increase."""
        for place, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = self._count
            frame.time_base = self._stream.codec_context.time_base
            if times is not None:
                self._times[self._count] = float(times[place])
            self._mux(self._stream.encode(frame))
            self._count += 1

    def _mux(self, packets: list[av.Packet]) -> None:
        """Append packets at their frames' times; the encoder counts frames alone."""
        for packet in packets:
            time = self._times.pop(packet.pts if packet.pts is not None else -1, None)
            if time is not None:
                packet.duration = round((packet.duration or 1) * packet.time_base / TICK)
                packet.time_base = TICK
                packet.pts = packet.dts = round(time / TICK)
            self._container.mux(packet)

    def __enter__(self) -> "VideoWriter":
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Flush and close; after an error only close."""
        if kind is None:
            self._mux(self._stream.encode(None))
        self._container.close()
