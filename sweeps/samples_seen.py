"""Validation l1 against the number of samples seen: shorter runs branch off the longest (WSD)."""

from collections.abc import Iterator
from dataclasses import replace

from scaling.branch import BranchedStudy
from scaling.spec import RunSpec, ScheduleConfig
from sweeps._mixtures import paper_run, simulated_run, with_axes

SEEDS = (0, 1, 2)
PARTS = (1, 2, 4, 8)
SCHEDULE = ScheduleConfig(kind="wsd", decay_fraction=0.1)


def _points(base: RunSpec, *, longest: int, warmup_steps: int) -> Iterator[RunSpec]:
    schedule = replace(SCHEDULE, warmup_steps=warmup_steps, min_lr_ratio=0.05)
    for part in PARTS:
        steps = longest * part // PARTS[-1]
        spec = replace(base, schedule=schedule, num_steps=steps)
        yield with_axes(spec, samples=spec.num_samples_seen)


def _cpu() -> Iterator[RunSpec]:
    for seed in SEEDS:
        yield from _points(simulated_run(seed=seed), longest=1600, warmup_steps=40)


def _a100() -> Iterator[RunSpec]:
    yield from _points(paper_run("0.9b"), longest=200_000, warmup_steps=1000)


STUDY = BranchedStudy(
    name=__name__,
    description="samples seen on one episode set; shorter runs share the longest one's steps",
    varies=("samples",),
    holds_fixed="episodes, sources, model, recipe",
    runs={"cpu": _cpu, "a100": _a100},
)
