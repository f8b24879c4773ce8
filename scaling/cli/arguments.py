"""What the commands share: folders, expansion, MLflow, output."""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.document import plain
from scaling.spec import RunSpec

if TYPE_CHECKING:
    from jobs.executor import OpenProgress
    from scaling.study import Study
    from scaling.tracking.publish import Summary


def runs_folder(arguments: Namespace) -> Path:
    """Return the folder of runs: --runs, else $SCALING_RUNS, else ./runs."""
    return Path(arguments.runs or os.environ.get("SCALING_RUNS") or "runs").resolve()


def declared(arguments: Namespace) -> list[RunSpec]:
    """Return the runs that the study named on the command line declares: what can be submitted.

    Raises ValueError when there are none.
    """
    from scaling.study import load_study, split_arguments

    scale, overrides = split_arguments(arguments.overrides)
    specs = _expanded(load_study(arguments.study), scale, overrides)
    return _some(specs, arguments.study, arguments.overrides)


def expand(arguments: Namespace) -> list[RunSpec]:
    """Return the runs of the study named on the command line, those of its search as well."""
    return study_runs(arguments.study, arguments.overrides, runs_folder(arguments))


def study_runs(name: str, words: list[str], folder: Path) -> list[RunSpec]:
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


def _some(specs: list[RunSpec], study: str, words: list[str]) -> list[RunSpec]:
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


def tracking_uri(folder: Path) -> str:
    """Return $MLFLOW_TRACKING_URI, else the SQLite database beside the folder of runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.parent / 'mlflow.db'}"


def existing_store(folder: Path) -> str | None:
    """Return the tracking URI unless it is a database that nobody has made yet."""
    uri = tracking_uri(folder)
    path = uri.removeprefix("sqlite:///")
    return None if path != uri and not Path(path).exists() else uri


def publish(specs: list[RunSpec], folder: Path, *, quiet: bool) -> "Summary | None":
    """Bring MLflow up to date; return what `scaling.tracking.publish.publish` returns.

    An unreachable MLflow, or a wrong address, is a warning (and None): the runs are safe on disk.
    """
    from scaling.tracking.publish import publish as send

    uri = tracking_uri(folder)
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


def progress_of(arguments: Namespace) -> "OpenProgress":
    """Return what shows how runs advance: nothing where the answer is a document."""
    from jobs.executor import silent
    from scaling.cli.progress import open_progress

    return silent if arguments.json else open_progress


def show(arguments: Namespace, document: Any, render: Any) -> None:
    """Print one JSON document with --json, else what `render` makes of it (text or rich)."""
    if arguments.json:
        print(json.dumps(plain(document)))  # json.dump writes piece by piece, a third as fast
        return
    from rich.console import Console

    shown = render(document)
    if isinstance(shown, str):
        print(shown)
    else:
        # Piped output has no width of its own; tables need more than the default 80 columns.
        Console(width=None if sys.stdout.isatty() else 140).print(shown)


def as_json(document: Any) -> str:
    """Return a document as JSON for people."""
    return json.dumps(plain(document), indent=2)


def option(arguments: Namespace, name: str) -> Any:
    """Return an option, None where the caller has none of that name."""
    return getattr(arguments, name, None)
