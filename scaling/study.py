"""Study: a named set of RunSpecs declared in plain Python, expanded and told apart by run id."""

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from scaling.config import with_overrides
from scaling.spec import RunSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What is varied, what is held fixed, and the runs at each scale.

    `runs`: scale -> a function that yields RunSpecs, each with its axis values in `axes`.
    """

    name: str
    description: str
    varies: tuple[str, ...]
    holds_fixed: str
    runs: dict[str, Callable[[], Iterable[RunSpec]]]

    @property
    def default_scale(self) -> str:
        """The first scale declared."""
        return next(iter(self.runs))

    def expand(self, scale: str | None = None, overrides: Iterable[str] = ()) -> list[RunSpec]:
        """Return the validated runs of a scale, each id once, in the order declared.

        Raises ValueError for an unknown scale or a bad override.
        """
        chosen = scale or self.default_scale
        if chosen not in self.runs:
            raise ValueError(
                f"study {self.name} has no scale {chosen!r}; declared: {', '.join(self.runs)}"
            )
        items = list(overrides)
        specs: dict[str, RunSpec] = {}
        for declared in self.runs[chosen]():
            labelled = replace(declared, study=self.name, scale=chosen)
            spec = with_overrides(labelled, items).validate()
            specs.setdefault(spec.run_id, spec)
        return list(specs.values())


def load_study(name: str) -> Study:
    """Import the module `name` (e.g. sweeps.demo) and return its STUDY.

    Raises ValueError when there is no such module or it declares no STUDY.
    """
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise ValueError(
                f"unknown study {name!r}; known: {', '.join(known_studies())}"
            ) from None
        raise
    study = getattr(module, "STUDY", None)
    if not isinstance(study, Study):
        raise ValueError(f"module {name} declares no STUDY; see sweeps/model_size.py for the form")
    return study


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
