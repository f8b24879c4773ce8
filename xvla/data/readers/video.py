"""Frames out of mp4 files by number: seek to the keyframe before, decode only what is needed."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from xvla.data import memory
from xvla.data.readers.base import one_line

# Between two wanted frames this far apart a new seek is cheaper than decoding what lies between.
SEEK_GAP_FRAMES = 24


def decode_frames(path: Path, numbers: Sequence[int], *, fps: float) -> NDArray[np.uint8]:
    """Return the frames with the given numbers (any order, repeats allowed), [k, H, W, 3] RGB.

    A frame's number is its presentation time from the start of the stream times `fps`. Files stay
    open in their process: opening one costs as much as decoding a few frames.

    Raises:
        ValueError: the file cannot be opened or decoded, is damaged where a wanted frame lies, or
            ends before it.
    """
    wanted = sorted({int(number) for number in numbers})
    found: dict[int, NDArray[np.uint8]] = {}
    own = _own()
    key: tuple[Any, ...] = ()
    try:
        status = os.stat(path)  # a file that was replaced is opened again
        key = (path, status.st_ino, status.st_size, status.st_mtime_ns)
        container = own.files.get(own, key, lambda: _open(path))
        for run in _runs(wanted):
            _decode_run(container, run, fps, found)
    except (FFmpegError, OSError) as error:
        own.files.drop(own, key)
        raise ValueError(f"cannot decode {path} ({one_line(error)}); copy it again") from None
    missing = [number for number in wanted if number not in found]
    if missing:
        raise ValueError(f"{path} has no frame {missing[0]}; it is truncated, copy it again")
    return np.stack([found[int(number)] for number in numbers])


def count_frames(path: Path, *, fps: float) -> int:
    """Return how many frames the file really holds, without decoding them.

    The header's count is believed only as far as packets are really there: the tail is demuxed
    from the last keyframe on, so a truncated file with an intact header is found out.

    Raises:
        ValueError: the file is missing or cannot be opened.
    """
    try:
        with av.open(str(path)) as container:
            stream = _stream(container)
            return _last_frame_number(container, stream, fps) + 1
    except FileNotFoundError:
        raise ValueError("missing; copy the dataset again") from None
    except (FFmpegError, OSError) as error:
        raise ValueError(f"not readable as video ({one_line(error)}); copy it again") from None


class _OpenFiles:
    """The containers that a process has open.

    A forked process opens its own: a shared handle would share its position. `to_rgb` keeps the
    tables of the last colour conversion, which cost more to make than to use.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self.to_rgb = VideoReformatter()
        self.files: memory.ByteCache[av.container.InputContainer] = memory.ByteCache(
            memory.VIDEOS, size=lambda _: memory.VIDEO, close=lambda file: file.close()
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


def _open(path: Path) -> av.container.InputContainer:
    container = av.open(str(path))
    try:
        codec = _stream(container).codec_context
        codec.thread_count = 1
        # The decoder conceals damage by default: a plausible but wrong picture.
        codec.options = {"err_detect": "explode"}
    except BaseException:
        container.close()
        raise
    return container


def _stream(container: av.container.InputContainer) -> av.video.stream.VideoStream:
    if not container.streams.video:
        raise OSError("it has no video stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise OSError("its video stream is of no known codec")
    return stream


def _decode_run(
    container: av.container.InputContainer,
    run: list[int],
    fps: float,
    found: dict[int, NDArray[np.uint8]],
) -> None:
    stream = _stream(container)
    container.seek(_pts(stream, run[0], fps), stream=stream)
    targets = set(run)
    for frame in container.decode(stream):
        number = _number(stream, frame.pts, fps)
        if number in targets:
            if frame.is_corrupt:
                raise OSError(f"frame {number} is damaged")
            rgb = _OPEN.to_rgb.reformat(frame, format="rgb24", threads=1)
            found[number] = np.asarray(rgb.to_ndarray())
        if number >= run[-1]:
            return


def _last_frame_number(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream, fps: float
) -> int:
    if stream.frames > 1:
        container.seek(_pts(stream, stream.frames - 1, fps), stream=stream)
    numbers = [
        _number(stream, packet.pts, fps)
        for packet in container.demux(stream)
        if packet.pts is not None and packet.size and not packet.is_corrupt
    ]
    return max(numbers, default=-1)


def _runs(wanted: list[int]) -> list[list[int]]:
    """Cut sorted numbers where the gap is worth a new seek."""
    runs: list[list[int]] = []
    for number in wanted:
        if runs and number - runs[-1][-1] <= SEEK_GAP_FRAMES:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def _pts(stream: av.video.stream.VideoStream, number: int, fps: float) -> int:
    # Half a frame late: seeking backwards from there cannot miss the frame by rounding.
    return (stream.start_time or 0) + int((number + 0.5) / fps / float(stream.time_base or 1))


def _number(stream: av.video.stream.VideoStream, pts: int | None, fps: float) -> int:
    return round(((pts or 0) - (stream.start_time or 0)) * float(stream.time_base or 1) * fps)
