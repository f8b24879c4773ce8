"""Registers checkpoints in MLflow: versions that name a path and its sha256, and aliases."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.spec import RunSpec
from scaling.tracking.publish import find_run, publish
from scaling.tracking.store import connect, is_http, store_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient


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
    checkpoint: Mapping[str, Any],
    aliases: Sequence[str],
    tracking_uri: str,
) -> str:
    """Register a checkpoint of a run, point the aliases at it and return its version.

    `checkpoint`: run_id, step, path, sha256, config_path and how it was chosen; kept as tags. The
    same run and sha256 keep their version. Raises TrackingError when the store is away.
    """
    publish([spec], runs_dir, tracking_uri=tracking_uri)
    client = connect(tracking_uri)
    with store_errors(tracking_uri):
        name = model_name(spec.study)
        _ensure_model(client, name)
        tags = {**_tags(checkpoint), "study": spec.study, "size": spec.size}
        version = _version_with(client, name, tags)
        if version is None:
            run = find_run(client, spec)
            source = _source(client, run.info.run_id, checkpoint, tracking_uri)
            made = client.create_model_version(
                name, source, run.info.run_id, tags=tags, await_creation_for=0
            )
            version = str(made.version)
        registered = client.get_registered_model(name).aliases
        for alias in aliases:
            if str(registered.get(alias)) != version:
                client.set_registered_model_alias(name, alias, version)
    return version


def lookup(study: str, alias: str, *, tracking_uri: str) -> dict[str, str]:
    """Return the tags of the version behind an alias: run_key, step, path, sha256, ...

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
        return dict(client.get_model_version(name, aliases[alias]).tags)


def _tags(checkpoint: Mapping[str, Any]) -> dict[str, str]:
    renamed = {"run_key": checkpoint["run_id"], **checkpoint}
    del renamed["run_id"]
    return {key: str(value) for key, value in renamed.items()}


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
    client: "MlflowClient", mlflow_run_id: str, checkpoint: Mapping[str, Any], tracking_uri: str
) -> str:
    """Return where the version's content is.

    A server takes sources only from a run's artifacts, so there the checkpoint's record (path and
    sha256) is logged as an artifact and stands for it; the weights stay where they are.
    """
    if not is_http(tracking_uri):
        return str(checkpoint["path"])
    folder = f"checkpoints/{Path(checkpoint['path']).name}"
    record = {key: str(value) for key, value in checkpoint.items()}
    client.log_dict(mlflow_run_id, record, f"{folder}/checkpoint.json")
    return f"runs:/{mlflow_run_id}/{folder}"
