"""What a seed is worth: initialisation, data order and evaluation noise, each varied alone.

No difference of two runs means anything until it is set against this spread.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product

from scaling.spec import RunSpec, SeedConfig
from scaling.study import Study
from sweeps._mixtures import paper_run, simulated_run, with_axes

SOURCES = ("init", "data", "eval")


def _runs(base: Callable[[str], RunSpec], sizes: Sequence[str], seeds: int) -> Iterator[RunSpec]:
    """Yield each size with all seeds 0 ("none" varies), then with one of the three changed."""
    points = [(size, "none", 0) for size in sizes]
    for size, varied, seed in [*points, *product(sizes, SOURCES, range(1, seeds))]:
        changed = SeedConfig() if varied == "none" else SeedConfig(**{varied: seed})
        yield with_axes(replace(base(size), seeds=changed), size=size, varied=varied, seed=seed)


def _cpu() -> Iterator[RunSpec]:
    return _runs(simulated_run, ("tiny-h16", "tiny"), seeds=4)


def _a100() -> Iterator[RunSpec]:
    return _runs(paper_run, ("0.19b", "0.45b"), seeds=3)


STUDY = Study(
    name=__name__,
    description="seeds of initialisation, data order and evaluation, at two sizes",
    varies=("size", "varied", "seed"),
    holds_fixed="mixture, samples seen, recipe",
    runs={"cpu": _cpu, "a100": _a100},
)
