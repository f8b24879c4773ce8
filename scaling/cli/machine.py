"""Verbs on the machine: doctor, profile, and train with a micro-batch that fits."""

import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from scaling.cli.arguments import expand, runs_folder, show
from scaling.spec import RunSpec


def doctor(arguments: Namespace) -> int:
    """Check this machine for a run: the largest of a study, one run.yaml, or a tiny one."""
    from scaling.machine.doctor import examine

    spec = _spec(arguments)
    document = examine(spec, runs_folder(arguments), ranks=arguments.ranks)
    show(arguments, document, _render_doctor)
    return 0 if document["ok"] else 1


def profile(arguments: Namespace) -> int:
    """Trace some training steps of one run with torch's profiler."""
    from scaling.machine.profile import profile_run

    document = profile_run(
        Path(arguments.run_yaml), overrides=arguments.overrides, steps=arguments.steps
    )
    if os.environ.get("RANK", "0") == "0":
        show(arguments, document, _render_profile)
    return 0


def train(arguments: Namespace) -> int:
    """Advance one run; 85 when stopped on a signal and resumable."""
    from scaling.train import main

    words = list(arguments.overrides)
    if arguments.fit_micro_batch:
        from scaling.machine.micro_batch import fitted_micro_batch

        micro = fitted_micro_batch(Path(arguments.run_yaml), words)
        print(f"micro-batch {micro} fits this machine", file=sys.stderr)
        words.append(f"engine.micro_batch_size={micro}")
    return main([arguments.run_yaml, *words])


def _render_profile(document: dict[str, Any]) -> str:
    return "\n".join([document["table"], *(f"trace: {path}" for path in document["traces"])])


def _spec(arguments: Namespace) -> RunSpec:
    from scaling.config import with_overrides
    from scaling.cost import cost_of
    from scaling.spec import load_spec

    if arguments.study is None:
        arguments.study = "sweeps.demo"
    if arguments.study.endswith(".yaml"):
        return with_overrides(load_spec(arguments.study), arguments.overrides).validate()
    return max(expand(arguments), key=lambda spec: cost_of(spec).num_params_total)


def _render_doctor(document: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(title=f"doctor on {document['host']}", show_header=False)
    colours = {"ok": "green", "warning": "yellow", "failed": "red"}
    for check in document["checks"]:
        state = f"[{colours[check['state']]}]{check['state']}[/]"
        table.add_row(check["name"], state, check["message"])
    return table
