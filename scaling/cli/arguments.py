"""What the commands share: folders, expansion, MLflow, output."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.document import plain
from scaling.spec import RunSpec

if TYPE_CHECKING:
    from jobs.executor import OpenProgress
    from scaling.study import Study
    from scaling.tracking.publish import Summary


TABLE_SUFFIXES = (".csv", ".parquet", ".jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What every verb may be asked: a study (or table) and overrides, a folder of runs, JSON."""

    study: str = ""
    overrides: Sequence[str] = ()
    runs: str | None = None
    json: bool = False

    @property
    def folder(self) -> Path:
        """The folder of runs: --runs, else $SCALING_RUNS, else ./runs."""
        return Path(self.runs or os.environ.get("SCALING_RUNS") or "runs").resolve()

    @property
    def is_table(self) -> bool:
        """Whether a table was named instead of a study."""
        return self.study.lower().endswith(TABLE_SUFFIXES)

    @property
    def progress(self) -> "OpenProgress":
        """What shows how runs advance: nothing where the answer is a document."""
        from jobs.executor import silent
        from scaling.cli.progress import open_progress

        return silent if self.json else open_progress

    def declared(self) -> list[RunSpec]:
        """Return the runs that the study declares: what can be submitted.

        Raises ValueError when there are none.
        """
        from scaling.study import load_study, split_arguments

        scale, overrides = split_arguments(self.overrides)
        specs = _expanded(load_study(self.study), scale, overrides)
        _check_data(specs)
        return _some(specs, self.study, self.overrides)

    def expand(self) -> list[RunSpec]:
        """Return the runs of the study, those of its search as well."""
        return study_runs(self.study, self.overrides, self.folder)

    def show(self, document: Any, render: Callable[[Any], Any]) -> None:
        """Print one JSON document with --json, else what `render` makes of it (text or rich)."""
        if self.json:
            print(json.dumps(plain(document)))  # json.dump writes piece by piece, a third as fast
            return
        from rich.console import Console

        shown = render(document)
        if isinstance(shown, str):
            print(shown)
        else:
            # Piped output has no width of its own; tables need more than the default 80 columns.
            Console(width=None if sys.stdout.isatty() else 140).print(shown)


def study_runs(name: str, words: Sequence[str], folder: Path) -> list[RunSpec]:
    """Return the declared runs of a study and what `scaling search` has added in `folder`.

    `words`: scale and overrides. A trial belongs to them when they leave its science as it is.
    Raises ValueError when there are none.
    """
    from scaling.study import load_study, split_arguments

    scale, overrides = split_arguments(words)
    study = load_study(name)
    found = {spec.run_id: spec for spec in _expanded(study, scale, overrides)}
    if study.search is None:
        return _some(list(found.values()), name, words)
    from scaling.overrides import overrider
    from scaling.search.runs import search_specs

    override = overrider(overrides)
    for spec in search_specs(study.name, folder):
        same = override(spec).run_id == spec.run_id
        if same and spec.scale == (scale or study.default_scale):
            found.setdefault(spec.run_id, spec)
    return _some(list(found.values()), name, words)


def done_runs(specs: list[RunSpec], folder: Path) -> list[RunSpec]:
    """Return the runs that are done; one whose DONE cannot be read is not."""
    from scaling.runs.folder import Run
    from scaling.runs.state import run_status

    return [s for s in specs if run_status(Run.of(folder, s.run_id)).state == "done"]


def warn(problems: Iterable[str]) -> None:
    """Print a line for each damaged file on stderr; the rest of the study goes on."""
    for line in problems:
        print(f"warning: {line}", file=sys.stderr)


def _some(specs: list[RunSpec], study: str, words: Sequence[str]) -> list[RunSpec]:
    if not specs:
        raise ValueError(
            f"study {study} declares no runs with {' '.join(words) or 'it'}; nothing to submit "
            "or to report on"
        )
    return specs


def _expanded(study: "Study", scale: str | None, overrides: list[str]) -> list[RunSpec]:
    """Return the declared runs; where they are searched, a search finds their rungs kept."""
    specs = study.expand(scale, overrides)
    if study.search is None:
        return specs
    from scaling.search.task import keep_rungs

    return [keep_rungs(spec, study.search.rungs) for spec in specs]


def _check_data(specs: Iterable[RunSpec]) -> None:
    """Raise ValueError for a data set that a run names and that is not there."""
    from xvla.domains import check_folders

    seen: set[tuple[str, ...]] = set()
    for data in (spec.data for spec in specs):
        names = (entry.name for entry in data.mixture)
        place = (data.root, *map("=".join, data.roots.items()), "", *names)
        if place not in seen:
            seen.add(place)
            check_folders(data)


def store_of(folder: Path) -> str:
    """Return $MLFLOW_TRACKING_URI, else the SQLite database beside the folder of runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.parent / 'mlflow.db'}"


def existing_store(folder: Path) -> str | None:
    """Return the tracking URI unless it is a database that nobody has made yet."""
    uri = store_of(folder)
    path = uri.removeprefix("sqlite:///")
    return None if path != uri and not Path(path).exists() else uri


def publish(specs: list[RunSpec], folder: Path, *, quiet: bool) -> "Summary | None":
    """Bring MLflow up to date; return what `scaling.tracking.publish.publish` returns.

    An unreachable MLflow, or a wrong address, is a warning (and None): the runs are safe on disk.
    """
    from scaling.tracking.publish import publish as send

    uri = store_of(folder)
    try:
        track = untracked if quiet else progress_bar
        return send(specs, folder, tracking_uri=uri, track=track, say=print_news)
    except (RuntimeError, OSError, ValueError) as error:
        print_news(f"warning: not published to MLflow: {error}; try `scaling sync`")
        return None


def print_news(text: str) -> None:
    """Print a line on stderr, at once."""
    print(text, file=sys.stderr, flush=True)


def progress_bar(items: Sequence[str], label: str) -> Iterable[str]:
    """Yield the items and show on stderr how far it is."""
    from rich.console import Console
    from rich.progress import track

    return track(items, description=label, console=Console(stderr=True))


def untracked(items: Sequence[str], label: str) -> Iterable[str]:
    """Yield the items in silence."""
    return items


def as_json(document: Any) -> str:
    """Return a document as JSON for people."""
    return json.dumps(plain(document), indent=2)
