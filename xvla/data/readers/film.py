"""One open video file, whose pictures are found by their time in any container."""

from collections.abc import Iterator
from pathlib import Path

import av
from av.error import FFmpegError

# A seek costs about as much as decoding this many frames.
SEEK_COST_FRAMES = 3
# Where a file's index is incomplete: so far ahead it is decoded on, further it is sought.
BLIND_FRAMES = 24
# Time stamps are whole ticks: nothing lies nearer to a time than one half a tick away.
ROUNDING_TICKS = 0.5


class Film:
    """An open video that stands between two pictures: the last before a time, the first after.

    Times are in s from the first picture. Going on from where it stands and seeking anew give the
    same pictures. Not for use by several threads, nor by a process that was forked from its own.
    """

    def __init__(self, path: Path) -> None:
        """Open the file; raises FFmpegError or OSError when it is no video that can be decoded."""
        self._container = av.open(str(path))
        try:
            self._stream = video_stream(self._container)
            codec = self._stream.codec_context
            codec.thread_count = 1
            # The decoder conceals damage by default: a plausible but wrong picture.
            codec.options = {"err_detect": "explode"}
            self._tick = tick_s(self._stream)
            self._start = start_ticks(self._container, self._stream)
        except BaseException:
            self._container.close()
            raise
        entries = self._stream.index_entries
        self._index = entries if 0 < self._stream.frames <= len(entries) else None
        # With open groups of pictures the decoder reports references as missing that belong to
        # the group before: then it begins one key frame early, and what it reports is damage.
        self._enters_early = False
        self._frames: Iterator[av.VideoFrame] = iter(())
        self._before: av.VideoFrame | None = None
        self._after: av.VideoFrame | None = None

    def close(self) -> None:
        """Close the file."""
        self._frames, self._before, self._after = iter(()), None, None
        self._container.close()

    def nearest(self, time_s: float, *, step_s: float) -> av.VideoFrame | None:
        """Return the picture nearest to a time, the earlier of two; None where there is none.

        `step_s` is the time between two rows of the table: a picture stands for its own duration,
        at least for one step. Raises FFmpegError or OSError for damage on the way to it.
        """
        # A thousandth of a tick tells what lies halfway from what a float has moved there.
        target = self._start + round(time_s / self._tick, 3)
        step = step_s / self._tick
        try:
            if not self._leads_to(target, step):
                self._seek(target, step)
            found = self._decode_to(target, step)
        except FFmpegError:
            if self._enters_early:
                raise
            self._enters_early = True
            self._seek(target, step)
            found = self._decode_to(target, step)
        if found is not None and found.is_corrupt:
            raise OSError(f"the picture at {time_s:g} s is damaged")
        return found

    def _decode_to(self, target: float, step: float) -> av.VideoFrame | None:
        """Decode on until `target` is reached and return the nearer of the pictures around it."""
        while self._after is not None and _pts(self._after) < target - ROUNDING_TICKS:
            self._before, self._after = self._after, next(self._frames, None)
        return self._nearer(target, step)

    def _nearer(self, target: float, step: float) -> av.VideoFrame | None:
        """Return the nearer of the two pictures around `target`."""
        before, after = self._before, self._after
        if after is not None and before is not None:
            return after if _pts(after) - target < target - _pts(before) else before
        if after is not None:
            return after if _pts(after) - target < step / 2 else None
        if (
            before is not None
            and target < end_ticks(_pts(before), before.duration, step) - step / 4
        ):
            return before
        return None

    def _leads_to(self, target: float, step: float) -> bool:
        """Return whether decoding on is right, and cheaper than a seek."""
        first = self._before or self._after
        if first is None or target < _pts(first) - ROUNDING_TICKS:
            return False
        if self._after is None or target <= _pts(self._after) + SEEK_COST_FRAMES * step:
            return True
        if self._index is None:
            return target <= _pts(self._after) + BLIND_FRAMES * step
        key = self._index.search_timestamp(int(target))
        return key < 0 or self._index[key].timestamp <= _pts(self._after) + SEEK_COST_FRAMES * step

    def _seek(self, target: float, step: float) -> None:
        """Stand before `target`: a seek that lands behind it is tried again from further back.

        Files are indexed by decoding time, or not at all, so that a seek may land on a key frame
        that is shown later, or on one from which the decoder needs some frames to recover.
        """
        back = 0.0
        while True:
            place = target - back
            is_last = place < self._start - 1 / self._tick
            if self._restart(int(place), target) or is_last:
                return
            back = max(2 * back, step)

    def _restart(self, place: int, target: float) -> bool:
        """Seek to `place` and decode the first picture; return whether it is not after `target`."""
        self._frames, self._before, self._after = iter(()), None, None
        key, packets = self._packets_from(place)
        sure = self._start if key is None or key.pts is None else key.pts
        if key is None or self._start < sure > target + ROUNDING_TICKS:
            return False
        if self._enters_early:
            coded = sure if key.dts is None else key.dts
            key, packets = self._packets_from(coded - 1)
            assert key is not None
        self._frames = _decoded(key, packets, sure=sure)
        self._after = next(self._frames, None)
        return self._after is not None and _pts(self._after) <= target + ROUNDING_TICKS

    def _packets_from(self, place: int) -> tuple[av.Packet | None, Iterator[av.Packet]]:
        """Seek; return the key frame's packet that was landed on, and those after it."""
        self._container.seek(place, stream=self._stream)
        packets = self._container.demux(self._stream)
        keys = (packet for packet in packets if packet.is_keyframe and packet.pts is not None)
        return next(keys, None), packets


def video_stream(container: av.container.InputContainer) -> av.video.stream.VideoStream:
    """Return the first video stream of a file; raises OSError when it has none."""
    if not container.streams.video:
        raise OSError("it has no video stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise OSError("its video stream is of no known codec")
    return stream


def tick_s(stream: av.video.stream.VideoStream) -> float:
    """Return the unit of a stream's time stamps in s."""
    return float(stream.time_base or 1)


def start_ticks(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> int:
    """Return the time stamp of the first picture, which a file without an edit list shifts."""
    if stream.start_time is not None:
        return stream.start_time
    return next((packet.pts for packet in container.demux(stream) if packet.pts is not None), 0)


def end_ticks(pts: int, duration: int | None, step: float) -> float:
    """Return where a stream's last picture ends: it stands for one row of the table at least."""
    return pts + max(duration or 0, step)


def _decoded(
    first: av.Packet, packets: Iterator[av.Packet], *, sure: int
) -> Iterator[av.VideoFrame]:
    """Yield the pictures from the time `sure` on, in the order in which they are shown.

    What is shown before a key frame but coded after it (an open group of pictures) needs pictures
    that were not decoded: it is left out, as is what the decoder says of it.
    """
    packet: av.Packet | None = first
    while packet is not None:
        try:
            frames = packet.decode()
        except FFmpegError:
            if packet.pts is None or packet.pts >= sure:
                raise
            frames = []
        for frame in frames:
            if isinstance(frame, av.VideoFrame) and frame.pts is not None and frame.pts >= sure:
                yield frame
        packet = next(packets, None)


def _pts(frame: av.VideoFrame) -> int:
    assert frame.pts is not None  # of `_decoded`
    return frame.pts
