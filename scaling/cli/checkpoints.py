"""Verbs on checkpoints: best, lineage, finetune."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.cli.arguments import (
    as_json,
    existing_store,
    expand,
    progress_of,
    publish,
    runs_folder,
    show,
    study_runs,
    tracking_uri,
)
from scaling.runs.folder import Run
from scaling.spec import RunSpec

if TYPE_CHECKING:
    from scaling.adaptation import Finetuned


def best(arguments: Namespace) -> int:
    """Pick, verify and register the best checkpoint of a study."""
    from scaling.best import best as pick

    folder = runs_folder(arguments)
    uri = arguments.tracking_uri or tracking_uri(folder)
    document = pick(expand(arguments), folder, size=arguments.size, tracking_uri=uri)
    show(arguments, document, as_json)
    return 0


def lineage(arguments: Namespace) -> int:
    """Print parents and children of a run, named by its id or the first digits."""
    from jobs.control import find_run
    from jobs.queue import read_held
    from scaling.runs.lineage import lineage as trace
    from scaling.runs.lineage import render

    folder = runs_folder(arguments)
    run = find_run(arguments.run_id, folder)
    found = trace(run.run_id, folder, held=read_held(folder))
    show(arguments, found, render)
    return 0


def finetune(arguments: Namespace) -> int:
    """Adapt a checkpoint to a new domain and print l1 before and after."""
    from jobs.cluster import load_cluster
    from jobs.executor import Order, Worked, executor_of
    from scaling.adaptation import finetune_result

    folder = runs_folder(arguments)
    spec, parent = plan_finetuning(arguments, folder)
    here = load_cluster("local")
    order = Order(parallel=spec.resources.world_size, progress=progress_of(arguments))
    worked = executor_of(here).submit([spec], folder, here, order)
    if not (isinstance(worked, Worked) and worked.done == worked.submitted):
        raise RuntimeError(f"run {spec.run_id} did not finish; see `scaling logs {spec.run_id}`")
    publish([spec], folder, quiet=arguments.json)
    document = finetune_result(spec, Run.of(folder, spec.run_id), parent=parent)
    show(arguments, document, _render_finetune)
    return 0


def plan_finetuning(arguments: Namespace, folder: Path) -> tuple[RunSpec, str]:
    """Return the finetuning run that the command line asks for and its parent's run id."""
    from scaling.adaptation import finetune_spec
    from scaling.best import resolve, study_of, words_of
    from xvla.domains import domain_id

    domain_id(arguments.domain)  # refuses an unknown one
    study = study_of(arguments.source)
    specs = study_runs(study, words_of(arguments.source), folder) if study else []
    checkpoint = resolve(arguments.source, folder, specs=specs, tracking_uri=existing_store(folder))
    parent = Run(checkpoint.path.parents[1]).spec()
    spec = finetune_spec(
        parent,
        checkpoint.path,
        sha256=checkpoint.sha256,
        domain=arguments.domain,
        num_episodes=arguments.episodes or _shipped_episodes(parent, arguments.domain),
        recipe=arguments.recipe,
        overrides=arguments.overrides,
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
