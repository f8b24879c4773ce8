"""What a process keeps in memory of the data it reads: one kind of cache, and every budget."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")
MIB = 2**20

# Bytes that a process keeps of each, of all datasets together. Decoded frames have the
# configuration's own budget (`frame_cache_gib`, divided among the workers).
TABLES = 256 * MIB  # columns of row groups
POSES = 256 * MIB  # checked poses of episodes
ANCHORS = 512 * MIB  # anchors of whole episodes
VIDEOS = 24 * MIB  # open files, each of which holds about 1 MB
VIDEO = 1 * MIB
SHARDS = 512 * MIB  # mapped shards of a frame cache: pages of the system, counted 1 MB each
SHARD = 1 * MIB


def nbytes(value: Any) -> int:
    """Return the bytes of an array, or of what counts its own."""
    return value.nbytes


class ByteCache(Generic[Value]):
    """Values by key up to `budget` bytes, the least recently used given up first.

    The newest value stays even where it alone is over the budget. What whole episodes are made
    for on the chance that they are asked for again is kept only while `has_room`: training visits
    frames in random order, where a full cache that stays hits as often as one that turns over,
    and makes less.
    """

    def __init__(
        self,
        budget: int,
        *,
        size: Callable[[Value], int] = nbytes,
        close: Callable[[Value], None] = lambda _: None,
    ) -> None:
        """Start empty; `size` weighs a value, `close` is called on one that is given up."""
        self.budget, self.bytes = budget, 0
        self._size, self._close = size, close
        self._values: OrderedDict[Hashable, Value] = OrderedDict()

    def find(self, key: Hashable) -> Value | None:
        """Return the value of `key` if it is kept."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of `key`, made and kept when it is not there."""
        value = self.find(key)
        if value is None:
            value = self._values[key] = make()
            self.bytes += self._size(value)
            while self.bytes > self.budget and len(self._values) > 1:
                self.drop(next(iter(self._values)))
        return value

    def has_room(self, size: int) -> bool:
        """Return whether a value of `size` bytes fits without giving another up."""
        return self.bytes + size <= self.budget

    def drop(self, key: Hashable) -> None:
        """Give up the value of `key`, if kept."""
        value = self._values.pop(key, None)
        if value is not None:
            self.bytes -= self._size(value)
            self._close(value)
