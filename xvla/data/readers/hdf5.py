"""Arrays, texts and pictures out of one HDF5 file, with errors that name the key."""

import io
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from xvla.data.readers.base import FieldError, one_line
from xvla.data.readers.hdf5_heap import damaged_heap

# Arrays of poses are small; one that claims more is a damaged header, not data.
MAX_ARRAY_BYTES = 2**31
# Pictures stored as bare bytes, without any header: their two known sizes.
RAW_SIZES = {720 * 1280 * 3: (720, 1280, 3), 480 * 640 * 3: (480, 640, 3)}
READ_ERRORS = (OSError, RuntimeError, ValueError, TypeError, KeyError, MemoryError, OverflowError)
PICTURE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    IndexError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading; raises FieldError when it is missing, cut short or none."""
    if not path.is_file():
        raise FieldError(None, "missing; copy the dataset again")
    try:
        file = h5py.File(path, "r", locking=False)
    except READ_ERRORS as error:
        raise FieldError(
            None, f"not readable as HDF5 ({one_line(error, 160)}); copy it again"
        ) from None
    with file:
        yield file


def read_array(file: h5py.File, key: str) -> NDArray[Any]:
    """Return a whole array of numbers; raises FieldError naming `key` and what is there."""
    node = _node(file, key)
    claimed = _guard(key, lambda: int(node.size or 0) * node.dtype.itemsize)
    if claimed > MAX_ARRAY_BYTES:
        raise FieldError(key, f"claims {claimed} bytes; its header is damaged, copy it again")
    _check_heap(file, node, key)
    return np.asarray(_guard(key, lambda: node[()]))


def num_rows(file: h5py.File, key: str) -> int:
    """Return the first dimension of an array without reading it."""
    shape = _guard(key, lambda: _node(file, key).shape)
    if not shape:
        raise FieldError(key, "is a single value, must be an array [frames, ...]")
    return int(shape[0])


def read_text(file: h5py.File, key: str) -> str:
    """Return a text: a scalar, or the first of an array; bytes are UTF-8."""
    value = read_array(file, key)
    first: Any = value.reshape(-1)[0] if value.size else ""
    if isinstance(first, bytes):
        try:
            first = first.decode("utf-8")
        except UnicodeDecodeError:
            raise FieldError(key, "is not UTF-8 text; write it again") from None
    if not isinstance(first, str):
        raise FieldError(key, f"holds {value.dtype}, must be the instruction as text")
    return first.strip()


def read_pictures(
    file: h5py.File, key: str, rows: Sequence[int], *, bgr: bool = False
) -> NDArray[np.uint8]:
    """Return pictures uint8 [k, H, W, 3] RGB: stored as arrays, or as JPEG or PNG bytes.

    `bgr` says that red and blue are swapped in the file (an RGB array given to OpenCV's encoder).
    """
    node = _node(file, key)
    count = num_rows(file, key)
    beyond = [row for row in rows if not 0 <= row < count]
    if beyond:
        raise FieldError(key, f"has {count} pictures; number {beyond[0]} is not one")
    _check_heap(file, node, key, rows)
    pictures = [_picture(key, row, np.asarray(_guard(key, lambda r=row: node[r]))) for row in rows]
    if len({picture.shape for picture in pictures}) > 1:
        raise FieldError(key, "pictures differ in size; all of a view must have one")
    stacked = np.stack(pictures)
    return np.ascontiguousarray(stacked[..., ::-1]) if bgr else stacked


def _picture(key: str, row: int, value: NDArray[Any]) -> NDArray[np.uint8]:
    if value.ndim == 3 and value.dtype == np.uint8 and value.shape[-1] == 3:
        return value
    if value.ndim == 3:
        raise FieldError(key, f"picture {row} is {value.dtype} {value.shape}, must be uint8 RGB")
    encoded = (
        bytes(value.item()) if value.ndim == 0 and value.dtype != np.uint8 else value.tobytes()
    )
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            # More than 8 bits would all become 255.
            if image.mode[0] in "IF":
                message = f"picture {row} has {image.mode} pixels, probably depth, which is no view"
                raise FieldError(key, f"{message}; leave the key out of observation_key")
            return np.asarray(image.convert("RGB"))
    except FieldError:
        raise
    except PICTURE_ERRORS as error:
        if len(encoded) in RAW_SIZES:
            return np.frombuffer(encoded, dtype=np.uint8).reshape(RAW_SIZES[len(encoded)])
        if isinstance(error, UnidentifiedImageError):
            raise FieldError(
                key, f"picture {row} cannot be decoded: {len(encoded)} bytes of no known format"
            ) from None
        raise FieldError(
            key, f"picture {row} cannot be decoded ({one_line(error, 160)}); record it again"
        ) from None


def _check_heap(
    file: h5py.File, node: h5py.Dataset, key: str, rows: Sequence[int] | None = None
) -> None:
    if _guard(key, lambda: damaged_heap(file, node, rows)):
        raise FieldError(key, "its heap of variable-length values is damaged; copy the file again")


def _node(file: h5py.File, key: str) -> h5py.Dataset:
    node = _guard(key, lambda: file.get(key))
    if isinstance(node, h5py.Dataset):
        return node
    if node is None:
        raise FieldError(key, f"missing key; the file has {_names(file)}")
    raise FieldError(key, "is a group, must be an array; the file is not in this source's layout")


def _names(file: h5py.File) -> str:
    names: list[str] = []

    def visit(name: str, node: Any) -> bool | None:
        if isinstance(node, h5py.Dataset):
            names.append(str(name))
        return True if len(names) > 12 else None

    _guard("/", lambda: file.visititems(visit))
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") if names else "no arrays"


def _guard(key: str, read: Any) -> Any:
    """Run a read; h5py's own errors become a FieldError that names the key."""
    try:
        return read()
    except FieldError:
        raise
    except READ_ERRORS as error:
        raise FieldError(
            key, f"not readable ({one_line(error, 160)}); copy the file again"
        ) from None
