"""Model size, episodes and sources crossed sparsely, for one law with a term for each.

A Latin square over the three axes: each pair of levels meets in exactly one run, so that 16 runs
stand in for the full cross of 64 and no two axes rise together.
"""

from collections.abc import Iterator

from scaling.spec import RunSpec
from scaling.study import Study, latin_square, product
from sweeps._mixtures import PAPER_MIXTURE, paper_run, scaled_weights, simulated_run, with_axes

SEEDS = (0, 1)
CPU = {
    "size": ("tiny-h16", "tiny-h32", "tiny", "tiny-h128"),
    "episodes_per_domain": (5, 10, 20, 40),
    "domains": (1, 2, 4, 7),
}
A100 = {
    "size": ("0.19b", "0.26b", "0.45b", "0.9b"),
    "fraction": (1 / 16, 1 / 8, 1 / 4, 1),
    "domains": (1, 2, 4, 7),
}


def _cpu() -> Iterator[RunSpec]:
    for point in product({"seed": SEEDS}, latin_square(**CPU)):
        size, episodes, domains = point["size"], point["episodes_per_domain"], point["domains"]
        spec = simulated_run(size, episodes=episodes, domains=domains, seed=point["seed"])
        yield with_axes(spec, size=size, episodes_per_domain=episodes, domains=domains)


def _a100() -> Iterator[RunSpec]:
    for point in latin_square(**A100):
        mixture = scaled_weights(PAPER_MIXTURE[: point["domains"]], point["fraction"])
        yield with_axes(paper_run(point["size"], mixture=mixture), **point)


STUDY = Study(
    name=__name__,
    description="size, episodes and sources crossed sparsely (a Latin square)",
    varies=("size", "episodes", "domains"),
    holds_fixed="samples seen, recipe",
    runs={"cpu": _cpu, "a100": _a100},
)
