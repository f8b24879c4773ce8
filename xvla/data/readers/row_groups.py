"""Rows of a table of many parquet files, read a row group at a time and kept up to a budget."""

from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from xvla.data.readers.base import DatasetError, Problem
from xvla.data.readers.tables import to_matrix, unreadable

# Bytes of columns that a process keeps, of all datasets together.
BUDGET = 256 * 2**20


class RowGroups:
    """The files below `root` that match `pattern`, in the order of their names, as one table."""

    def __init__(self, root: Path, pattern: str) -> None:
        """Read the files' footers; raises DatasetError when there are none or one is damaged."""
        self.root = root
        self.pattern = pattern
        files = sorted(root.glob(pattern))
        if not files:
            raise DatasetError(str(root), [Problem(file=pattern, message="missing; copy it again")])
        self.columns: list[str] = []
        self._groups: list[tuple[Path, int]] = []
        # Columns are kept by file as it is now: one written anew is read anew.
        self._states: dict[Path, tuple[int, ...]] = {}
        sizes: list[int] = []
        for file in files:
            try:
                with pq.ParquetFile(file) as parquet:
                    metadata, names = parquet.metadata, parquet.schema_arrow.names
            except (pa.ArrowException, OSError) as error:
                raise unreadable(root, file, error) from None
            self.columns = self.columns or list(names)
            status = file.stat()
            self._states[file] = (status.st_ino, status.st_size, status.st_mtime_ns)
            for group in range(metadata.num_row_groups):
                self._groups.append((file, group))
                sizes.append(metadata.row_group(group).num_rows)
        self._bounds = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._bounds[-1])

    def rows(self, key: str, first: int, last: int) -> NDArray[Any]:
        """Return rows first..last of the column `key`, [n] or [n, d]; DatasetError as below."""
        low = int(np.searchsorted(self._bounds, first, side="right")) - 1
        parts = []
        for number in range(low, len(self._groups)):
            start = int(self._bounds[number])
            if start >= last:
                break
            parts.append(self._kept(number, key)[max(0, first - start) : last - start])
        if not parts:
            return self._kept(low, key)[:0] if self._groups else np.empty(0)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def file_of(self, row: int) -> str:
        """Return the name of the file that holds a row, relative to the dataset's folder."""
        group = int(np.searchsorted(self._bounds, row, side="right")) - 1
        file, _ = self._groups[min(max(group, 0), len(self._groups) - 1)]
        return file.relative_to(self.root).as_posix()

    def blocks(self, key: str) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (first row, values) of the column, a row group at a time, keeping none."""
        for number, first in enumerate(self._bounds[:-1].tolist()):
            yield first, self._read(number, key)

    def _kept(self, number: int, key: str) -> NDArray[Any]:
        file, group = self._groups[number]
        place = (str(file), self._states[file], group, key)
        return _KEPT.get(place, lambda: self._read(number, key))

    def _read(self, number: int, key: str) -> NDArray[Any]:
        """Read one column of one row group; names the file when it is missing or damaged."""
        file, group = self._groups[number]
        try:
            with pq.ParquetFile(file) as parquet:
                names = parquet.schema_arrow.names
                if key not in names:
                    name = file.relative_to(self.root).as_posix()
                    message = f"missing column; the file has {', '.join(sorted(names))}"
                    problem = Problem(file=name, field=key, message=message)
                    raise DatasetError(str(self.root), [problem])
                table = parquet.read_row_group(group, columns=[key])
        except (pa.ArrowException, OSError) as error:
            raise unreadable(self.root, file, error) from None
        name = file.relative_to(self.root).as_posix()
        values = to_matrix(self.root, table, key, file=name)
        values.setflags(write=False)
        return values


class _Kept:
    """Columns of row groups, the least recently used given up beyond the budget."""

    def __init__(self) -> None:
        self._bytes = 0
        self._values: OrderedDict[tuple, NDArray[Any]] = OrderedDict()

    def get(self, key: tuple, read: Any) -> NDArray[Any]:
        if key not in self._values:
            self._values[key] = read()
            self._bytes += self._values[key].nbytes
            while self._bytes > BUDGET and len(self._values) > 1:
                self._bytes -= self._values.popitem(last=False)[1].nbytes
        self._values.move_to_end(key)
        return self._values[key]


_KEPT = _Kept()
