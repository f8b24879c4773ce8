"""The main job in minutes on a laptop: all three axes of Fig. 6 on simulated data, two seeds.

Axes meet at the centre (tiny, all 7 domains, all 40 episodes of each), whose runs are shared. The
blind runs (images zeroed) show what the images are worth.
"""

from collections.abc import Iterator

from scaling.spec import RunSpec
from scaling.study import Study
from sweeps._mixtures import SIMULATED_DOMAINS, SIMULATED_EPISODES, simulated_run, with_axes

SIZES = ("tiny-h16", "tiny-h32", "tiny", "tiny-h128")
EPISODES = (5, 10, 20, SIMULATED_EPISODES)
DOMAINS = (1, 2, 4, len(SIMULATED_DOMAINS))
SEEDS = (0, 1)


def _point(size: str = "tiny", episodes: int = EPISODES[-1], domains: int = DOMAINS[-1], **kw):
    spec = simulated_run(size, episodes=episodes, domains=domains, **kw)
    return with_axes(spec, size=size, episodes_per_domain=episodes, domains=domains)


def _runs() -> Iterator[RunSpec]:
    for seed in SEEDS:
        yield from (_point(size=size, seed=seed) for size in SIZES)
        yield from (_point(episodes=episodes, seed=seed) for episodes in EPISODES)
        yield from (_point(domains=domains, seed=seed) for domains in DOMAINS)
    for seed in SEEDS:
        yield with_axes(simulated_run(seed=seed, blind=True), size="tiny", blind=1)


STUDY = Study(
    name=__name__,
    description="three axes in minutes: model size, episodes, domains (simulated data)",
    varies=("size", "episodes_per_domain", "domains"),
    holds_fixed="samples seen, recipe",
    runs={"cpu": _runs},
)
