"""Registers checkpoints in MLflow: versions that name a path and its sha256, and aliases."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.runs.checkpoints import Checkpoint
from scaling.spec import RunSpec
from scaling.tracking.ledger import Ledger
from scaling.tracking.publish import find_run, own_writes, publish
from scaling.tracking.store import connect, is_http, store_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A registered checkpoint: its run, step, where it lay then, and sha256 of its weights."""

    run_id: str
    step: int
    path: Path
    sha256: str


def alias_name(size: str | None) -> str:
    """Return `best` or `best-<size>`; MLflow allows no dot, so 0.26b becomes 0_26b."""
    return "best" if size is None else f"best-{re.sub(r'[^A-Za-z0-9_-]', '_', size)}"


def model_name(study: str) -> str:
    """Return the registered model's name: the study's last name part."""
    return study.rpartition(".")[2]


def register(
    spec: RunSpec,
    runs_dir: Path,
    *,
    checkpoint: Checkpoint,
    chosen_by: Mapping[str, str],
    aliases: Sequence[str],
    tracking_uri: str,
) -> str:
    """Register a checkpoint of a run, point the aliases at it and return its version.

    It is kept as tags, with `chosen_by`: how it was chosen. The same run and sha256 keep their
    version. Raises TrackingError when the store is away.
    """
    publish([spec], runs_dir, tracking_uri=tracking_uri)
    client = connect(tracking_uri)
    with store_errors(tracking_uri), own_writes(Ledger(runs_dir, tracking_uri), runs_dir):
        name = model_name(spec.study)
        _ensure_model(client, name)
        record = {key: str(value) for key, value in asdict(checkpoint).items()}
        record |= dict(chosen_by)
        tags = {"run_key": record["run_id"], **record, "study": spec.study, "size": spec.size}
        del tags["run_id"]
        version = _version_with(client, name, tags)
        if version is None:
            run = find_run(client, spec)
            source = _source(client, run.info.run_id, checkpoint.path, record, tracking_uri)
            made = client.create_model_version(
                name, source, run.info.run_id, tags=tags, await_creation_for=0
            )
            version = str(made.version)
        registered = client.get_registered_model(name).aliases
        for alias in aliases:
            if str(registered.get(alias)) != version:
                client.set_registered_model_alias(name, alias, version)
    return version


def lookup(study: str, alias: str, *, tracking_uri: str) -> Registered:
    """Return the version behind an alias.

    Raises ValueError when the model or the alias is not registered.
    """
    from mlflow.exceptions import MlflowException

    client = connect(tracking_uri)
    name = model_name(study)
    with store_errors(tracking_uri):
        try:
            aliases = client.get_registered_model(name).aliases
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            aliases = {}
        if alias not in aliases:
            known = ", ".join(sorted(aliases)) or "none"
            raise ValueError(
                f"model {name!r} has no alias {alias!r} (registered: {known}); run `scaling best "
                f"{study}` first"
            )
        tags = client.get_model_version(name, aliases[alias]).tags
    return Registered(
        run_id=tags["run_key"],
        step=int(tags["step"]),
        path=Path(tags["path"]),
        sha256=tags["sha256"],
    )


def _ensure_model(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _version_with(client: "MlflowClient", name: str, tags: Mapping[str, str]) -> str | None:
    """Return the oldest version of the same run and weights, or None."""
    same = [
        int(version.version)
        for version in client.search_model_versions(f"name = '{name}'")
        if all(version.tags.get(key) == tags[key] for key in ("run_key", "sha256"))
    ]
    return str(min(same)) if same else None


def _source(
    client: "MlflowClient",
    mlflow_run_id: str,
    path: Path,
    record: Mapping[str, str],
    tracking_uri: str,
) -> str:
    """Return where the version's content is.

    A server takes sources only from a run's artifacts, so there the checkpoint's record (path and
    sha256) is logged as an artifact and stands for it; the weights stay where they are.
    """
    if not is_http(tracking_uri):
        return str(path)
    folder = f"checkpoints/{path.name}"
    client.log_dict(mlflow_run_id, dict(record), f"{folder}/checkpoint.json")
    return f"runs:/{mlflow_run_id}/{folder}"
