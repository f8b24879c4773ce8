"""Parquet tables of a dataset, read with errors that name the file and the column."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from xvla.data.readers.base import DatasetError, Problem


def read_tables(root: Path, pattern: str, columns: list[str]) -> pa.Table:
    """Read and join all parquet files below `root` that match `pattern`, in the order of names.

    Raises:
        DatasetError: no such file, a file that is truncated, or a missing column.
    """
    files = sorted(root.glob(pattern))
    if not files:
        raise DatasetError(str(root), [Problem(file=pattern, message="missing; copy it again")])
    return pa.concat_tables([read_table(root, file, columns) for file in files])


def column_names(root: Path, pattern: str) -> list[str]:
    """Return the columns of the first matching file; raises DatasetError as `read_tables` does."""
    files = sorted(root.glob(pattern))
    if not files:
        raise DatasetError(str(root), [Problem(file=pattern, message="missing; copy it again")])
    try:
        return list(pq.read_schema(files[0]).names)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(root, files[0], error) from None


def to_matrix(root: Path, table: pa.Table, key: str, *, file: str = "data") -> NDArray[Any]:
    """Return a numeric or (nested) list column as an array [n], [n, d] or [n, a, d].

    Raises:
        DatasetError: rows of different lengths, or no value in a row of lists; it names `file`.
    """
    column = table.column(key).combine_chunks()
    shape = [len(column)]
    while pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        width, rest = divmod(len(column.flatten()), max(1, len(column)))
        ragged = pa.types.is_list(column.type) and np.any(
            np.diff(to_array(column.offsets)) != width
        )
        if rest or ragged or column.null_count:
            message = "rows differ in length; every frame needs the same number of values"
            raise DatasetError(str(root), [Problem(file=file, field=key, message=message)])
        shape.append(width)
        column = column.flatten()
    return to_array(column).reshape(shape)


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
    try:
        # ParquetFile reads one file as it is; read_table would add columns from folder names.
        with pq.ParquetFile(file) as parquet:
            names = set(parquet.schema_arrow.names)
            for column in columns:
                if column not in names:
                    raise DatasetError(
                        str(root),
                        [
                            Problem(
                                file=str(file.relative_to(root)),
                                field=column,
                                message=f"missing column; the file has {', '.join(sorted(names))}",
                            )
                        ],
                    )
            return parquet.read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(root, file, error) from None


def unreadable(root: Path, file: Path, error: Exception) -> DatasetError:
    """Return the error of a parquet file that cannot be read."""
    message = f"not readable as parquet ({' '.join(str(error).split())}); copy it again"
    return DatasetError(str(root), [Problem(file=str(file.relative_to(root)), message=message)])
