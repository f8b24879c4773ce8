"""Scores beside val/l1 for a study's own runs: computed when asked, kept, and put in its table.

`scaling report STUDY --score horizon_l1` compares prediction windows over one fixed horizon;
`--score adapted_success` by rollouts after finetuning, as in the paper's appendix C.4.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.cli.arguments import Asked, done_runs
from scaling.runs.files import read_json_or_none
from scaling.spec import RunSpec

if TYPE_CHECKING:
    from scaling.study import Search

Verb = Callable[..., int]
# A score's name -> its column. Success is turned round: a table's errors fall when runs improve.
COLUMNS = {"val_l1": "val_l1", "horizon_l1": "horizon_l1", "adapted_success": "adapted_failure"}


def scored(verb: Verb) -> Verb:
    """Return a verb on a study's table that with --score first scores its done runs, and by it."""

    @functools.wraps(verb)
    def run(asked: Asked, *, score: str | None, **words: Any) -> int:
        if score:
            _score_runs(score, asked)
            if "y" in words:
                words["y"] = COLUMNS[score]
        return verb(asked, **words)

    return run


def score_columns(specs: Sequence[RunSpec], folder: Path) -> dict[str, dict[str, float]]:
    """Return run id -> the columns of the scores that are known of it; nothing is computed."""
    found: dict[str, dict[str, float]] = {}
    if not specs or not _cache(specs[0], folder).is_dir():
        return found
    from scaling.scores import kept_score

    search, cache = _search(specs), _cache(specs[0], folder)
    for spec in specs:
        for name in ("horizon_l1", "adapted_success"):
            kept = read_json_or_none(
                kept_score(name, spec, spec.num_steps, search=search, cache=cache)
            )
            if kept:
                column = COLUMNS[name]
                values = {column: kept["value"], f"{column}_sem": kept["sem"]}
                found.setdefault(spec.run_id, {}).update(values)
    return found


def _score_runs(name: str, asked: Asked) -> None:
    """Compute and keep a score of every done, sighted run; raise ValueError when none has it."""
    from scaling.scores import NAMES

    if name not in NAMES:
        raise ValueError(f"score {name!r} is unknown; allowed: {', '.join(NAMES)}")
    if asked.is_table:
        raise ValueError("--score belongs to a study; name a column of a table with --y")
    if name == "val_l1":
        return
    specs, folder = asked.expand(), asked.folder
    search = _search(specs)
    done = [spec for spec in done_runs(specs, folder) if not spec.data.blind]
    if not done:
        raise ValueError(
            f"no run of {asked.study} is done in {folder}, so none can be scored by {name}; "
            "see `scaling status STUDY`"
        )
    missing: list[str] = []
    for index, spec in enumerate(done):
        try:
            _score_one(name, spec, search, folder)
        except ValueError as error:  # no rollout of this one
            missing.append(str(error))
        print(f"{name}: {index + 1} of {len(done)} runs", file=sys.stderr, flush=True)
    if len(missing) == len(done):
        raise ValueError(missing[0])


def _score_one(name: str, spec: RunSpec, search: "Search", folder: Path) -> None:
    """Score the last checkpoint of a run. Rollouts are read again each time: they grow."""
    import json
    from dataclasses import asdict

    from scaling.config import write_atomic
    from scaling.scores import kept_score, make_scorer

    step, cache = spec.num_steps, _cache(spec, folder)
    found = make_scorer(name, search, folder, cache)(spec, step)
    if found is None:
        raise ValueError(f"run {spec.run_id} is done but its last checkpoint is gone; retry it")
    if name == "adapted_success":
        path = kept_score(name, spec, step, search=search, cache=cache)
        write_atomic(path, json.dumps(asdict(found)))


def _cache(spec: RunSpec, folder: Path) -> Path:
    """Return where scores are kept: beside those of a search of the study, which are the same."""
    from scaling.search.runs import search_folder

    return search_folder(folder, spec.study) / "scores"


def _search(specs: Sequence[RunSpec]) -> "Search":
    """Return the study's search where it has windows of its own, else one over its runs'."""
    from scaling.study import Choice, Search, load_study

    declared = load_study(specs[0].study).search
    if declared is not None and isinstance(declared.space.get("prediction_window_s"), Choice):
        return declared
    windows = sorted({spec.data.prediction_window_s for spec in specs})
    space = {"prediction_window_s": Choice(tuple(windows))}
    return Search(space=space, defaults={}, first=(), run={})
