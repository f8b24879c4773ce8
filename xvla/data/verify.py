"""Does the data on disk match the mixture that a run declares: hashes, episodes, frames."""

import hashlib
from pathlib import Path

from xvla.config import DataConfig
from xvla.data.catalogue import Source, open_sources

CONTENT_SUFFIXES = (".json", ".hdf5", ".h5", ".parquet", ".mp4")
CONTENT_FOLDERS = ("meta", "data", "videos")


def dataset_digest(path: str | Path) -> str:
    """Return the sha256 over names and bytes of a dataset's files.

    In a LeRobot folder those of meta, data and videos; else all of its meta and episode files.

    Raises:
        ValueError: the folder holds no such file.
    """
    root = Path(path)
    files = _content_files(root)
    if not files:
        raise ValueError(f"no dataset at {root}: it has no file under meta, data or videos")
    total = hashlib.sha256()
    for name in files:
        with (root / name).open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{content}  {name}\n".encode())
    return total.hexdigest()


def _content_files(root: Path) -> list[str]:
    """Return the names of the files that make the dataset, sorted."""
    lerobot = (root / "meta/info.json").is_file()
    if not lerobot and not any([*root.glob("*.json"), *root.glob("*/*.json")]):
        return []
    folders = [root / name for name in CONTENT_FOLDERS] if lerobot else [root]
    return sorted(
        file.relative_to(root).as_posix()
        for folder in folders
        for file in folder.rglob("*")
        if file.is_file() and (lerobot or file.suffix.lower() in CONTENT_SUFFIXES)
    )


def verify_mixture(config: DataConfig) -> None:
    """Check the datasets against the mixture's manifest; call it when training starts.

    sha256 covers the whole dataset, num_frames the frames of the training episodes taken; a None
    is not checked. Opening the sets checks their content and the episode counts.

    Raises:
        ValueError: a defective dataset, too few episodes, other frames or other bytes.
    """
    for source in open_sources(config):
        _check_frames(source)
        _check_digest(source)


def _check_frames(source: Source) -> None:
    declared = source.entry.num_frames
    if declared is not None and declared != source.num_frames:
        raise ValueError(
            f"domain {source.name}: the run declares {declared} training frames, the dataset at "
            f"{source.dataset.path} has {source.num_frames} in its {len(source.episodes)} "
            "episodes; use the dataset that the run was planned with, or plan a new run"
        )


def _check_digest(source: Source) -> None:
    declared = source.entry.sha256
    if declared is None:
        return
    found = dataset_digest(source.dataset.path)
    if declared != found:
        raise ValueError(
            f"domain {source.name}: the run declares sha256 {declared[:12]}..., the dataset at "
            f"{source.dataset.path} has {found[:12]}...; use the dataset that the run was "
            "planned with, or plan a new run"
        )
