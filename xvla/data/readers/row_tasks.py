"""The instruction of each frame, from the task numbers of the rows: rows count, meta files do not.

A published meta table may name another instruction than the rows, or one of the several that an
episode goes through.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from xvla.data.readers.base import Problem
from xvla.data.readers.episode_table import EpisodeTable, Stretches

Blocks = Iterable[tuple[int, NDArray[np.int64]]]


def table_of_rows(
    lengths: NDArray[np.int64], splits: Sequence[str], blocks: Blocks, texts: Mapping[int, str]
) -> EpisodeTable:
    """Return the episodes of a set with the instructions that their rows name.

    `blocks` are (first row, task numbers) of the whole set in order, `texts` the instruction by
    number; a number without one gives "".
    """
    # An episode without rows is refused when it is read, and counts as one row here.
    begins = np.concatenate([[0], np.cumsum(np.maximum(lengths, 1))])[:-1]
    marks, numbers = _marks(blocks, begins)
    known, codes = np.unique(numbers, return_inverse=True)
    first = np.searchsorted(marks, begins)
    last = np.append(first[1:], len(marks))
    changes = {
        int(episode): Stretches(
            marks[first[episode] : last[episode]] - begins[episode],
            codes[first[episode] : last[episode]],
        )
        for episode in np.flatnonzero(last - first > 1)
    }
    names = [texts.get(int(number), "") for number in known]
    return EpisodeTable(lengths, splits, (codes[first], names), changes)


def contradictions(
    table: EpisodeTable, listed: Sequence[Sequence[str]], file: str
) -> list[Problem]:
    """Return a warning for each episode whose meta row lists other instructions than its rows."""
    found = []
    for episode, texts in enumerate(listed):
        own = dict.fromkeys(text for _, text in table.stretches(episode))
        # Rows without an instruction are refused as such.
        if texts and "" not in own and {*texts} != {*own}:
            message = f"the rows say {_quoted(own)}, this says {_quoted(texts)}; the rows count"
            found.append(
                Problem(
                    file=file, episode=episode, field="tasks", message=message, severity="warning"
                )
            )
    return found


def _marks(
    blocks: Blocks, begins: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows [k] where an episode begins or the number changes, and the numbers [k] there."""
    marks, numbers = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    before: NDArray[np.int64] = np.empty(0, dtype=np.int64)
    for first, rows in blocks:
        low, high = np.searchsorted(begins, [first, first + len(rows)])
        steps = np.diff(rows, prepend=before if len(before) else rows[:1])
        at = np.union1d(begins[low:high] - first, np.flatnonzero(steps))
        marks.append(at + first)
        numbers.append(rows[at].astype(np.int64))
        before = rows[-1:] if len(rows) else before
    return np.concatenate(marks), np.concatenate(numbers)


def _quoted(texts: Iterable[str]) -> str:
    return " and ".join(repr(text) for text in texts)
