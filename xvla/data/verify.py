"""Does the data on disk match the mixture that a run declares: hashes, episodes, frames."""

import hashlib
import json
import os
from pathlib import Path

from xvla.data.readers.base import DatasetError
from xvla.data.sources import Mixture, Source
from xvla.mapping import MAPPING_FILE

CONTENT_SUFFIXES = (".json", ".hdf5", ".h5", ".hdf", ".parquet", ".mp4")
CONTENT_FOLDERS = ("meta", "data", "videos")


def dataset_digest(path: str | Path) -> str:
    """Return the sha256 over names and bytes of a dataset's files.

    In a LeRobot folder those of meta, data and videos; else all of its meta and episode files.

    Raises:
        ValueError: the folder holds no such file.
    """
    root = Path(path)
    files = content_files(root)
    if not files:
        raise ValueError(f"no dataset at {root}: it has no file under meta, data or videos")
    total = hashlib.sha256()
    for name in files:
        with (root / name).open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{content}  {name}\n".encode())
    return total.hexdigest()


def content_files(root: Path) -> list[str]:
    """Return the files that make the dataset in the folder `root`, sorted, relative to it.

    In a LeRobot folder all of meta, data and videos, and its mapping; else every meta JSON and
    episode file in it and in the `root_path` of its meta files. None where there is no dataset.
    """
    if (root / "meta/info.json").is_file():
        folders = [root / name for name in CONTENT_FOLDERS]
        mapping = [MAPPING_FILE] if (root / MAPPING_FILE).is_file() else []
        return sorted([*_names(root, folders, ()), *mapping])
    metas = [*root.glob("*.json"), *root.glob("*/*.json")]
    if not metas:
        return []
    return _names(root, [root, *filter(None, map(_elsewhere, metas))], CONTENT_SUFFIXES)


def _names(root: Path, folders: list[Path], suffixes: tuple[str, ...]) -> list[str]:
    """Return the files below `folders` with one of `suffixes` (none given: all), each once."""
    names = {
        Path(os.path.relpath(file, root)).as_posix()
        for folder in folders
        for file in folder.rglob("*")
        if file.is_file() and (not suffixes or file.suffix.lower() in suffixes)
    }
    return sorted(names)


def _elsewhere(meta: Path) -> Path | None:
    """Return the folder of data that a meta file names, if it names one."""
    try:
        given = json.loads(meta.read_text(encoding="utf-8")).get("root_path")
    except (OSError, ValueError, AttributeError):
        return None
    return meta.parent / given if isinstance(given, str) else None


def verify_mixture(mixture: Mixture) -> None:
    """Check the datasets against the mixture's manifest; call it when training starts.

    sha256 covers the whole dataset, num_frames the frames of the training episodes taken; a None
    is not checked. Opening the sets checked their content and the episode counts: broken episodes
    are borne up to `max_failed_share` in training, and not at all in what is evaluated.

    Raises:
        ValueError: a defective dataset, too few episodes, other frames or other bytes.
    """
    for source in mixture.sources.values():
        _check_broken(source, mixture.config.max_failed_share)
        _check_frames(source)
        _check_digest(source)


def _check_broken(source: Source, max_share: float) -> None:
    """Raise DatasetError for too many broken episodes in the set, whether or not they are taken.

    Runs on different shares of one set must agree on whether it can be used.
    """
    if not source.broken:
        return
    train = source.split("train")
    hurt = [source.broken[episode] for episode in train if episode in source.broken]
    held_out = [source.broken[episode] for episode in sorted({*source.broken} - {*train})]
    if held_out or len(hurt) > max_share * len(train):
        raise DatasetError(source.dataset.path, [*held_out, *hurt])


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
