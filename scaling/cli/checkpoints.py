"""Verbs on checkpoints: best, lineage, finetune."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.cli.arguments import (
    Asked,
    as_json,
    existing_store,
    publish,
    store_of,
    study_runs,
)
from scaling.runs.folder import Run
from scaling.spec import RunSpec

if TYPE_CHECKING:
    from scaling.adaptation import Finetuned


def best(asked: Asked, *, size: str | None, tracking_uri: str | None) -> int:
    """Pick, verify and register the best checkpoint of a study."""
    from scaling.best import best as pick

    uri = tracking_uri or store_of(asked.folder)
    asked.show(pick(asked.expand(), asked.folder, size=size, tracking_uri=uri), as_json)
    return 0


def lineage(asked: Asked, *, run_id: str) -> int:
    """Print parents and children of a run, named by its id or the first digits."""
    from jobs.control import find_run
    from jobs.queue import read_held
    from scaling.runs.lineage import lineage as trace
    from scaling.runs.lineage import render

    run = find_run(run_id, asked.folder)
    found = trace(run.run_id, asked.folder, held=read_held(asked.folder))
    asked.show(found, render)
    return 0


def finetune(asked: Asked, *, source: str, domain: str, recipe: str | None, episodes: int) -> int:
    """Adapt a checkpoint to a new domain and print l1 before and after."""
    from jobs.cluster import load_cluster
    from jobs.executor import Order, Worked, executor_of
    from scaling.adaptation import finetune_result

    folder = asked.folder
    spec, parent = plan_finetuning(
        source, folder, domain=domain, recipe=recipe, episodes=episodes, overrides=asked.overrides
    )
    here = load_cluster("local")
    order = Order(parallel=spec.resources.world_size, progress=asked.progress)
    worked = executor_of(here).submit([spec], folder, here, order)
    if not (isinstance(worked, Worked) and worked.done == worked.submitted):
        raise RuntimeError(f"run {spec.run_id} did not finish; see `scaling logs {spec.run_id}`")
    publish([spec], folder, quiet=asked.json)
    document = finetune_result(spec, Run.of(folder, spec.run_id), parent=parent)
    asked.show(document, _render_finetune)
    return 0


def plan_finetuning(
    source: str,
    folder: Path,
    *,
    domain: str,
    recipe: str | None = None,
    episodes: int = 0,
    overrides: Sequence[str] = (),
) -> tuple[RunSpec, str]:
    """Return the finetuning run that the command line asks for and its parent's run id."""
    from scaling.adaptation import finetune_spec
    from scaling.best import resolve, study_of, words_of
    from xvla.domains import domain_id

    domain_id(domain)  # refuses an unknown one
    study = study_of(source)
    specs = study_runs(study, words_of(source), folder) if study else []
    checkpoint = resolve(source, folder, specs=specs, tracking_uri=existing_store(folder))
    parent = Run(checkpoint.path.parents[1]).spec()
    spec = finetune_spec(
        parent,
        checkpoint.path,
        sha256=checkpoint.sha256,
        domain=domain,
        num_episodes=episodes or _shipped_episodes(parent, domain),
        recipe=recipe,
        overrides=list(overrides),
    )
    return spec, checkpoint.run_id


def _shipped_episodes(parent: RunSpec, domain: str) -> int:
    """Return how many training episodes of the domain are at hand."""
    from xvla.config import DomainEntry
    from xvla.data.sources import Mixture

    data = replace(parent.data, mixture=[DomainEntry(name=domain)], anchor_domain=domain)
    return len(Mixture.open(data).sources[domain].episodes)


def _render_finetune(result: "Finetuned") -> str:
    return (
        f"{result.domain}: val l1 {result.val_l1_before:.4f} before, "
        f"{result.val_l1_after:.4f} after (run {result.run_id})"
    )
