"""Verbs on checkpoints: best, lineage, finetune."""

import sys
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
from scaling.cli.study import render_submitted
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


def finetune(
    asked: Asked,
    *,
    source: str,
    domain: str,
    recipe: str | None,
    episodes: int,
    on: str,
    detach: bool,
    dry_run: bool,
) -> int:
    """Adapt a checkpoint to a new domain, here or on a cluster; print l1 before and after.

    What is only handed over answers as `submit` does; asked again when it is done, the errors.
    """
    from jobs.cluster import load_cluster
    from jobs.executor import Order, Worked, executor_of

    folder = asked.folder
    spec, parent = plan_finetuning(
        source, folder, domain=domain, recipe=recipe, episodes=episodes, overrides=asked.overrides
    )
    cluster = load_cluster(on)
    order = Order(
        parallel=spec.resources.world_size,
        dry_run=dry_run,
        progress=asked.progress,
        background=_again(asked, source, domain, recipe, episodes) if detach else None,
    )
    found = executor_of(cluster).submit([spec], folder, cluster, order)
    if not found.skipped_done and not isinstance(found, Worked):
        asked.show(found, render_submitted)
        return 0
    if not (found.skipped_done or (isinstance(found, Worked) and found.is_through)):
        raise RuntimeError(f"run {spec.run_id} did not finish; see `scaling logs {spec.run_id}`")
    _show_finetuned(asked, spec, parent)
    return 0


def _again(asked: Asked, source: str, domain: str, recipe: str | None, episodes: int) -> list[str]:
    """Return this command for a process in the background, which publishes too."""
    words = ["finetune", "--from", source, "--domain", domain, *asked.overrides]
    words += [f"--runs={asked.folder}", f"--episodes={episodes}"]
    words += [f"--recipe={recipe}"] if recipe else []
    return [sys.executable, "-m", "scaling", *words]


def _show_finetuned(asked: Asked, spec: RunSpec, parent: str) -> None:
    from scaling.adaptation import finetune_result

    publish([spec], asked.folder, quiet=asked.json)
    run = Run.of(asked.folder, spec.run_id)
    asked.show(finetune_result(spec, run, parent=parent), _render_finetune)


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

    study = study_of(source)
    specs = study_runs(study, words_of(source), folder) if study else []
    checkpoint = resolve(source, folder, specs=specs, tracking_uri=existing_store(folder))
    parent = Run(checkpoint.path.parents[1]).spec()
    spec = finetune_spec(
        parent,
        checkpoint.path,
        sha256=checkpoint.sha256,
        domain=domain,
        num_episodes=episodes,
        recipe=recipe,
        overrides=list(overrides),
    )
    return _counted(spec), checkpoint.run_id


def _counted(spec: RunSpec) -> RunSpec:
    """Return the run with the number of training episodes that the data at hand has."""
    from xvla.data.sources import Mixture

    sources = Mixture.open(spec.data).sources
    mixture = [
        replace(entry, num_episodes=len(sources[entry.name].episodes))
        for entry in spec.data.mixture
    ]
    return replace(spec, data=replace(spec.data, mixture=mixture))


def _render_finetune(result: "Finetuned") -> str:
    return (
        f"{result.domain}: val l1 {result.val_l1_before:.4f} before, "
        f"{result.val_l1_after:.4f} after (run {result.run_id})"
    )
