"""One attempt at a run, from the RunSpec to the DONE file."""

import logging
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from scaling.branch import branch_point, wait_for_trunk
from scaling.code_digest import code_digest
from scaling.cost import cost_of
from scaling.devices import bf16_warning, memory_available
from scaling.feature_sizes import can_cache
from scaling.memory import check_states_fit
from scaling.runs.attempts import AttemptFile, total_gpu_hours
from scaling.runs.checkpoints import read_state
from scaling.runs.files import write_json
from scaling.runs.folder import CANCELLED, Run
from scaling.runs.log import RunLog, finite
from scaling.runs.process import this_host
from scaling.spec import RunSpec
from scaling.training import checkpoint
from scaling.training.ema import Ema
from scaling.training.engine import (
    attention_kernel,
    batch_plan,
    initialize,
    start_distributed,
)
from scaling.training.features import FeatureCache
from scaling.training.initial import build_model, check_initial
from scaling.training.reshard import can_reshard
from scaling.training.trainer import Trainer
from scaling.training.validation import StoppedError, Validation
from scaling.training.watchdog import Watchdog
from xvla.data.caches import options_of
from xvla.data.evaluation import EvalSplit, eval_digest, eval_frames
from xvla.data.loader import Loader, make_loader
from xvla.data.normalise import Normaliser, fit_normaliser
from xvla.data.sources import Mixture
from xvla.data.verify import verify_mixture

LOGGER = logging.getLogger(__name__)
SPLITS: tuple[EvalSplit, ...] = ("val", "test")


def advance(spec: RunSpec, run: Run, stop_requested: Callable[[], bool]) -> bool:
    """Advance the run from its newest checkpoint; return True when it is done.

    Raises ValueError for a user's mistake (data, checkpoint), NonFiniteLossError, OSError.
    """
    mixture = checked_inputs(spec)
    device = start_distributed(spec)
    _check_machine(spec, device)
    main = dist.get_rank() == 0
    attempt = AttemptFile(run, num_gpus=_gpus(spec)) if main else None
    log = RunLog(run, num_steps=spec.num_steps, attempt=attempt.number) if attempt else None
    trainer: Trainer | None = None

    def end(reason: str) -> None:
        if attempt:
            attempt.close(reason=reason, last_step=trainer.step if trainer else 0)

    def on_hang(why: str) -> None:
        end(f"error: {why}")
        if main:
            run.write_failed(why, step=trainer.step if trainer else 0)

    watchdog = Watchdog(spec.engine.hang_timeout_s, on_hang)
    finished, metrics = False, dict[str, float]()
    try:
        if attempt:
            _forget_failure(run)
            attempt.open()
        if _await_trunk(spec, run, stop_requested, log=log, watchdog=watchdog):
            trainer = _prepare(
                spec,
                run,
                device,
                mixture=mixture,
                log=log,
                watchdog=watchdog,
                stop_requested=stop_requested,
            )
            if attempt:
                attempt.open(trainer.step)
            with suppress(StoppedError):  # all that counts is saved: it evaluates when it goes on
                if spec.stage == "finetune" and trainer.step == 0:
                    _evaluate_start(trainer, log)
                if trainer.fit(stop_requested):
                    metrics = _final_metrics(spec, trainer, log)
                    finished = True
    except BaseException as error:
        end(f"error: {type(error).__name__}: {error}")
        raise
    else:
        end("done" if finished else "signal")
        if main and finished:
            _write_done(spec, run, metrics)  # last: it adds up the hours of closed attempts
        return finished
    finally:
        watchdog.stop()
        if dist.is_initialized():
            dist.destroy_process_group()


def checked_inputs(spec: RunSpec) -> Mixture:
    """Return the run's data, open; writes nothing.

    Raises ValueError for data or weights that are not what the run declares.
    """
    mixture = Mixture.open(spec.data)
    verify_mixture(mixture)
    check_initial(spec)
    return mixture


