"""Validation l1 against the number of episodes (Fig. 6, right): nested subsets of each source."""

from collections.abc import Iterator

from scaling.spec import RunSpec
from scaling.study import Study
from sweeps._mixtures import PAPER_MIXTURE, paper_run, scaled_weights, simulated_run, with_axes

SEEDS = (0, 1, 2)
FRACTIONS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)


def _cpu() -> Iterator[RunSpec]:
    for seed in SEEDS:
        for episodes in (5, 10, 20, 40):
            spec = simulated_run(episodes=episodes, seed=seed)
            yield with_axes(spec, episodes_per_domain=episodes)


def _a100() -> Iterator[RunSpec]:
    for fraction in FRACTIONS:
        mixture = scaled_weights(PAPER_MIXTURE, fraction)
        episodes = sum(entry.num_episodes for entry in mixture)
        yield with_axes(paper_run("0.9b", mixture=mixture), episodes=episodes)


STUDY = Study(
    name=__name__,
    description="episodes of each source, nested subsets",
    varies=("episodes",),
    holds_fixed="samples seen, sources, model, recipe",
    runs={"cpu": _cpu, "a100": _a100},
)
