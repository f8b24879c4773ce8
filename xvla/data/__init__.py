"""Robot data: readers, anchors, mixtures, loaders."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xvla.data.readers import open_dataset as open_dataset

__all__ = ["open_dataset"]


def __getattr__(name: str) -> Any:
    """Resolve the package's public names on first use, so that importing it stays cheap."""
    if name == "open_dataset":
        from xvla.data.readers import open_dataset

        return open_dataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
