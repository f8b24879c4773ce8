"""Which reader opens a folder: the format is recognised from its meta/info.json."""

import json
from pathlib import Path
from typing import Any, Literal

from xvla.data.readers.base import Dataset, DatasetError, Problem
from xvla.data.readers.lerobot_v3 import LeRobotV3

Format = Literal["auto", "lerobot_v3"]
FORMATS = ("auto", "lerobot_v3")
CODEBASE_VERSIONS = {"v3.0": "lerobot_v3"}


def open_dataset(path: str | Path, format: Format = "auto", *, check: bool = True) -> Dataset:
    """Open the robot dataset in the folder `path`.

    `check=False` leaves out the checks of content, so that `inspect_dataset` can list them all.

    Raises:
        ValueError: no such folder, an unknown format or codebase_version, or (DatasetError, with
            `.problems`) an empty, truncated or inconsistent dataset.
    """
    root = Path(path)
    if format not in FORMATS:
        raise ValueError(f"dataset format {format!r} is unknown; allowed: {', '.join(FORMATS)}")
    if not root.is_dir():
        raise ValueError(
            f"no dataset folder at {root}; give a folder that holds meta/info.json, "
            "or make one with `scaling data simulate`"
        )
    info = read_info(root)
    detect_format(root, info)
    dataset = LeRobotV3(root, info)
    if check and (problems := dataset.problems()):
        raise DatasetError(str(root), problems)
    return dataset


def read_info(root: Path) -> dict[str, Any]:
    """Read meta/info.json of a LeRobot folder."""
    file = root / "meta" / "info.json"
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        message = "missing; a LeRobot dataset has it, so this folder is not one or is incomplete"
        raise DatasetError(str(root), [Problem(file="meta/info.json", message=message)]) from None
    except (OSError, ValueError) as error:
        message = f"not readable as JSON ({_one_line(error)}); copy the dataset again"
        raise DatasetError(str(root), [Problem(file="meta/info.json", message=message)]) from None
    if not isinstance(info, dict):
        message = f"holds a JSON {type(info).__name__}, must be an object; copy the dataset again"
        raise DatasetError(str(root), [Problem(file="meta/info.json", message=message)])
    return info


def detect_format(root: Path, info: dict[str, Any]) -> str:
    """Return the name of the format that `info` declares."""
    version = info.get("codebase_version")
    if version not in CODEBASE_VERSIONS:
        allowed = ", ".join(CODEBASE_VERSIONS)
        problem = Problem(
            file="meta/info.json",
            field="codebase_version",
            message=f"{version!r} is not read; allowed: {allowed}; convert the dataset first",
        )
        raise DatasetError(str(root), [problem])
    return CODEBASE_VERSIONS[version]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
