"""The step folders of a run: names of what lies in them, digests, and whether they are whole."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaling.runs.files import DamagedFileError, known, read_json
from scaling.runs.folder import MANIFEST, Run, run_of_checkpoint, step_name

STATE = "trainer.json"  # step, run, ranks, normaliser
WEIGHTS, CONFIG = "model.safetensors", "config.json"  # load without DeepSpeed
OPTIMIZER = "deepspeed"  # read only when the same run resumes
LATEST = "latest"
TRAIN_AGAIN = "retry the run, or give another run with run:<id>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a step folder says of itself: its step, and the sha256 of each file by name."""

    sha256: dict[str, str]
    step: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerState:
    """trainer.json: where a run stood when it saved, and on how many ranks.

    `val_l1` of that very step, None where it was not evaluated; `owes_evaluation`: it was due.
    `domain_ids`: the row of each domain, None where an earlier version saved.
    `loader` and `normaliser` are read by those who wrote them.
    """

    step: int
    num_samples_seen: int = 0
    run_id: str = ""
    world_size: int = 1
    zero_stage: int = 0
    val_l1: float | None = None
    owes_evaluation: bool = False
    loader: Mapping[str, int] = field(default_factory=dict)
    normaliser: Mapping[str, Any] = field(default_factory=dict)
    domain_ids: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A verified step folder; `path` is absolute, `sha256` that of its weights file."""

    run_id: str
    step: int
    path: Path
    sha256: str
    config_path: Path


def open_checkpoint(path: Path) -> Checkpoint:
    """Return a step folder whose files match manifest.json (the optimizer's are not read).

    Raises ValueError naming the file that is missing or does not match.
    """
    path = path.resolve()
    manifest = read_manifest(path)
    if manifest is None:
        raise ValueError(f"checkpoint {path} has no {MANIFEST}, so it cannot be verified")
    if not isinstance(manifest.step, int):
        raise DamagedFileError(f"{path / MANIFEST} has no 'step'; {TRAIN_AGAIN}")
    digests = manifest.sha256
    for name in sorted({WEIGHTS, CONFIG} | digests.keys()):
        if not name.startswith(f"{OPTIMIZER}/"):
            _check_file(path, name, digests.get(name))
    run = run_of_checkpoint(path)
    return Checkpoint(
        run_id=run.run_id if run is not None and run.is_prepared() else "",
        step=manifest.step,
        path=path,
        sha256=digests[WEIGHTS],
        config_path=path / CONFIG,
    )


def read_manifest(path: Path) -> Manifest | None:
    """Return what a step folder says of its files; None without a manifest.

    Raises DamagedFileError.
    """
    file = path / MANIFEST
    content = read_json(file, cure=TRAIN_AGAIN)
    if content is None:
        return None
    if not isinstance(content.get("sha256"), dict):
        raise DamagedFileError(f"{file} has no 'sha256'; {TRAIN_AGAIN}")
    return known(Manifest, content)


def read_state(path: Path) -> TrainerState:
    """Return the trainer's state of a step folder; raises ValueError where it is absent or torn."""
    cure = "delete the step folder, an earlier one will do"
    content = read_json(path / STATE, cure=cure)
    if content is None:
        raise ValueError(f"checkpoint {path} has no {STATE}; delete the step folder")
    if not isinstance(content.get("step"), int):
        raise DamagedFileError(f"{path / STATE} has no 'step'; {cure}")
    return known(TrainerState, content)


def verify(path: Path) -> str | None:
    """Return what is wrong with a step folder, or None."""
    try:
        manifest = read_manifest(path)
    except (OSError, DamagedFileError):
        return f"{MANIFEST} is not readable"
    if manifest is None:
        return f"it has no {MANIFEST}"
    if STATE not in manifest.sha256:
        return f"{MANIFEST} does not list {STATE}"
    for name, digest in sorted(manifest.sha256.items()):
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        try:
            same = file_sha256(file) == digest
        except OSError as error:
            return f"{name} is not readable ({error.strerror})"
        if not same:
            return f"{name} does not match its sha256"
    return None


def step_folders(folder: Path) -> list[tuple[int, Path]]:
    """Return (step, folder) in the order of steps; what is named otherwise is not ours."""
    names = (path.name.removeprefix("step_") for path in folder.glob("step_*"))
    steps = sorted(int(name) for name in names if name.isdecimal())
    paths = [(step, folder / step_name(step)) for step in steps]
    return [(step, path) for step, path in paths if path.is_dir()]


def newest_of(run: Run) -> Path:
    """Return the final step folder of a run, or its latest while it is not done.

    Raises ValueError for a run that is not there, has saved nothing, or whose DONE is damaged.
    """
    if not run.exists():
        where = run.folder.parent
        raise ValueError(f"no run {run.run_id!r} in {where}; see `scaling status STUDY`")
    done = run.done()
    if done:
        return run.step_folder(done.step)
    if not run.latest_name():
        raise ValueError(f"run {run.run_id} has saved no checkpoint yet")
    return run.checkpoints / run.latest_name()


def file_sha256(path: Path) -> str:
    """Return the hex sha256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_file(path: Path, name: str, digest: str | None) -> None:
    if digest is None:
        raise ValueError(f"checkpoint {path}: {MANIFEST} does not list {name}")
    if not (path / name).exists():
        raise ValueError(f"checkpoint {path} is not whole: {name} is missing")
    if file_sha256(path / name) != digest:
        raise ValueError(
            f"checkpoint {path} is corrupt: {name} does not match its sha256 in {MANIFEST}; "
            f"{TRAIN_AGAIN}"
        )
