"""Finetuning a checkpoint on a new domain: the RunSpec of the two-step adaptation (appendix G)."""

from dataclasses import dataclass, replace
from pathlib import Path

from scaling.config import with_overrides
from scaling.document import Document
from scaling.recipes import with_recipe
from scaling.runs.curves import metric_lines
from scaling.runs.folder import Run, finished_runs
from scaling.spec import InitConfig, RunSpec
from xvla.config import DomainEntry
from xvla.domains import domain_rows


def finetune_spec(
    parent: RunSpec,
    checkpoint: Path,
    *,
    sha256: str,
    domain: str,
    num_episodes: int = 0,
    recipe: str | None = None,
    overrides: list[str] | None = None,
) -> RunSpec:
    """Return the run that adapts `checkpoint` to `domain`, which becomes the anchor domain.

    `num_episodes` 0: all training episodes, to be counted where the data is.
    First only the soft prompts and the action heads train (`optim.freeze_steps`), then all that
    the parent trained. The parent's rows stay with their names, so that a new domain takes none of
    them. Raises ValueError for an unknown recipe, or a name whose row another name trained.
    """
    entry = DomainEntry(name=domain, num_episodes=num_episodes)
    spec = replace(
        parent,
        stage="finetune",
        axes={"domain": domain},
        data=replace(
            parent.data,
            mixture=[entry],
            anchor_domain=domain,
            domain_ids=domain_rows(parent.data),
            blind=False,
        ),
        init=InitConfig(checkpoint=str(checkpoint), checkpoint_sha256=sha256),
    )
    default = "finetune_small" if parent.scale == "cpu" else "finetune_paper"
    return with_overrides(with_recipe(spec, recipe or default), overrides or []).validate()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finetuned(Document):
    """A finished adaptation (contract: `finetune --json`).

    Errors before the first update and at the end; their standard errors are None with a single
    episode. `metrics_after` has the test split's and those of trivial predictors.
    """

    run_id: str
    domain: str
    val_l1_before: float
    val_l1_after: float
    val_l1_sem_before: float | None
    val_l1_sem_after: float | None
    checkpoint: str
    parent: str
    metrics_before: dict[str, float]
    metrics_after: dict[str, float]


def finetune_result(spec: RunSpec, run: Run, *, parent: str) -> Finetuned:
    """Return what came of an adaptation.

    Raises ValueError when the run is not done.
    """
    done = run.done()
    if done is None:
        raise ValueError(f"run {spec.run_id} is not done; see `scaling logs {spec.run_id}`")
    after, before = done.metrics, first_validation(run)
    extra = {
        key.replace("/", "_"): value
        for key, value in after.items()
        if key.startswith(("baseline/", "test/", "val/")) and key.count("/") <= 3
    }
    return Finetuned(
        run_id=spec.run_id,
        domain=spec.data.anchor_domain,
        val_l1_before=before["val/l1"],
        val_l1_after=after["val/l1"],
        val_l1_sem_before=before.get("val/l1_sem"),
        val_l1_sem_after=after.get("val/l1_sem"),
        checkpoint=str(run.checkpoints / run.latest_name()),
        parent=parent,
        metrics_before=before,
        metrics_after=extra,
    )


def first_validation(run: Run) -> dict[str, float]:
    """Return the metrics of step 0, taken before the first update."""
    for line in metric_lines(run):
        if line.step == 0 and "val/l1" in line.values:
            return line.values
    raise ValueError(f"{run.metrics_file} has no validation at step 0; it is not a finetuning")


def finetuned_from(runs_dir: Path, parents: set[str]) -> list[tuple[RunSpec, Run]]:
    """Return the finished finetuning runs whose starting checkpoint belongs to `parents`."""
    found = []
    for run in finished_runs(runs_dir):
        if not run.is_prepared() or run.damage():
            continue
        if b"stage: finetune" not in run.spec_file.read_bytes():
            continue
        spec = run.spec()
        if parents & set(Path(spec.init.checkpoint).parts):
            found.append((spec, run))
    return found
