"""Study: a named set of RunSpecs declared in plain Python, expanded and told apart by run id."""

import importlib
import itertools
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from scaling.document import Document
from scaling.overrides import overrider
from scaling.runs.folder import Run
from scaling.spec import RunSpec, Value

Point = dict[str, Value]  # axis -> its value
Score = Literal["val_l1", "horizon_l1", "adapted_success"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IntRange:
    """Whole numbers from `low` to `high`, both included, searched on a log scale."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values."""

    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What `scaling search` varies, where it begins, and what it makes smaller.

    `run[scale](point, seed)` -> the run of a point; `defaults[scale]` is the point that the answer
    is compared with; `rungs` are shares of a run's steps at which the worst runs are stopped.
    `adapted_success` is a rate: one minus it is made smaller.
    """

    space: Mapping[str, IntRange | Choice]
    defaults: Mapping[str, Point]
    first: Sequence[Point]
    run: Mapping[str, Callable[[Point, int], RunSpec]]
    score: Score = "val_l1"
    rungs: tuple[float, ...] = ()

    def fixed_points(self, scale: str) -> list[Point]:
        """Return the points tried first: the default, then the corners."""
        default = self.defaults[scale]
        return [default, *(point for point in self.first if point != default)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What is varied, what is held fixed, and the runs at each scale.

    `runs`: scale -> a function that yields RunSpecs, each with its axis values in `axes`.
    `scores`: what runs may be compared by; `paper_gpu_hours`: what the paper's own run took.
    """

    name: str
    description: str
    varies: tuple[str, ...]
    holds_fixed: str
    runs: dict[str, Callable[[], Iterable[RunSpec]]]
    scores: tuple[Score, ...] = ("val_l1",)
    search: Search | None = None
    paper_gpu_hours: float | None = None

    @property
    def default_scale(self) -> str:
        """The first scale declared."""
        if not self.runs:
            raise ValueError(f"study {self.name} declares no scale; give runs={{'cpu': ...}}")
        return next(iter(self.runs))

    def expand(self, scale: str | None = None, overrides: Iterable[str] = ()) -> list[RunSpec]:
        """Return the validated runs of a scale, each id once, in the order declared.

        Raises ValueError for an unknown scale, a bad override, or two points of the study that
        are one and the same run.
        """
        chosen = scale or self.default_scale
        if chosen not in self.runs:
            raise ValueError(
                f"study {self.name} has no scale {chosen!r}; declared: {', '.join(self.runs)}"
            )
        override = overrider(overrides)
        specs = [
            override(replace(declared, study=self.name, scale=chosen)).validate()
            for declared in self._declared(chosen)
        ]
        alike = Counter(map(_outline, specs))
        first: dict[str, RunSpec] = {}
        kept = []
        for spec in specs:
            if alike[_outline(spec)] == 1:
                kept.append(spec)
                continue
            same = first.setdefault(spec.run_id, spec)
            self._check_same_point(same, spec)
            if same is spec:
                kept.append(spec)
        return kept

    def _declared(self, scale: str) -> list[RunSpec]:
        """Return the runs as the study's own code yields them; what it raises names the study."""
        try:
            found = list(self.runs[scale]())
        except ValueError:
            raise
        except Exception as error:
            raise ValueError(
                f"study {self.name} cannot list its runs at scale {scale}: "
                f"{type(error).__name__}: {error}; SCALING_DEBUG=1 shows where"
            ) from error
        for item in found:
            if not isinstance(item, RunSpec):
                raise ValueError(f"study {self.name} yields {item!r} at scale {scale}, no RunSpec")
        return found

    def _check_same_point(self, first: RunSpec, second: RunSpec) -> None:
        """Raise ValueError when two runs of one id stand at different values of an axis."""
        for name in first.axes.keys() & second.axes.keys():
            if first.axes[name] != second.axes[name]:
                raise ValueError(
                    f"study {self.name}: {name}={first.axes[name]} and {name}={second.axes[name]} "
                    f"are the same run {first.run_id}: the axis changes nothing scientific, or an "
                    f"override fixes it; declare one of them, or leave out the override"
                )


def _outline(spec: RunSpec) -> tuple[Any, ...]:
    """Return a part of a run's science that is quick to compare.

    An id takes 0.1 ms; only runs of one outline can share an id, so the others need none here.
    """
    sizes = (spec.model.hidden_size, spec.model.soft_prompt_length)
    data = (spec.data.prediction_window_s, len(spec.data.mixture), spec.num_unique_episodes)
    numbers = (spec.num_steps, spec.global_batch_size, spec.optim.lr)
    return (spec.seeds, spec.schedule, *sizes, *data, *numbers)


def product(*groups: Mapping[str, Iterable[Any]] | Iterable[Point]) -> list[dict[str, Any]]:
    """Return every combination of axes (`{"size": (...), ...}`) and lists of points.

    The last axis varies fastest. Each axis has a type of its own, which its study knows, hence Any.
    A condition is a comprehension over the result.
    """
    lists: list[list[dict[str, Any]]] = []
    for group in groups:
        if isinstance(group, Mapping):
            lists += [[{name: value} for value in values] for name, values in group.items()]
        else:
            lists.append([dict(point) for point in group])
    return [
        {name: value for point in points for name, value in point.items()}
        for points in itertools.product(*lists)
    ]


def latin_square(**axes: Sequence[Any]) -> list[dict[str, Any]]:
    """Return n^2 of the n^3 combinations of three axes: each pair of levels meets exactly once.

    Raises ValueError unless there are three axes with the same number of levels.
    """
    lengths = {name: len(values) for name, values in axes.items()}
    if len(axes) != 3 or len(set(lengths.values())) != 1:
        raise ValueError(f"a Latin square needs three axes with as many levels each: {lengths}")
    (first, rows), (second, columns), (third, symbols) = axes.items()
    return [
        {first: row, second: column, third: symbols[(i + j) % len(symbols)]}
        for i, row in enumerate(rows)
        for j, column in enumerate(columns)
    ]


def own_steps(spec: RunSpec) -> int:
    """Return the steps a run trains itself: of a branch (scaling.branch) those after its start."""
    return spec.num_steps - spec.init.trunk_step


@dataclass(frozen=True, slots=True, kw_only=True)
class Saving(Document):
    """Samples to train if every run began at zero, and with branches going on from trunks."""

    num_branches: int
    samples_alone: int
    samples_shared: int
    saving_percent: float


def saving(specs: Iterable[RunSpec]) -> Saving:
    """Return what the branches among the runs spare."""
    runs = list(specs)
    alone = sum(spec.num_samples_seen for spec in runs)
    shared = sum(own_steps(spec) * spec.global_batch_size for spec in runs)
    return Saving(
        num_branches=sum(bool(spec.init.trunk) for spec in runs),
        samples_alone=alone,
        samples_shared=shared,
        saving_percent=100 * (1 - shared / alone) if alone else 0.0,
    )


def is_ready(spec: RunSpec, runs_dir: Path) -> bool:
    """Return whether a run can start: a branch waits for its trunk to save `init.trunk_step`."""
    if not spec.init.trunk or Run.of(runs_dir, spec.run_id).latest_file.exists():
        return True
    return trunk_point(spec, runs_dir).exists()


def trunk_point(spec: RunSpec, runs_dir: Path) -> Path:
    """Return where the trunk of a branch saves the step that the branch starts from."""
    return Run.of(runs_dir, spec.init.trunk).step_folder(spec.init.trunk_step)


def load_study(name: str) -> Study:
    """Import the module `name` (e.g. sweeps.demo) and return its STUDY, called by that name.

    The module may lie in the current folder. Raises ValueError when there is no such module, or it
    declares no STUDY, or cannot be imported.
    """
    if not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(
            f"study {name!r} is not a module path like sweeps.demo; known: "
            f"{', '.join(known_studies())}"
        )
    if not {"", os.getcwd()} & set(sys.path):  # the script `scaling`; `python -m` has it
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise ValueError(
                f"unknown study {name!r}; known: {', '.join(known_studies())}"
            ) from None
        raise ValueError(f"study {name} cannot be imported: {error}") from error
    except Exception as error:
        raise ValueError(
            f"study {name} cannot be imported: {type(error).__name__}: {error}; "
            "SCALING_DEBUG=1 shows where"
        ) from error
    study = getattr(module, "STUDY", None)
    if not isinstance(study, Study):
        raise ValueError(f"module {name} declares no STUDY; see sweeps/model_size.py for the form")
    return study if study.name == name else replace(study, name=name)


def known_studies() -> list[str]:
    """Return the module paths of the studies in `sweeps/`."""
    import pkgutil

    sweeps = importlib.import_module("sweeps")  # a name like any other: no import of a study here
    return [
        f"sweeps.{module.name}"
        for module in pkgutil.iter_modules(sweeps.__path__)
        if not module.name.startswith("_")
    ]


def split_arguments(arguments: Iterable[str]) -> tuple[str | None, list[str]]:
    """Split `key=value` words into the scale (if given as scale=...) and the other overrides."""
    scale, overrides = None, []
    for word in arguments:
        if word.startswith("scale="):
            scale = word.removeprefix("scale=")
        else:
            overrides.append(word)
    return scale, overrides
