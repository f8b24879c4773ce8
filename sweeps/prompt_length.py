"""Soft-prompt length crossed with two model sizes: does the optimum move with the model?"""

from collections.abc import Iterator

from scaling.spec import RunSpec
from scaling.study import Study, product
from sweeps._mixtures import with_axes
from sweeps._preliminary import preliminary_run, small_run, with_prompt_length

SEEDS = (0, 1, 2)
LENGTHS = (4, 8, 16, 32, 64)


def _cpu() -> Iterator[RunSpec]:
    for seed in SEEDS:
        for point in product({"size": ("tiny-h32", "tiny"), "soft_prompt_length": LENGTHS}):
            spec = small_run(point["size"], seed=seed)
            yield with_axes(with_prompt_length(spec, point["soft_prompt_length"]), **point)


def _a100() -> Iterator[RunSpec]:
    for point in product({"size": ("0.26b", "0.9b"), "soft_prompt_length": LENGTHS}):
        spec = preliminary_run(point["size"])
        yield with_axes(with_prompt_length(spec, point["soft_prompt_length"]), **point)


STUDY = Study(
    name=__name__,
    description="soft-prompt length at two model sizes",
    varies=("size", "soft_prompt_length"),
    holds_fixed="mixture, samples seen, recipe",
    runs={"cpu": _cpu, "a100": _a100},
)
