"""The digest of our own sources, stored beside every run."""

import hashlib
from functools import cache
from pathlib import Path

PACKAGES = ("scaling", "xvla")


@cache
def code_digest() -> str:
    """Return 12 hex of sha256 over the Python sources of `scaling` and `xvla`."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
