"""Rows of a table of many parquet files, read a row group at a time and kept up to a budget."""

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xvla.data import memory
from xvla.data.readers.tables import opened_table, to_matrix

_COLUMNS: memory.ByteCache[NDArray[Any]] = memory.ByteCache(memory.TABLES)


class RowGroups:
    """Some parquet files below `root`, in the order given, as one table."""

    def __init__(self, root: Path, files: Sequence[Path]) -> None:
        """Read the files' footers; raises DatasetError when one is missing or damaged."""
        self.root = root
        self.columns: list[str] = []
        self._groups: list[tuple[Path, int]] = []
        sizes: list[int] = []
        for file in files:
            with opened_table(root, file) as parquet:
                metadata, names = parquet.metadata, parquet.schema_arrow.names
            self.columns = self.columns or list(names)
            for group in range(metadata.num_row_groups):
                self._groups.append((file, group))
                sizes.append(metadata.row_group(group).num_rows)
        self._bounds = [0, *itertools.accumulate(sizes)]

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._bounds[-1]

    def rows(self, key: str, first: int, last: int) -> NDArray[Any]:
        """Return rows first..last of the column `key`, [n] or [n, d]; DatasetError as below."""
        low = bisect_right(self._bounds, first) - 1
        parts = []
        for number in range(low, len(self._groups)):
            start = self._bounds[number]
            if start >= last:
                break
            parts.append(self._kept(number, key)[max(0, first - start) : last - start])
        if not parts:
            return self._kept(low, key)[:0] if self._groups else np.empty(0)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def file_of(self, row: int) -> str:
        """Return the name of the file that holds a row, relative to the dataset's folder."""
        group = bisect_right(self._bounds, row) - 1
        file, _ = self._groups[min(max(group, 0), len(self._groups) - 1)]
        return file.relative_to(self.root).as_posix()

    def blocks(self, key: str) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (first row, values) of the column, a row group at a time, keeping none."""
        for number, first in enumerate(self._bounds[:-1]):
            yield first, self._read(number, key)

    def _kept(self, number: int, key: str) -> NDArray[Any]:
        return _COLUMNS.get(self, (number, key), lambda: self._read(number, key))

    def _read(self, number: int, key: str) -> NDArray[Any]:
        """Read one column of one row group; names the file when it is missing or damaged."""
        file, group = self._groups[number]
        with opened_table(self.root, file, [key]) as parquet:
            table = parquet.read_row_group(group, columns=[key])
        values = to_matrix(self.root, table, key, file=file)
        values.setflags(write=False)
        return values
