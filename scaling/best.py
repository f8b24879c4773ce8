"""Chooses the best finished run of a study; turns references into verified checkpoints."""

import logging
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from scaling.document import Document
from scaling.runs.checkpoints import WEIGHTS, Checkpoint, newest_of, open_checkpoint
from scaling.runs.files import DamagedFileError
from scaling.runs.folder import Run, finished_runs
from scaling.spec import RunSpec
from scaling.tracking.registry import alias_name, lookup, model_name, register

LOGGER = logging.getLogger(__name__)
BEST = re.compile(r"best(?:-(?P<size>[^:]+))?:(?P<study>[^,]+)(?:,(?P<words>.+))?")
NEXT_WORD = re.compile(r",(?=[\w.]+=)")  # a value may hold commas of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finished:
    """A finished run: its spec, last step and final metrics."""

    spec: RunSpec
    step: int
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Best(Document):
    """The best finished run and its verified final checkpoint (contract: `best --json`).

    `version` and `alias` are None where it is not registered.
    """

    run_id: str
    step: int
    val_l1: float | None
    val_l1_sem: float | None
    checkpoint: str
    sha256: str
    model_name: str
    version: str | None
    alias: str | None


def best(
    specs: Iterable[RunSpec],
    runs_dir: str | Path,
    *,
    metric: str = "val/l1",
    split: str = "val",
    size: str | None = None,
    tracking_uri: str | None = None,
) -> Best:
    """Return the finished, sighted run with the lowest `metric` and its verified final checkpoint.

    Ties go to the smaller model, then the smaller run id. With `tracking_uri` the checkpoint is
    registered under the study's last name part with the alias `best` and that of its size, or that
    of `size` alone; the same checkpoint keeps its version. Raises ValueError when no run qualifies
    or the checkpoint is missing or corrupt, TrackingError when the store is away.
    """
    _check_selection(metric, split)
    chosen = _choose(_finished(specs, Path(runs_dir)), Path(runs_dir), metric, size=size)
    spec = chosen.spec
    checkpoint = open_checkpoint(Run.of(runs_dir, spec.run_id).step_folder(chosen.step))
    alias, version = None, None
    if tracking_uri:
        alias = alias_name(size)
        labels = {"metric": metric, "value": repr(chosen.metrics[metric])}
        version = register(
            spec,
            Path(runs_dir),
            checkpoint=checkpoint,
            chosen_by=labels,
            aliases=list(dict.fromkeys([alias, alias_name(spec.size)])),
            tracking_uri=tracking_uri,
        )
    return Best(
        run_id=spec.run_id,
        step=checkpoint.step,
        val_l1=chosen.metrics.get("val/l1"),
        val_l1_sem=chosen.metrics.get("val/l1_sem"),
        checkpoint=str(checkpoint.path),
        sha256=checkpoint.sha256,
        model_name=model_name(spec.study),
        version=version,
        alias=alias,
    )


def study_of(reference: str) -> str | None:
    """Return STUDY of `best:STUDY` or `best-<size>:STUDY`, None for another kind of reference."""
    match = BEST.fullmatch(reference)
    return match["study"] if match else None


def words_of(reference: str) -> list[str]:
    """Return the words that `best:STUDY,key=value,...` says the study was submitted with."""
    match = BEST.fullmatch(reference)
    return NEXT_WORD.split(match["words"]) if match and match["words"] else []


def resolve(
    reference: str,
    runs_dir: str | Path,
    *,
    specs: Iterable[RunSpec] = (),
    tracking_uri: str | None = None,
) -> Checkpoint:
    """Return the verified checkpoint that a reference names; it does not change afterwards.

    `best:STUDY[,key=value...]`, `best-<size>:STUDY` (chosen among the finished runs of `specs`,
    the study's runs with these words; where none is finished here and no word is given, the alias
    registered at `tracking_uri`), `run:<id>` (final, or latest while it runs), or the path of a
    step folder or run folder. Raises ValueError for an unknown reference, run or alias and for a
    checkpoint that is missing or corrupt.
    """
    folder = Path(runs_dir)
    if match := BEST.fullmatch(reference):
        finished = _finished(specs, folder)
        if not finished:
            return _not_among(match, folder, tracking_uri)
        chosen = _choose(finished, folder, "val/l1", size=match["size"])
        return open_checkpoint(Run.of(folder, chosen.spec.run_id).step_folder(chosen.step))
    if reference.startswith("run:") and reference != "run:":
        return open_checkpoint(newest_of(Run.of(folder, reference.removeprefix("run:"))))
    path = Path(reference).expanduser()
    if not path.is_dir():
        raise ValueError(
            f"{reference!r} names no checkpoint; give best:STUDY, best:STUDY,key=value, "
            "best-<size>:STUDY, run:<id> or the path of a step folder"
        )
    run = Run(path)
    return open_checkpoint(newest_of(run) if run.checkpoints.is_dir() else path)


