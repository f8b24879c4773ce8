"""Hands the unfinished runs of a study to a cluster as job arrays."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.cluster import Cluster, check_fits
from jobs.executor import ChainedJob, HandedOver, JobArray
from jobs.handover import choose_runs, prepare
from jobs.pricing import Price, price_within
from jobs.queue import read_held, submission_lock
from jobs.slurm.chain import chain_is_pending
from jobs.slurm.commands import (
    SlurmError,
    SlurmSilenceError,
    SlurmUnreachableError,
    jobs_by_script,
    max_array_size,
    sbatch,
    scancel,
)
from jobs.slurm.orphans import recover_ids
from jobs.slurm.queue import job_of, read_slurm
from jobs.slurm.sbatch import Array, make_arrays, one_at_a_time, render_array, render_chained
from jobs.slurm.submissions import (
    ArrayJob,
    Submission,
    new_folder,
    slurm_folder,
    write_manifests,
)
from scaling.runs.folder import SPEC, Run
from scaling.runs.state import Hold
from scaling.spec import RunSpec


def submit(
    specs: Sequence[RunSpec],
    runs_dir: str | Path,
    cluster: Cluster,
    *,
    parallel: int = 0,
    price: Price | None = None,
    max_gpu_hours: float | None = None,
    then: Sequence[Sequence[str]] = (),
    retry_failed: bool = True,
    dry_run: bool = False,
) -> HandedOver:
    """Hand every unfinished run to Slurm and return at once; asking twice submits nothing twice.

    `price(specs)` gives GPU-hours (None on CPU), refused above `max_gpu_hours`. `then`: commands
    of `scaling` chained behind all the runs, also those done or handed over before; the same
    ones are not chained twice. A dry run refuses and returns the same, with
    the batch script of each array, and leaves everything as it is.

    Raises ValueError for what does not fit and what Slurm refuses, SlurmUnreachableError where
    Slurm does not answer; no marker is changed then, and nothing is left in the queue unless the
    message says that it may be.
    """
    specs = list(specs)
    runs_dir = Path(runs_dir).absolute()
    check_fits(cluster, specs)
    _check_chain(then, specs)
    locked = nullcontext(read_held(runs_dir)) if dry_run else _held(specs, runs_dir, cluster)
    with locked as held:
        ours = choose_runs(specs, runs_dir, retry_failed=retry_failed, held=held, dry_run=dry_run)
        hours = price_within(price, ours.todo, max_gpu_hours)
        chain = _chain_behind(specs, runs_dir, then, held)
        hand_over = _preview if dry_run else _hand_over
        record, scripts = hand_over(ours.todo, runs_dir, cluster, parallel, chain)
    return HandedOver(
        study=specs[0].study if specs else "",
        cluster=cluster.name,
        submitted=len(ours.todo),
        **ours.skipped(),
        gpu_hours=hours,
        arrays=[
            JobArray(**item.to_dict() | {"runs": len(item.runs)}, script=script)
            for item, script in zip(record.arrays, scripts, strict=True)
        ],
        chain=record.chain,
        submission=record.folder or None,
        dry_run=dry_run,
    )


@contextmanager
def _held(specs: list[RunSpec], runs_dir: Path, cluster: Cluster) -> Iterator[Mapping[str, Hold]]:
    """Keep others from submitting meanwhile; on an error restore folders, and say it in a line."""
    try:
        recover_ids(
            runs_dir
        )  # a submission that was killed in sbatch left jobs that no record knows
        with submission_lock(runs_dir), _restored_on_error(specs, runs_dir):
            prepare(specs, runs_dir)
            read_slurm(runs_dir, fresh=True)  # what is held is of now; raises where Slurm is away
            yield read_held(runs_dir)
    except SlurmError as error:
        kind = SlurmUnreachableError if isinstance(error, SlurmSilenceError) else ValueError
        raise kind(f"cluster {cluster.name}: {error}; nothing was submitted") from None


def _check_chain(then: Sequence[Sequence[str]], specs: list[RunSpec]) -> None:
    """Refuse what a chained job of one process and GPU could not do."""
    widest = max((spec.resources.world_size for spec in specs), default=1)
    if widest > 1 and any(words[0] == "finetune" for words in then):
        raise ValueError(
            f"--then finetune starts one process, and would keep the {widest} of the study's runs; "
            "leave it out, and when they are done run `scaling finetune` by hand on a node of the "
            "cluster, with resources.nodes=1 resources.gpus_per_node=GPUS_OF_THE_NODE"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chain:
    """The commands behind the runs of a study; `arrays_before`: those that hold some already."""

    study: str
    commands: Sequence[Sequence[str]]
    run_ids: list[str]
    arrays_before: list[str]


def _chain_behind(
    specs: list[RunSpec], runs_dir: Path, then: Sequence[Sequence[str]], held: Mapping[str, Hold]
) -> _Chain:
    """Return what to chain behind all of the study's runs, nothing where it is pending already."""
    study = specs[0].study if specs else ""
    run_ids = [spec.run_id for spec in specs] if then else []
    jobs = filter(None, (job_of(held.get(run_id)) for run_id in run_ids))
    arrays = {job.partition("_")[0] for job in jobs}
    pending = bool(then) and chain_is_pending(runs_dir, study, then, run_ids)
    return _Chain(
        study=study,
        commands=[] if pending else then,
        run_ids=run_ids,
        arrays_before=sorted(arrays, key=int),
    )


