"""Random streams addressed by what they are for, so that no draw depends on the draws before it."""

import hashlib

import numpy as np


def random_stream(*key: str | int, block: int = 0) -> np.random.Generator:
    """Return the generator of the stream named by `key`, at its `block`-th block.

    Equal keys give equal numbers on any machine, rank or process. Blocks of one stream do not
    overlap (2^64 draws apart in Philox's counter) and are reached without drawing those before.
    """
    digest = hashlib.sha256("\x1f".join(str(part) for part in key).encode()).digest()
    words = np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)
    return np.random.Generator(np.random.Philox(key=words, counter=[0, block, 0, 0]))