def _not_among(match: re.Match[str], runs_dir: Path, tracking_uri: str | None) -> Checkpoint:
    """Follow the registered alias of a study with no finished run; else say what there is."""
    others = _finished_under(match["study"], runs_dir)
    if tracking_uri and not match["words"]:
        try:
            return _resolve_alias(match["study"], runs_dir, match["size"], tracking_uri)
        except ValueError:
            if not others:
                raise
    if others:
        raise ValueError(_ask_for_words(match[0], others))
    raise ValueError(_none_finished(runs_dir))


def _resolve_alias(study: str, runs_dir: Path, size: str | None, tracking_uri: str) -> Checkpoint:
    """Follow a registered alias to its checkpoint, below `runs_dir` or where it was registered."""
    found = lookup(study, alias_name(size), tracking_uri=tracking_uri)
    here = Run.of(runs_dir, found.run_id).step_folder(found.step)
    checkpoint = open_checkpoint(here if here.is_dir() else found.path)
    if checkpoint.sha256 != found.sha256:
        raise ValueError(
            f"checkpoint {checkpoint.path} is not the one registered as {alias_name(size)} of "
            f"{study}: its weights have another sha256; run `scaling best {study}` again"
        )
    return checkpoint


def _check_selection(metric: str, split: str) -> None:
    if split != "val" or not metric.startswith("val/"):
        raise ValueError(
            f"cannot choose by {metric!r} on split {split!r}: val/* is for choosing and test/* for "
            "reporting; give a metric that starts with val/"
        )


def _finished(specs: Iterable[RunSpec], runs_dir: Path) -> list[_Finished]:
    """Return the finished runs that were trained with images."""
    found, damaged = [], []
    for spec in specs:
        try:
            done = None if spec.data.blind else Run.of(runs_dir, spec.run_id).done()
        except DamagedFileError as error:
            damaged.append(str(error))
            continue
        if done:
            found.append(_Finished(spec=spec, step=done.step, metrics=done.metrics))
    if damaged and not found:
        raise DamagedFileError(damaged[0])
    for line in damaged:
        LOGGER.warning("left out: %s", line)
    return found


def _finished_under(study: str, runs_dir: Path) -> list[str]:
    """Return the ids of finished runs that any submission of the study made, whatever its words."""
    found = []
    for run in finished_runs(runs_dir):
        if run.is_prepared():
            # RunSpec.to_yaml begins with study, scale, stage.
            with open(run.spec_file, errors="replace") as stream:
                words = (line.split() for line in islice(stream, 3))
                head = {pair[0]: pair[1] for pair in words if len(pair) > 1}
            ours = head.get("study:") == study and head.get("stage:") == "pretrain"
            found += [run.run_id] if ours else []
    return found


def _ask_for_words(reference: str, others: Sequence[str]) -> str:
    shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
    return (
        f"{reference!r}: none of the runs that it names is finished, but {len(others)} of the "
        f"study submitted with other words are ({shown}); add them, as in best:STUDY,scale=cpu,"
        "num_steps=100, or name one run with run:<id>"
    )


def _choose(
    finished: Sequence[_Finished], runs_dir: Path, metric: str, *, size: str | None
) -> _Finished:
    """Return the run with the smallest (metric, number of parameters, run id)."""
    if not finished:
        raise ValueError(_none_finished(runs_dir))
    fitting = [run for run in finished if size in (None, run.spec.size)]
    if not fitting:
        sizes = ", ".join(sorted({run.spec.size for run in finished}))
        raise ValueError(f"no finished run of size {size!r}; finished sizes: {sizes}")
    scored = [(run.metrics[metric], run) for run in fitting if _is_number(run.metrics.get(metric))]
    if not scored:
        names = sorted({name for run in fitting for name in run.metrics if name.startswith("val/")})
        raise ValueError(f"no finished run has {metric!r}; known: {', '.join(names) or 'none'}")
    lowest = min(value for value, _ in scored)
    tied = [run for value, run in scored if value == lowest]
    if len(tied) == 1:
        return tied[0]
    return min(tied, key=lambda run: (_num_params(runs_dir, run), run.spec.run_id))


def _none_finished(runs_dir: Path) -> str:
    return (
        f"no finished run of the study in {runs_dir}; see `scaling status STUDY`, then "
        "`scaling submit STUDY`"
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _num_params(runs_dir: Path, run: _Finished) -> float:
    """Count the parameters in the header of the weights file; infinite where it is missing."""
    from safetensors import safe_open

    path = Run.of(runs_dir, run.spec.run_id).step_folder(run.step) / WEIGHTS
    if not path.exists():
        return math.inf
    with safe_open(path, framework="np") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in list(weights.keys())]
    return sum(math.prod(shape) for shape in shapes)