def _preview(
    todo: list[RunSpec], runs_dir: Path, cluster: Cluster, parallel: int, chain: _Chain
) -> tuple[Submission, Sequence[str | None]]:
    """Return the record that `_hand_over` would, and scripts; THEN-N stands for a job id."""
    arrays = make_arrays(todo, cluster, max_array_size=_array_size(cluster), parallel=parallel)
    where = slurm_folder(runs_dir) / "SUBMISSION"
    scripts = [render_array(a, cluster, submission=where, runs_dir=runs_dir) for a in arrays]
    behind = [
        ChainedJob(job_id=f"THEN-{index}", command=" ".join(words))
        for index, words in enumerate(chain.commands)
    ]
    return Submission(arrays=[_array_job(array) for array in arrays], chain=behind), scripts


def _hand_over(
    todo: list[RunSpec],
    runs_dir: Path,
    cluster: Cluster,
    parallel: int,
    chain: _Chain,
) -> tuple[Submission, Sequence[str | None]]:
    """Submit arrays and chain; on any error cancel what went out and raise.

    Where that is not sure to have worked, the record stays as it is, for `recover_ids`.
    """
    if not todo and not chain.commands:
        return Submission(), []
    arrays = make_arrays(todo, cluster, max_array_size=_array_size(cluster), parallel=parallel)
    folder = new_folder(runs_dir, chain.study)
    write_manifests(folder, [[spec.run_id for spec in array.specs] for array in arrays])
    record = Submission(
        study=chain.study,
        cluster=cluster.name,
        time=time.time(),
        folder=str(folder),
        waits_for=chain.run_ids,
        arrays=[_array_job(array) for array in arrays],
    )
    record.write()
    try:
        _submit_arrays(arrays, cluster, runs_dir, record)
        _submit_chain(chain, cluster, record)
    except BaseException as error:
        if _withdrawn(record, error):
            replace(record, arrays=[], chain=[]).write()
        elif isinstance(error, Exception):
            raise SlurmUnreachableError(
                f"cluster {cluster.name}: {error}; some of it may be in the queue; submit again "
                "finds it"
            ) from None
        raise
    return record, [None] * len(arrays)


def _withdrawn(record: Submission, error: BaseException) -> bool:
    """Cancel what went out; return whether Slurm is sure to have nothing of it.

    An sbatch that was not answered, or interrupted, may have been heard: its script tells.
    """
    unsure = isinstance(error, SlurmSilenceError) or not isinstance(error, Exception)
    try:
        scancel(record.job_ids)
        jobs = jobs_by_script()
        ids = {i for path in record.path.resolve().glob("*.sbatch") for i in jobs.get(path, ())}
        heard = sorted(ids - set(record.job_ids))
        scancel(heard)
    except SlurmError:
        return False
    return bool(heard) or not unsure


def _submit_arrays(
    arrays: list[Array], cluster: Cluster, runs_dir: Path, record: Submission
) -> None:
    folder = record.path
    in_turn, before = one_at_a_time(arrays, cluster), ""
    for array in arrays:
        script = folder / f"array-{array.index}.sbatch"
        script.write_text(render_array(array, cluster, submission=folder, runs_dir=runs_dir))
        behind = [f"--dependency=afterany:{before}"] if in_turn and before else []
        before = sbatch(str(script), *behind)
        record.arrays[array.index].job_id = before
        record.write()


def _submit_chain(chain: _Chain, cluster: Cluster, record: Submission) -> None:
    folder, before = record.path, [*chain.arrays_before, *record.job_ids]
    after = f"afterany:{':'.join(before)}" if before else ""
    for index, words in enumerate(chain.commands):
        text = render_chained(words, cluster, index=index, submission=folder, after=after)
        script = folder / f"then-{index}.sbatch"
        script.write_text(text)
        job_id = sbatch(str(script))
        record.chain.append(ChainedJob(job_id=job_id, command=" ".join(words)))
        record.write()
        after = f"afterok:{job_id}"


@contextmanager
def _restored_on_error(specs: list[RunSpec], runs_dir: Path) -> Iterator[None]:
    """Where the submission fails, put FAILED markers back that `choose_runs` cleared.

    Folders that it made go again, as a run.yaml says "queued", unless Slurm may have their runs.
    """
    runs = [Run.of(runs_dir, spec.run_id) for spec in specs]
    markers = [path for run in runs for path in (run.failed_file, run.done_file)]
    before = {path: path.read_bytes() for path in markers if path.exists()}
    new = [run for run in runs if not run.exists()]
    try:
        yield
    except BaseException as error:
        for path, content in before.items():
            if not path.exists():
                path.write_bytes(content)
        if isinstance(error, Exception) and not isinstance(error, SlurmUnreachableError):
            _remove_prepared(new)
        raise


def _remove_prepared(runs: list[Run]) -> None:
    for run in runs:
        if run.exists() and [path.name for path in run.folder.iterdir()] == [SPEC]:
            run.spec_file.unlink()
            run.folder.rmdir()


def _array_size(cluster: Cluster) -> int:
    return cluster.max_array_size or max_array_size()


def _array_job(array: Array) -> ArrayJob:
    asked = array.specs[0].resources
    return ArrayJob(
        name=array.name,
        runs=[spec.run_id for spec in array.specs],
        nodes=asked.nodes,
        gpus_per_node=asked.gpus_per_node,
        limit=array.limit,
    )