def _check_machine(spec: RunSpec, device: torch.device) -> None:
    """Raise ValueError where the model's states do not fit; warn where bf16 is slow."""
    check_states_fit(spec, memory_available(device, ranks=spec.resources.processes_per_node))
    if dist.get_rank() == 0 and (warning := bf16_warning(device, spec.precision)):
        LOGGER.warning(warning)


def _await_trunk(
    spec: RunSpec,
    run: Run,
    stop_requested: Callable[[], bool],
    *,
    log: RunLog | None,
    watchdog: Watchdog,
) -> bool:
    """Wait for a branch's trunk, with signs of life; return False when asked to stop meanwhile.

    The ranks agree every second, as they look at the files and get signals at different times.
    """
    if not spec.init.trunk or _gpus(spec):  # a machine of GPUs is not kept waiting
        return True
    waiting = wait_for_trunk(spec, run.folder.parent)
    while True:
        flags = torch.tensor([stop_requested(), next(waiting, False)], dtype=torch.int32)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        stop, pending = flags.bool().tolist()
        if stop or not pending:
            return not stop
        watchdog.touch("waiting for the trunk")
        if log:
            log.beat(0, "start")


def _forget_failure(run: Run) -> None:
    """Remove an earlier attempt's FAILED, but not a cancellation that has just arrived."""
    failed = run.failed()
    if failed is not None and failed.reason != CANCELLED:
        run.failed_file.unlink()


def _prepare(
    spec: RunSpec,
    run: Run,
    device: torch.device,
    *,
    mixture: Mixture,
    log: RunLog | None,
    watchdog: Watchdog,
    stop_requested: Callable[[], bool],
) -> Trainer:
    """Build model, engine and trainer on open data; resume from the newest valid checkpoint."""
    if log:
        log.beat(0, "start")
    start = _starting_point(spec, run)  # first: what is refused is refused at once
    normaliser = fit_normaliser(mixture)
    torch.manual_seed(spec.seeds.init)
    model = build_model(spec).to(device)
    cache = _feature_cache(spec, model, run, mixture=mixture, log=log, watchdog=watchdog)
    engine = initialize(spec, model)
    ema = Ema(engine.module, spec.optim.ema_decay) if spec.optim.ema_decay else None
    torch.manual_seed(spec.seeds.data * 1_000_003 + dist.get_rank())
    step, owes_evaluation = 0, False
    if start is not None:
        state = checkpoint.restore(engine, start, ema=ema)
        owes_evaluation = state.run_id == spec.run_id and state.owes_evaluation
        step, normaliser = state.step, Normaliser.from_dict(state.normaliser)
    watchdog.touch(f"resuming at step {step}")
    if dist.get_rank() == 0:
        _write_environment(spec, run, mixture, device)
    loader = _train_loader(
        spec,
        mixture.with_fields(decode_images=cache is None),
        normaliser,
        step=step,
        device=str(device),
    )
    validation = Validation(
        spec,
        engine,
        mixture=mixture,
        normaliser=normaliser,
        cache=cache,
        home=run,
        on_batch=watchdog.touch,
        stop_requested=stop_requested,
    )
    return Trainer(
        spec,
        engine,
        loader,
        log=log,
        validation=validation,
        cache=cache,
        home=run,
        watchdog=watchdog,
        ema=ema,
        step=step,
        owes_evaluation=owes_evaluation,
    )


def _train_loader(
    spec: RunSpec, mixture: Mixture, normaliser: Normaliser, *, step: int, device: str
) -> Loader:
    """Return this rank's batches from a step on."""
    mixture = mixture.with_fields(
        batch_size=batch_plan(spec)[0], num_workers=spec.engine.num_workers
    )
    return make_loader(
        mixture,
        split="train",
        seed=spec.seeds.data,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        start_sample=step * spec.global_batch_size,
        normaliser=normaliser,
        options=options_of(mixture, device=device),
    )


def _feature_cache(
    spec: RunSpec,
    model: Any,
    run: Run,
    *,
    mixture: Mixture,
    log: RunLog | None,
    watchdog: Watchdog,
) -> FeatureCache | None:
    if not can_cache(spec):
        return None

    def on_progress(*where: object) -> None:
        watchdog.touch(f"computing features {where}")
        if log:
            log.beat(0, "features")

    model.eval()
    cache = FeatureCache(spec, model, run.folder.parent / "_features", mixture=mixture)
    cache.prepare(on_progress)
    return cache


