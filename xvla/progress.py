"""How far long work is: whoever asks for it hands in what shows that; by default nothing does."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

Advance = Callable[[int], None]  # so many more are done
# (label, total) -> what is open while the work goes on
OpenBar = Callable[[str, int], AbstractContextManager[Advance]]


def silent(label: str, total: int) -> AbstractContextManager[Advance]:
    """Show nothing."""
    return nullcontext(lambda count: None)
