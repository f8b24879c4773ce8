"""Which reader opens a path: the format is recognised from the meta files that lie there."""

import logging
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from xvla.data.readers.base import (
    Dataset,
    DatasetError,
    Problem,
    checked_at_open,
    errors_of,
    fail,
    one_line,
)
from xvla.data.readers.episode_files import EpisodeFiles
from xvla.data.readers.lerobot_v3 import LeRobotV3
from xvla.data.readers.lerobot_v21 import LeRobotV21
from xvla.data.readers.mapped import read_mapping
from xvla.data.readers.meta_json import read_meta
from xvla.mapping import MAPPING_FILE, StateMapping

LOG = logging.getLogger("xvla.data")
SAID = 5  # warnings of a set that are logged when it is opened; `inspect` has them all
Format = Literal["auto", "lerobot_v3", "lerobot_v21", "xvla"]
FORMATS = ("auto", "lerobot_v3", "lerobot_v21", "xvla")
# v2.0 differs from v2.1 in its statistics alone, which are not read.
CODEBASE_VERSIONS = {"v3.0": "lerobot_v3", "v2.1": "lerobot_v21", "v2.0": "lerobot_v21"}
INFO = "meta/info.json"
# What damaged meta files make a reader trip over; each reader names what it expects to be wrong.
SURPRISES = (KeyError, IndexError, TypeError, AttributeError, OverflowError, RuntimeError)


def open_dataset(
    path: str | Path,
    format: Format = "auto",
    *,
    check: bool = True,
    mapping: StateMapping | None = None,
) -> Dataset:
    """Open a robot dataset: a LeRobot folder, or X-VLA's meta JSON or the folder that holds it.

    `check=False` leaves out the checks of content, so that `inspect_dataset` can list them all.
    `mapping` says what the columns of a LeRobot set mean, in the place of its `mapping.yaml`.

    Raises:
        ValueError: no such path, an unknown format or codebase_version, or (DatasetError, with
            `.problems`) an empty, truncated or inconsistent dataset.
    """
    dataset, problems = open_with_problems(path, format, check=check, mapping=mapping)
    if problems:
        raise DatasetError(str(path), problems)
    return dataset


def open_with_problems(
    path: str | Path,
    format: Format = "auto",
    *,
    check: bool = True,
    mapping: StateMapping | None = None,
) -> tuple[Dataset, list[Problem]]:
    """Open as `open_dataset`, but return the defects of its content beside it (none unchecked).

    Warnings are no defects: they are logged, where there are no defects.
    """
    if format not in FORMATS:
        raise ValueError(f"dataset format {format!r} is unknown; allowed: {', '.join(FORMATS)}")
    path = Path(path)
    if not path.exists():
        raise ValueError(
            f"no dataset folder at {path}; give a folder that holds meta/info.json or X-VLA's "
            "meta JSON, or make one with `scaling data simulate`"
        )
    if ".." in path.parts:
        path = path.resolve()  # names of files are told from the folder's by their spelling
    try:
        dataset = _open(path, format, mapping)
        if dataset.mapping and not dataset.mapping.arms:
            message = "has joints and no arms: joint states are not trained on yet"
            fail(path, MAPPING_FILE, "joints", message)
        problems = dataset.problems() if check and checked_at_open(dataset) else []
    except (*SURPRISES, pa.ArrowException, OSError) as error:
        message = f"cannot be read ({type(error).__name__}: {one_line(error)}); copy it again"
        raise DatasetError(str(path), [Problem(file="the dataset", message=message)]) from error
    errors = errors_of(problems)
    if not errors:  # else the first of them is what to see
        _say(path, problems)
    return dataset, errors


def open_columns(path: Path, mapping: StateMapping) -> EpisodeFiles:
    """Open a LeRobot set for its columns, whatever its states are; ValueError as `open_dataset`."""
    found, _ = detect_format(path)
    if found == "xvla":
        raise ValueError(f"{path} is no LeRobot set: X-VLA's own have their layouts in a table")
    return _open(path, found, mapping)


def _say(path: Path, warnings: list[Problem]) -> None:
    for problem in warnings[:SAID]:
        LOG.warning("%s: %s", path, str(problem).removeprefix("warning: "))  # the log says it
    if len(warnings) > SAID:
        LOG.warning("%s: %d more warnings; see `scaling data inspect`", path, len(warnings) - SAID)


def detect_format(path: Path) -> tuple[str, Path]:
    """Return the format's name and its meta file.

    Raises:
        DatasetError: no meta file, several of X-VLA's, or an unknown codebase_version.
    """
    if path.is_file() and path.suffix != ".json":
        message = "is no meta JSON; give the dataset's folder, or X-VLA's meta JSON by its path"
        fail(path.parent, path, None, message)
    if path.is_file():
        root, file = path.parent, path
    elif (path / INFO).is_file():
        root, file = path, path / INFO
    else:
        root, file = path, _only_meta(path)
    meta = read_meta(root, file)
    if {"dataset_name", "datalist"} <= meta.keys():
        return "xvla", file
    version = meta.get("codebase_version")
    if version not in CODEBASE_VERSIONS:
        allowed = ", ".join(CODEBASE_VERSIONS)
        message = f"{version!r} is not read; allowed: {allowed}; convert the dataset first"
        fail(root, file, "codebase_version", message)
    return CODEBASE_VERSIONS[version], file


def _open(path: Path, format: str, mapping: StateMapping | None) -> EpisodeFiles:
    found, file = detect_format(path)
    if format not in ("auto", found):
        raise ValueError(f"{path} is {found}, not {format}; leave the format at 'auto'")
    root = path if path.is_dir() else path.parent
    if found == "xvla":
        # Imported here: HDF5 is only needed for these sets.
        from xvla.data.readers.official import open_official

        return open_official(root, file, read_meta(root, file))
    root = file.parent.parent
    info: dict[str, Any] = read_meta(root, file)
    reader = LeRobotV21 if found == "lerobot_v21" else LeRobotV3
    return reader(root, info, mapping or read_mapping(root))


def _only_meta(root: Path) -> Path:
    """Return the one X-VLA meta file of a folder without meta/info.json."""
    files = sorted(root.glob("*.json")) or sorted(root.glob("*/*.json"))
    if not files:
        message = "missing, and no other meta JSON; the folder is no dataset or is incomplete"
        fail(root, INFO, None, message)
    if len(files) > 1:
        names = ", ".join(file.relative_to(root).as_posix() for file in files[:8])
        fail(root, INFO, None, f"missing; of the meta files {names} give one by its path")
    return files[0]