def _starting_point(spec: RunSpec, run: Run) -> Path | None:
    """Return the newest whole checkpoint, else the branch point, else None.

    Raises ValueError where it is missing, damaged, or not for this run to go on from.
    """
    start = checkpoint.newest_for_all(run.checkpoints)
    if start is not None:
        _check_resumable(spec, start, owner=spec.run_id)
    elif spec.init.trunk:
        start = branch_point(spec, run.folder.parent)
        _check_resumable(spec, start, owner=spec.init.trunk)
    return start


def _evaluate_start(trainer: Trainer, log: RunLog | None) -> None:
    """Log the parent's errors on the new domain, before the first update."""
    metrics: dict[str, float] = {}
    for split in SPLITS:
        metrics |= trainer.validation.run(split, step=0)
    if log:
        log.log(0, 0, metrics)


def _check_resumable(spec: RunSpec, path: Path, *, owner: str) -> None:
    """Raise ValueError for a checkpoint of another run, or one that cannot be dealt anew."""
    state = read_state(path)
    if state.run_id != owner:
        raise ValueError(
            f"checkpoint {path} belongs to run {state.run_id}, not to {owner}; "
            "delete it or train in a folder of its own"
        )
    found = (state.world_size, state.zero_stage)
    wanted = (dist.get_world_size(), spec.engine.zero_stage)
    if found == wanted:
        return
    if not can_reshard((found[1], wanted[1]), spec.precision):
        raise ValueError(
            f"checkpoint {path} was saved by {found[0]} ranks at ZeRO stage {found[1]}, this is "
            f"{wanted[0]} at stage {wanted[1]}; in bf16 only stages 1 and 2 change: set "
            f"engine.zero_stage={found[1]} with {found[0]} ranks, or delete checkpoints/"
        )
    if dist.get_rank() == 0:
        LOGGER.warning(
            "resuming %s, saved by %d ranks at ZeRO stage %d, on %d at stage %d; losses agree to "
            "rounding, not to the bit",
            path.name,
            *found,
            *wanted,
        )


def _final_metrics(spec: RunSpec, trainer: Trainer, log: RunLog | None) -> dict[str, float]:
    """Evaluate validation and test splits and the trivial predictors; log and return them."""
    trainer.engine.eval()
    metrics: dict[str, float] = {}
    for split in SPLITS:
        if log:
            log.beat(trainer.step, "evaluate", eta_s=0.0)
        with trainer.averaged():
            metrics |= trainer.validation.run(split, step=trainer.step)
        metrics |= trainer.validation.baselines(split)
    if log:
        log.log(trainer.step, spec.num_samples_seen, metrics)
    return metrics


def _write_done(spec: RunSpec, run: Run, metrics: dict[str, float]) -> None:
    done = {
        "step": spec.num_steps,
        "num_samples_seen": spec.num_samples_seen,
        "time": time.time(),
        "metrics": {
            **finite(metrics),
            "compute/flops": cost_of(spec).compute_flops,
            "compute/gpu_hours": total_gpu_hours(run) or 0.0,
        },
    }
    write_json(run.done_file, done)


def _write_environment(spec: RunSpec, run: Run, mixture: Mixture, device: torch.device) -> None:
    packages = ("torch", "deepspeed", "transformers", "numpy")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    kernel = attention_kernel(spec, device.type)
    LOGGER.info("attention kernel: %s on %s in %s", kernel, name, spec.precision)
    environment = {
        "host": this_host(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "code_digest": code_digest(),
        "world_size": dist.get_world_size(),
        "device": name,
        "attention": kernel,
        "eval_manifest": {split: eval_digest(eval_frames(mixture, split)) for split in SPLITS},
    }
    write_json(run.environment_file, environment)


def _gpus(spec: RunSpec) -> int:
    return spec.resources.nodes * spec.resources.gpus_per_node
