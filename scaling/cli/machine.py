"""Verbs on the machine: doctor, profile, and train with a micro-batch that fits."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from scaling.cli.arguments import Asked
from scaling.spec import RunSpec

if TYPE_CHECKING:
    from rich.table import Table

    from scaling.machine.doctor import Diagnosis
    from scaling.machine.profile import Profile


def doctor(asked: Asked, *, ranks: int) -> int:
    """Check this machine for a run: the largest of a study, one run.yaml, or a tiny one."""
    from scaling.machine.doctor import examine

    document = examine(_spec(asked), asked.folder, ranks=ranks)
    asked.show(document, _render_doctor)
    return 0 if document.ok else 1


def profile(asked: Asked, *, run_yaml: str, steps: int) -> int:
    """Trace some training steps of one run with torch's profiler."""
    from scaling.machine.profile import profile_run

    document = profile_run(Path(run_yaml), overrides=asked.overrides, steps=steps)
    if os.environ.get("RANK", "0") == "0":
        asked.show(document, _render_profile)
    return 0


def train(asked: Asked, *, run_yaml: str, fit_micro_batch: bool) -> int:
    """Advance one run; 85 when stopped on a signal and resumable."""
    from scaling.train import main

    words = list(asked.overrides)
    if fit_micro_batch:
        from scaling.machine.micro_batch import fitted_micro_batch

        micro = fitted_micro_batch(Path(run_yaml), words)
        print(f"micro-batch {micro} fits this machine", file=sys.stderr)
        words.append(f"engine.micro_batch_size={micro}")
    return main([run_yaml, *words])


def _render_profile(document: "Profile") -> str:
    return "\n".join([document.table, *(f"trace: {path}" for path in document.traces)])


def _spec(asked: Asked) -> RunSpec:
    from scaling.config import with_overrides
    from scaling.cost import cost_of
    from scaling.spec import load_spec

    if asked.study.endswith(".yaml"):
        return with_overrides(load_spec(asked.study), asked.overrides).validate()
    largest = replace(asked, study=asked.study or "sweeps.demo")
    return max(largest.expand(), key=lambda spec: cost_of(spec).num_params_total)


def _render_doctor(document: "Diagnosis") -> "Table":
    from rich.table import Table

    table = Table(title=f"doctor on {document.host}", show_header=False)
    colours = {"ok": "green", "warning": "yellow", "failed": "red"}
    for check in document.checks:
        state = f"[{colours[check.state]}]{check.state}[/]"
        table.add_row(check.name, state, check.message)
    return table
