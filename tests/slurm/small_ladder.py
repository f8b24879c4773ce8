"""A study of four sizes in seconds each, for the chain behind it."""

from dataclasses import replace

from slurm_helpers import small_run

from scaling.spec import RunSpec
from scaling.study import Study

SIZES = ("tiny-h16", "tiny-h32", "tiny", "tiny-h128")


def _runs() -> list[RunSpec]:
    runs = [small_run(num_steps=40, size=size, blind=False) for size in SIZES]
    return [replace(run, axes={"size": run.size}) for run in runs]


STUDY = Study(
    name=__name__,
    description="four sizes for some steps (simulated data)",
    varies=("size",),
    holds_fixed="samples seen",
    runs={"cpu": _runs},
)
