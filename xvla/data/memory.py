"""What a process keeps in memory of the data it reads: one kind of cache, and every budget."""

import weakref
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
    """Values by owner and key up to `budget` bytes, the least recently used given up first.

    An owner (a dataset, say) is held weakly: what is kept for it goes when it does. The newest
    value stays even where it alone is over the budget. What whole episodes are made for on the
    chance that they are asked for again is kept only while `has_room`: training visits frames in
    random order, where a full cache that stays hits as often as one that turns over, and makes
    less.
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
        self._values: OrderedDict[tuple[int, Hashable], Value] = OrderedDict()
        self._owners: dict[int, weakref.finalize] = {}

    def find(self, owner: object, key: Hashable) -> Value | None:
        """Return the value of `key` if it is kept."""
        place = (id(owner), key)
        value = self._values.get(place)
        if value is not None:
            self._values.move_to_end(place)
        return value

    def get(self, owner: object, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of `key`, made and kept when it is not there."""
        value = self.find(owner, key)
        if value is None:
            value = make()
            self._own(owner)
            self._values[id(owner), key] = value
            self.bytes += self._size(value)
            while self.bytes > self.budget and len(self._values) > 1:
                self._give_up(next(iter(self._values)))
        return value

    def has_room(self, size: int) -> bool:
        """Return whether a value of `size` bytes fits without giving another up."""
        return self.bytes + size <= self.budget

    def drop(self, owner: object, key: Hashable) -> None:
        """Give up the value of `key`, if kept."""
        self._give_up((id(owner), key))

    def _own(self, owner: object) -> None:
        # The id of an owner is its own until the finalizer has run.
        number = id(owner)
        if number not in self._owners:
            self._owners[number] = weakref.finalize(owner, self._forget, number)
            self._owners[number].atexit = False

    def _forget(self, number: int) -> None:
        del self._owners[number]
        for place in [place for place in self._values if place[0] == number]:
            self._give_up(place)

    def _give_up(self, place: tuple[int, Hashable]) -> None:
        value = self._values.pop(place, None)
        if value is not None:
            self.bytes -= self._size(value)
            self._close(value)
