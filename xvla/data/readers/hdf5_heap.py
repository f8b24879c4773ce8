"""Keeps damaged HDF5 heaps from the HDF5 library, which loops for ever over some of them.

Texts and encoded pictures of variable length lie in global heap collections. The library walks a
collection by the sizes that its objects state: a free object of size 0, or a size that wraps
around, and it never returns. The layout is that of the HDF5 file format specification, section
III.E (global heap) and IV.B (8-byte addresses, which h5py and the library write).
"""

import os
import struct
from collections.abc import Sequence

import h5py
import numpy as np

REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])
HEADER = struct.Struct("<4sB3xQ")
OBJECT = struct.Struct("<HH4xQ")


def damaged_heap(file: h5py.File, node: h5py.Dataset, rows: Sequence[int] | None = None) -> bool:
    """Return whether the variable-length values of `rows` (None: all) lie in a broken heap."""
    if not _is_variable(node.dtype) or not node.size:
        return False
    with open(file.filename, "rb") as stream:
        end = os.fstat(stream.fileno()).st_size
        for address in _addresses(file, node, rows, stream.fileno()):
            header = os.pread(stream.fileno(), HEADER.size, address)
            if len(header) < HEADER.size:
                return True
            signature, _, size = HEADER.unpack(header)
            if signature != b"GCOL" or not HEADER.size < size <= end - address:
                return True
            if not _ends(os.pread(stream.fileno(), size, address)):
                return True
    return False


def _is_variable(dtype: np.dtype) -> bool:
    text = h5py.check_string_dtype(dtype)
    return h5py.check_vlen_dtype(dtype) is not None or (text is not None and text.length is None)


def _addresses(
    file: h5py.File, node: h5py.Dataset, rows: Sequence[int] | None, descriptor: int
) -> set[int]:
    """Return where the heaps of some rows begin in the file."""
    blocks = []
    start = node.id.get_offset()
    if start is not None:
        blocks.append((start, node.size * REFERENCE.itemsize))
    elif node.chunks and not node.compression and not node.shuffle and not node.fletcher32:
        chunks = [node.id.get_chunk_info(i) for i in range(node.id.get_num_chunks())]
        blocks += [(chunk.byte_offset, chunk.size) for chunk in chunks]
    addresses: set[int] = set()
    for first, size in blocks:
        content = os.pread(descriptor, size, first)
        whole = len(content) // REFERENCE.itemsize * REFERENCE.itemsize
        references = np.frombuffer(content[:whole], REFERENCE)
        if start is not None and rows is not None:
            references = references[[row for row in rows if row < len(references)]]
        used = references[(references["length"] > 0) & (references["address"] > 0)]
        addresses.update((used["address"] + np.uint64(file.userblock_size)).tolist())
    return {min(address, 2**62) for address in addresses}


def _ends(collection: bytes) -> bool:
    """Walk a collection as the library does; False when the walk would not end at its end."""
    place = HEADER.size
    while place + OBJECT.size <= len(collection):
        index, _, size = OBJECT.unpack_from(collection, place)
        need = OBJECT.size + (size + 7) // 8 * 8 if index else size
        if need < OBJECT.size or place + need > len(collection):
            return False
        place += need
    return True
