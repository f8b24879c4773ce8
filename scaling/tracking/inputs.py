"""Tells MLflow what data a run learned from and was judged on, each with a digest."""

import hashlib
from dataclasses import asdict
from typing import TYPE_CHECKING

from scaling.runs.folder import Run
from scaling.spec import RunSpec, canonical_json
from xvla.config import DomainEntry

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

DIGEST_LENGTH = 36  # the longest that MLflow stores


def log_inputs(client: "MlflowClient", spec: RunSpec, mlflow_id: str, run: Run) -> bool:
    """Log training sources and evaluation manifests once their digests are known."""
    manifests = run.environment().eval_manifest
    if not isinstance(manifests, dict):
        return False
    inputs = [_source_input(spec, entry) for entry in spec.data.mixture]
    for split, context in (("val", "validation"), ("test", "test")):
        if digest := manifests.get(split):
            content = {"anchor_domain": spec.data.anchor_domain, "manifest_sha256": digest}
            text = canonical_json(content)
            inputs.append(_input(f"evaluation {split}", digest, context, text))
    client.log_inputs(mlflow_id, datasets=inputs)
    return True


def _source_input(spec: RunSpec, entry: DomainEntry) -> "DatasetInput":
    """Return one domain of the mixture; the digest stands for the episodes chosen."""
    content = {**asdict(entry), "subset_seed": spec.data.subset_seed}
    del content["weight"]  # how often it is drawn, not what it is
    text = canonical_json(content)
    return _input(entry.name, hashlib.sha256(text.encode()).hexdigest(), "training", text)


def _input(name: str, digest: str, context: str, content: str) -> "DatasetInput":
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=name,
        digest=digest[:DIGEST_LENGTH],
        source_type="local",
        source=content,
        profile=content,
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", context)])
