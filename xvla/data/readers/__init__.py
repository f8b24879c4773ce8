"""Readers: a folder on disk becomes episodes with poses, instruction and frames."""

from xvla.data.readers.formats import open_dataset

__all__ = ["open_dataset"]
