"""Pictures out of video files by time: files stay open, and only what is needed is decoded."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from numpy.typing import ArrayLike, NDArray

from xvla.data import memory
from xvla.data.readers.base import one_line
from xvla.data.readers.film import Film, end_ticks, start_ticks, tick_s, video_stream


def decode_frames(path: Path, times: ArrayLike, *, step_s: float) -> NDArray[np.uint8]:
    """Return the pictures nearest to `times` (any order, repeats allowed), [k, H, W, 3] RGB.

    Times are in s from the first picture, `step_s` lies between two rows of the table. Files stay
    open in their process: opening one costs as much as decoding a few frames.

    Raises:
        ValueError: the file cannot be opened or decoded, is damaged where a wanted picture lies,
            or ends before it.
    """
    own = _own()
    key: tuple[Any, ...] = ()
    try:
        status = os.stat(path)  # a file that was replaced is opened again
        key = (path, status.st_ino, status.st_size, status.st_mtime_ns)
        film = own.files.get(own, key, lambda: Film(path))
        return _pictures(own, film, np.asarray(times, dtype=np.float64), step_s)
    except (FFmpegError, OSError) as error:
        own.files.drop(own, key)
        raise ValueError(f"cannot decode {path} ({one_line(error)}); copy it again") from None
    except LookupError as error:
        raise ValueError(f"{path} has no {error.args[0]}; it is truncated, copy it again") from None


class Shown(NamedTuple):
    """How long a file's pictures are really there, in s, and how many a second it says."""

    length_s: float
    rate_hz: float


def look_through(path: Path, *, step_s: float) -> Shown:
    """Return what a file shows, without decoding it.

    The header's count is believed only as far as packets are really there: the tail is demuxed
    from the last keyframe on, so a truncated file with an intact header is found out.

    Raises:
        ValueError: the file is missing or cannot be opened.
    """
    try:
        with av.open(str(path)) as container:
            rate = video_stream(container).average_rate
            return Shown(_shown(container, step_s), float(rate or 1 / step_s))
    except FileNotFoundError:
        raise ValueError("missing; copy the dataset again") from None
    except (FFmpegError, OSError) as error:
        raise ValueError(f"not readable as video ({one_line(error)}); copy it again") from None


class _OpenFiles:
    """The videos that a process has open.

    A forked process opens its own: a shared handle would share its position. `to_rgb` keeps the
    tables of the last colour conversion, which cost more to make than to use.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self.to_rgb = VideoReformatter()
        self.files: memory.ByteCache[Film] = memory.ByteCache(
            memory.VIDEOS, size=lambda _: memory.VIDEO, close=lambda film: film.close()
        )


_OPEN = _OpenFiles()
# Libraries' contexts may own threads, which a fork does not copy: using or freeing one that was
# inherited would wait for them for ever. So the inherited ones are kept and never touched.
_INHERITED: list[_OpenFiles] = []


def _own() -> _OpenFiles:
    """Return the open files of this process."""
    global _OPEN
    if _OPEN.process != os.getpid():
        _INHERITED.append(_OPEN)
        _OPEN = _OpenFiles()
    return _OPEN


def _pictures(
    own: _OpenFiles, film: Film, times: NDArray[np.float64], step_s: float
) -> NDArray[np.uint8]:
    """Return the pictures at `times`, found in the order of time; LookupError names a time."""
    out = np.empty(0, dtype=np.uint8)
    last: av.VideoFrame | None = None
    place = 0
    for number in np.argsort(times, kind="stable").tolist():
        frame = film.nearest(float(times[number]), step_s=step_s)
        if frame is None:
            raise LookupError(f"picture at {times[number]:g} s")
        if not out.size:
            out = np.empty((len(times), frame.height, frame.width, 3), dtype=np.uint8)
        if frame is last:
            out[number] = out[place]
        else:
            _to_rgb(own, frame, out[number])
        last, place = frame, number
    return out


def _to_rgb(own: _OpenFiles, frame: av.VideoFrame, out: NDArray[np.uint8]) -> None:
    """Convert a picture into `out` [H, W, 3], with no other copy than out of its padded rows."""
    height, width, channels = out.shape
    if (frame.height, frame.width) != (height, width):
        raise OSError("its pictures change in size")
    plane = own.to_rgb.reformat(frame, format="rgb24", threads=1).planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    out[...] = rows[:height, : width * channels].reshape(out.shape)


def _shown(container: av.container.InputContainer, step_s: float) -> float:
    stream = video_stream(container)
    tick, start = tick_s(stream), start_ticks(container, stream)
    places = [start + stream.duration - int(step_s / tick)] if stream.duration else []
    for place in [*places, start]:  # all of it where nothing is left of the tail
        container.seek(place, stream=stream)
        ends = [
            end_ticks(packet.pts, packet.duration, step_s / tick)
            for packet in container.demux(stream)
            if packet.pts is not None and packet.size and not packet.is_corrupt
        ]
        if ends:
            return (max(ends) - start) * tick
    return 0.0
