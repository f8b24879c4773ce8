"""Parquet tables of a dataset, read with errors that name the file and the column."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from xvla.data.readers.base import fail, one_line


def read_tables(root: Path, pattern: str, columns: list[str]) -> pa.Table:
    """Read and join all parquet files below `root` that match `pattern`, in the order of names.

    Raises:
        DatasetError: no such file, a file that is truncated, or a missing column.
    """
    return pa.concat_tables([read_table(root, file, columns) for file in matching(root, pattern)])


def column_names(root: Path, pattern: str) -> list[str]:
    """Return the columns of the first matching file; raises DatasetError as `read_tables` does."""
    first = matching(root, pattern)[0]
    try:
        return list(pq.read_schema(first).names)
    except (pa.ArrowException, OSError) as error:
        unreadable(root, first, error)


def matching(root: Path, pattern: str) -> list[Path]:
    """Return the files below `root` that match, in the order of names; DatasetError for none."""
    files = sorted(root.glob(pattern))
    if not files:
        fail(root, pattern, None, "missing; copy it again")
    return files


def to_matrix(root: Path, table: pa.Table, key: str, *, file: str | Path = "data") -> NDArray[Any]:
    """Return a numeric or (nested) list column as an array [n], [n, d] or [n, a, d].

    Raises:
        DatasetError: rows of different lengths, or no value in a row of lists; it names `file`.
    """
    column = table.column(key).combine_chunks()
    shape = [len(column)]
    while (varying := is_list(column.type)) or pa.types.is_fixed_size_list(column.type):
        width, rest = divmod(len(column.flatten()), max(1, len(column)))
        ragged = varying and np.any(np.diff(to_array(column.offsets)) != width)
        if rest or ragged or column.null_count:
            message = "rows differ in length; every frame needs the same number of values"
            fail(root, file, key, message)
        shape.append(width)
        column = column.flatten()
    return to_array(column).reshape(shape)


def is_list(kind: pa.DataType) -> bool:
    """Tell whether a column holds lists that may differ in length, of either width of offsets."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def to_array(column: pa.Array) -> NDArray[Any]:
    """Return a column as an array [n]; numbers without pyarrow's detour.

    Its own to_numpy imports pandas, which takes longer than opening a dataset.
    """
    numbers = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    if numbers and column.null_count == 0:
        return np.from_dlpack(column)
    return np.asarray(column.to_numpy(zero_copy_only=False))


def read_table(root: Path, file: Path, columns: list[str]) -> pa.Table:
    """Read some columns of one parquet file; raises DatasetError as `read_tables` does."""
    # ParquetFile reads one file as it is; read_table would add columns from folder names.
    with opened_table(root, file, columns) as parquet:
        return parquet.read(columns=columns)


@contextmanager
def opened_table(root: Path, file: Path, columns: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
    """Open a parquet file that has `columns`; DatasetError when it has not or cannot be read."""
    try:
        with pq.ParquetFile(file) as parquet:
            names = parquet.schema_arrow.names
            for column in columns:
                if column not in names:
                    message = f"missing column; the file has {', '.join(sorted({*names}))}"
                    fail(root, file, column, message)
            yield parquet
    except (pa.ArrowException, OSError) as error:
        unreadable(root, file, error)


def unreadable(root: Path, file: Path, error: Exception) -> NoReturn:
    """Raise the error of a parquet file that cannot be read."""
    fail(root, file, None, f"not readable as parquet ({one_line(error)}); copy it again")
