"""Writes run.yaml into run folders; an existing one keeps its science, only speed is refreshed."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

from jobs.status import run_state
from scaling.config import write_atomic
from scaling.runs.folder import DONE, run_folder
from scaling.spec import SCIENTIFIC_DATA_FIELDS, RunSpec, load_spec

# A file that is safely on disk waits for the disk; several wait together.
WRITERS = 16


def prepare(specs: Iterable[RunSpec], runs_dir: str | Path) -> None:
    """Write runs/<id>/run.yaml for each spec; asking twice changes nothing.

    An existing run.yaml keeps its labels and science; engine and resources are taken from the spec
    unless the run is done or running. Raises ValueError when run.yaml does not belong to its
    folder (somebody edited the science of an existing run).
    """
    folders = {run_folder(runs_dir, spec.run_id): spec for spec in specs}
    with ThreadPoolExecutor(WRITERS) as pool:
        for _ in pool.map(_prepare_one, folders.values(), folders):
            pass  # raises what went wrong


def _prepare_one(spec: RunSpec, run_dir: Path) -> None:
    path = run_dir / "run.yaml"
    if not path.exists():
        spec.save(path)
        return
    if (run_dir / DONE).exists():
        return
    text = path.read_text()
    if text == spec.to_yaml() or run_state(run_dir).state == "running":
        return
    old = load_spec(path)
    if old.run_id != run_dir.name:
        raise ValueError(
            f"{path} describes run {old.run_id}, not {run_dir.name}: its science was edited; "
            "declare the change as a study or an override, and delete or move this folder"
        )
    refreshed = _with_engine_of(old, spec).to_yaml()
    if refreshed != text:
        write_atomic(path, refreshed)


def _with_engine_of(old: RunSpec, new: RunSpec) -> RunSpec:
    speed = {
        item.name: getattr(new.data, item.name)
        for item in fields(new.data)
        if item.name not in SCIENTIFIC_DATA_FIELDS
    }
    return replace(
        old,
        data=replace(old.data, **speed),
        init=replace(old.init, checkpoint=new.init.checkpoint),
        engine=new.engine,
        resources=new.resources,
    )
