"""Validation l1 against the number of sources (Fig. 6, middle): the anchor domain and others."""

from collections.abc import Iterator

from scaling.spec import RunSpec
from scaling.study import Study
from sweeps._mixtures import PAPER_MIXTURE, paper_run, simulated_run, with_axes

SEEDS = (0, 1, 2)
DOMAINS = (1, 2, 3, 5, 7)


def _cpu() -> Iterator[RunSpec]:
    for seed in SEEDS:
        for domains in DOMAINS:
            yield with_axes(simulated_run(domains=domains, seed=seed), domains=domains)


def _a100() -> Iterator[RunSpec]:
    for domains in DOMAINS:
        yield with_axes(paper_run("0.9b", mixture=PAPER_MIXTURE[:domains]), domains=domains)


STUDY = Study(
    name=__name__,
    description="number of sources; the anchor domain is in every mixture",
    varies=("domains",),
    holds_fixed="samples seen, episodes of each source, model, recipe",
    runs={"cpu": _cpu, "a100": _a100},
)
