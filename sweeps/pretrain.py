"""The paper's pretraining run (Table 9, mixture of Table 10) and its stand-in on a CPU."""

from collections.abc import Iterator

from scaling.spec import RunSpec
from scaling.study import Study
from sweeps._mixtures import paper_run, simulated_run, with_axes


def _cpu() -> Iterator[RunSpec]:
    yield with_axes(simulated_run("tiny"), size="tiny")


def _a100() -> Iterator[RunSpec]:
    yield with_axes(paper_run("0.9b"), size="0.9b")


STUDY = Study(
    name=__name__,
    description="one pretraining run of X-VLA",
    varies=(),
    holds_fixed="mixture, samples seen, model, recipe",
    paper_gpu_hours=6144.0,  # appendix F: 64 A100s, approximately 4 days
    runs={"a100": _a100, "cpu": _cpu},
)
