"""WSD branches: runs of fewer samples cool down from checkpoints of the longest run, their trunk.

Until its cool-down a warmup-stable-decay run does not depend on its length, and the order of
samples depends on the seed alone; so the shorter runs of an axis of `num_samples_seen` begin with
the same steps as the longest, which are trained once (Hu et al. 2024, MiniCPM, section 4). Sizes
1, 2, 4, 8 with a cool-down of a tenth cost 8.7 units instead of 15.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scaling.runs.checkpoints import verify
from scaling.runs.folder import Run
from scaling.schedule import learning_rates
from scaling.spec import RunSpec, canonical_json
from scaling.study import Study, is_ready, trunk_point

PATIENCE_S = 60.0  # a branch started beside its trunk waits so long for a new heartbeat of it


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchedStudy(Study):
    """A study whose runs share trunks; they are linked after overrides, which may rename them."""

    def expand(self, scale: str | None = None, overrides: Iterable[str] = ()) -> list[RunSpec]:
        """Return the runs as `branched` links them; an axis `samples` says what each run sees."""
        return branched(map(_labelled, Study.expand(self, scale, overrides)))


def branched(specs: Iterable[RunSpec]) -> list[RunSpec]:
    """Return the runs with all but the longest of each group starting from the longest.

    A group are the runs that differ in `num_steps` alone (labels and engine fields apart). The
    trunk comes before its branches, keeps their starting points and has the run id it has anyway.
    Raises ValueError for another schedule than wsd and for runs that differ in their data.
    """
    groups: dict[str, list[RunSpec]] = {}
    for spec in specs:
        groups.setdefault(canonical_json(_shared(spec)), []).append(spec)
    _refuse_other_data(list(groups.values()))
    return [run for group in groups.values() for run in _grow(group)]


def branch_step(spec: RunSpec) -> int:
    """Return the last step before which the learning rate does not know the run's length."""
    free = spec.num_steps - spec.optim.freeze_steps
    start = spec.num_steps - max(1, round(free * spec.schedule.decay_fraction))
    least = spec.optim.freeze_steps + spec.schedule.warmup_steps
    if spec.schedule.kind != "wsd":
        raise ValueError(
            f"schedule.kind={spec.schedule.kind!r} depends on the run's length from its first "
            "step; runs share a trunk under schedule.kind=wsd only"
        )
    if start < max(1, least):
        raise ValueError(
            f"{spec.num_steps} steps leave {start} before the cool-down, fewer than the {least} of "
            "freeze and warm-up; take more steps or a smaller schedule.decay_fraction"
        )
    return start


def wait_for_trunk(spec: RunSpec, runs_dir: Path) -> Iterator[bool]:
    """Yield True every second until the branch point is saved, or its trunk has ended or is silent.

    Signs of life are changes of its heartbeat, timed by the monotonic clock.
    """
    sign, last = None, time.monotonic()
    while not is_ready(spec, runs_dir):
        trunk = Run.of(runs_dir, spec.init.trunk)
        beat = trunk.heartbeat_file
        seen = beat.stat().st_mtime_ns if beat.exists() else None
        if seen != sign:
            sign, last = seen, time.monotonic()
        if trunk.has_marker() or time.monotonic() - last > PATIENCE_S:
            return
        yield True
        time.sleep(1)


def branch_point(spec: RunSpec, runs_dir: Path) -> Path:
    """Return the trunk's step folder a branch starts from.

    Raises ValueError where it is missing or damaged, or where the trunk is other science.
    """
    trunk = Run.of(runs_dir, spec.init.trunk)
    if not trunk.is_prepared():
        raise ValueError(f"no trunk {trunk.folder}; submit the whole study, the trunk goes first")
    check_trunk(spec, trunk.spec())
    path = trunk_point(spec, runs_dir)
    if not path.exists() and trunk.done_file.exists():
        raise ValueError(
            f"trunk {spec.init.trunk} is done but did not keep step {spec.init.trunk_step}, from "
            f"which {spec.run_id} branches; delete the trunk's folder to train it again"
        )
    if not path.exists():
        raise ValueError(
            f"trunk {spec.init.trunk} has not saved step {spec.init.trunk_step} yet, from which "
            f"{spec.run_id} branches; let it train first, then submit this run again"
        )
    problem = verify(path)
    if problem:
        raise ValueError(f"branch point {path} is damaged: {problem}; delete the trunk's folder")
    return path


def check_trunk(spec: RunSpec, trunk: RunSpec) -> None:
    """Raise ValueError unless both do exactly the same up to the branch point."""
    if trunk.run_id != spec.init.trunk:
        raise ValueError(f"folder of trunk {spec.init.trunk} holds run {trunk.run_id}")
    ours, theirs = _shared(spec), _shared(trunk)
    other = sorted(key for key in ours if ours[key] != theirs[key])
    if other:
        raise ValueError(f"trunk {trunk.run_id} differs in {', '.join(other)}; it is no prefix")
    for step in range(spec.init.trunk_step):
        if learning_rates(spec, step) != learning_rates(trunk, step):
            raise ValueError(
                f"trunk {trunk.run_id} has another learning rate at step {step}, before the "
                f"branch at {spec.init.trunk_step}"
            )


def _shared(spec: RunSpec) -> dict[str, Any]:
    """Return the science that trunk and branches have in common."""
    science = spec.scientific()
    science.pop("num_steps")
    science["init"] = {k: v for k, v in science["init"].items() if not k.startswith("trunk")}
    return science


def _labelled(spec: RunSpec) -> RunSpec:
    """Return the run with the samples it sees on that axis; overrides change them."""
    if "samples" not in spec.axes:
        return spec
    return replace(spec, axes={**spec.axes, "samples": spec.num_samples_seen})


def _grow(group: list[RunSpec]) -> list[RunSpec]:
    trunk, *shorter = sorted(group, key=lambda spec: -spec.num_steps)
    if not shorter:
        return [trunk]
    trunk_id, starts = trunk.run_id, [branch_step(spec) for spec in shorter]
    points = sorted({*trunk.engine.keep_steps, *starts})
    branches = [
        replace(spec, init=replace(spec.init, trunk=trunk_id, trunk_step=start))
        for spec, start in zip(shorter, starts, strict=True)
    ]
    return [replace(trunk, engine=replace(trunk.engine, keep_steps=points)), *branches]


def _refuse_other_data(groups: list[list[RunSpec]]) -> None:
    """Raise ValueError for runs that would share a trunk but for their mixture."""
    seen: dict[str, RunSpec] = {}
    for group in groups:
        science = _shared(group[0])
        science["data"] = {k: v for k, v in science["data"].items() if k != "mixture"}
        first = seen.setdefault(canonical_json(science), group[0])
        if first is group[0]:
            continue
        one, two = ([entry.name for entry in s.data.mixture] for s in (first, group[0]))
        if one != two:
            raise ValueError(
                f"runs on {len(one)} and {len(two)} domains cannot share a trunk: with another "
                "domain in the mixture every batch differs from the first step on; train each alone"
            )
        raise ValueError(
            f"runs on {first.num_unique_episodes} and {group[0].num_unique_episodes} episodes "
            "cannot share a trunk: samples are shuffled over the whole set, so a nested subset is "
            "no prefix of it; vary num_steps on one set, or train each alone"
        )
