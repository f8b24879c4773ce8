"""Validation l1 against model size (Fig. 6, left): the ladder on a fixed mixture."""

from collections.abc import Iterator

from scaling.spec import RunSpec
from scaling.study import Study
from sweeps._mixtures import paper_run, simulated_run, with_axes

SEEDS = (0, 1, 2)


def _cpu() -> Iterator[RunSpec]:
    for seed in SEEDS:
        for size in ("tiny-h16", "tiny-h32", "tiny", "tiny-h128"):
            yield with_axes(simulated_run(size, seed=seed), size=size)


def _a100() -> Iterator[RunSpec]:
    for size in ("0.19b", "0.26b", "0.45b", "0.9b"):
        yield with_axes(paper_run(size), size=size)
    for seed in SEEDS[1:]:
        yield with_axes(paper_run("0.19b", seed=seed), size="0.19b")


STUDY = Study(
    name=__name__,
    description="model size on a fixed mixture",
    varies=("size",),
    holds_fixed="mixture, samples seen, recipe",
    runs={"cpu": _cpu, "a100": _a100},
)
