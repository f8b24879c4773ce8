"""Finetuning a checkpoint on a new domain: the RunSpec of the two-step adaptation (appendix G)."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from scaling.config import with_overrides
from scaling.recipes import with_recipe
from scaling.spec import InitConfig, RunSpec
from xvla.config import DOMAIN_IDS, DomainEntry


def finetune_spec(
    parent: RunSpec,
    checkpoint: Path,
    *,
    sha256: str,
    domain: str,
    num_episodes: int,
    recipe: str | None = None,
    overrides: list[str] | None = None,
) -> RunSpec:
    """Return the run that adapts `checkpoint` to `domain`, which becomes the anchor domain.

    First only the soft prompts and the action heads train (`optim.freeze_steps`), then all that
    the parent trained. Raises ValueError for an unknown domain or recipe.
    """
    check_domain(domain)
    entry = DomainEntry(name=domain, num_episodes=num_episodes)
    spec = replace(
        parent,
        stage="finetune",
        axes={"domain": domain},
        data=replace(parent.data, mixture=[entry], anchor_domain=domain, blind=False),
        init=InitConfig(checkpoint=str(checkpoint), checkpoint_sha256=sha256),
    )
    default = "finetune_small" if parent.scale == "cpu" else "finetune_paper"
    return with_overrides(with_recipe(spec, recipe or default), overrides or []).validate()


def check_domain(domain: str) -> None:
    """Raise ValueError for a domain without a row in the domain-specific tables."""
    if domain not in DOMAIN_IDS:
        raise ValueError(f"unknown domain {domain!r}; known domains: {', '.join(DOMAIN_IDS)}")


def finetune_result(spec: RunSpec, run_dir: Path, *, parent: str) -> dict[str, Any]:
    """Return the contract's `finetune --json` document, with test errors and trivial predictors.

    Raises ValueError when the run is not done.
    """
    done = run_dir / "DONE"
    if not done.exists():
        raise ValueError(f"run {spec.run_id} is not done; see `scaling logs {spec.run_id}`")
    after = json.loads(done.read_text())["metrics"]
    before = first_validation(run_dir)
    latest = (run_dir / "checkpoints" / "latest").read_text().strip()
    extra = {
        key.replace("/", "_"): value
        for key, value in after.items()
        if key.startswith(("baseline/", "test/", "val/")) and key.count("/") <= 3
    }
    return {
        "run_id": spec.run_id,
        "domain": spec.data.anchor_domain,
        "val_l1_before": before["val/l1"],
        "val_l1_after": after["val/l1"],
        "val_l1_sem_before": before.get("val/l1_sem"),  # None with a single episode
        "val_l1_sem_after": after.get("val/l1_sem"),
        "checkpoint": str(run_dir / "checkpoints" / latest),
        "parent": parent,
        "metrics_before": before,
        "metrics_after": extra,
    }


def first_validation(run_dir: Path) -> dict[str, float]:
    """Return the metrics of step 0, taken before the first update."""
    with open(run_dir / "metrics.jsonl") as stream:
        for line in stream:
            record = json.loads(line)
            if record["step"] == 0 and "val/l1" in record:
                return record
    raise ValueError(f"{run_dir}/metrics.jsonl has no validation at step 0; it is not a finetuning")


def finetuned_from(runs_dir: Path, parents: set[str]) -> list[tuple[RunSpec, Path]]:
    """Return the finished finetuning runs whose starting checkpoint belongs to `parents`."""
    from scaling.spec import load_spec

    found = []
    for done in sorted(runs_dir.glob("*/DONE")):
        text = (done.parent / "run.yaml").read_text()
        if "stage: finetune" not in text:
            continue
        spec = load_spec(done.parent / "run.yaml")
        if parents & set(Path(spec.init.checkpoint).parts):
            found.append((spec, done.parent))
    return found
