"""What a seed is worth: initialisation, data order and evaluation noise, each varied alone.

No difference of two runs means anything until it is set against this spread.
"""

from collections.abc import Iterator
from dataclasses import replace

from scaling.spec import RunSpec, SeedConfig
from scaling.study import Study, product
from sweeps._mixtures import paper_run, simulated_run, with_axes

SOURCES = ("init", "data", "eval")


def _points(sizes: tuple[str, ...], seeds: int) -> Iterator[dict]:
    yield from product({"size": sizes, "varied": ("none",), "seed": (0,)})
    yield from product({"size": sizes, "varied": SOURCES, "seed": range(1, seeds)})


def _seeded(spec: RunSpec, point: dict) -> RunSpec:
    """Return the run with one of its three seeds changed ("none": all are 0)."""
    seeds = {} if point["varied"] == "none" else {point["varied"]: point["seed"]}
    return with_axes(replace(spec, seeds=SeedConfig(**seeds)), **point)


def _cpu() -> Iterator[RunSpec]:
    for point in _points(("tiny-h16", "tiny"), seeds=4):
        yield _seeded(simulated_run(point["size"]), point)


def _a100() -> Iterator[RunSpec]:
    for point in _points(("0.19b", "0.45b"), seeds=3):
        yield _seeded(paper_run(point["size"]), point)


STUDY = Study(
    name=__name__,
    description="seeds of initialisation, data order and evaluation, at two sizes",
    varies=("size", "varied", "seed"),
    holds_fixed="mixture, samples seen, recipe",
    runs={"cpu": _cpu, "a100": _a100},
)
