"""Verbs on checkpoints: best, lineage, finetune."""

from argparse import Namespace
from typing import Any

from scaling.commands.common import as_json, expand, publish, runs_folder, show, tracking_uri


def best(arguments: Namespace) -> int:
    """Pick, verify and register the best checkpoint of a study."""
    from scaling.best import best as pick

    folder = runs_folder(arguments)
    uri = arguments.tracking_uri or tracking_uri(folder)
    publish(expand(arguments), folder, quiet=True)
    document = pick(expand(arguments), folder, size=arguments.size, tracking_uri=uri)
    show(arguments, document, as_json)
    return 0


def lineage(arguments: Namespace) -> int:
    """Print parents and children of a run."""
    from scaling.lineage import lineage as trace
    from scaling.lineage import render_lineage

    show(arguments, trace(arguments.run_id, runs_folder(arguments)), render_lineage)
    return 0


def finetune(arguments: Namespace) -> int:
    """Adapt a checkpoint to a new domain and print l1 before and after."""
    from jobs.local import submit as run_here
    from scaling.adapt import finetune_result
    from scaling.reuse import plan_finetuning

    folder = runs_folder(arguments)
    spec, parent = plan_finetuning(arguments, folder, tracking_uri(folder))
    summary = run_here([spec], folder, parallel=spec.resources.world_size,
                       progress=not arguments.json)  # fmt: skip
    if summary["failed"]:
        raise RuntimeError(f"run {spec.run_id} failed; see `scaling logs {spec.run_id}`")
    publish([spec], folder, quiet=arguments.json)
    document = finetune_result(spec, folder / spec.run_id, parent=parent)
    show(arguments, document, _render_finetune)
    return 0


def _render_finetune(result: dict[str, Any]) -> str:
    return (
        f"{result['domain']}: val l1 {result['val_l1_before']:.4f} +- "
        f"{result['val_l1_sem_before']:.4f} before, {result['val_l1_after']:.4f} +- "
        f"{result['val_l1_sem_after']:.4f} after (run {result['run_id']})"
    )
