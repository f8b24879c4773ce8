"""Step folders: written aside, hashed, renamed, then `latest`; a corrupt one is passed over."""

import errno
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.config import write_atomic
from scaling.runs.checkpoints import (
    LATEST,
    OPTIMIZER,
    STATE,
    TrainerState,
    file_sha256,
    read_state,
    step_folders,
    verify,
)
from scaling.runs.folder import MANIFEST, step_name
from scaling.spec import EngineConfig

if TYPE_CHECKING:
    from scaling.training.ema import Ema

LOGGER = logging.getLogger(__name__)
FULL_BYTES = 2**20
# What the system, quotas and numpy ("N requested and M written") say of a full disk.
FULL_MARKS = ("no space left on device", "disk quota exceeded", " requested and ")


class Saver:
    """Saves step folders; with `engine.async_save` training goes on while one is written.

    Then `save` copies the state into host memory and returns; one thread writes, hashes and
    renames as ever. There is never a second save under way. All ranks call the same methods at the
    same step.
    """

    def __init__(
        self, engine: Any, folder: Path, *, keep: EngineConfig, ema: "Ema | None" = None
    ) -> None:
        """Save into `folder`, keeping what `keep` says; `ema`'s mean is what is published."""
        import torch.distributed as dist

        from scaling.training.staging import Buffers

        self._engine, self._folder, self._keep, self._ema = engine, folder, keep, ema
        # Of the weights as trained and of those with the mean, which are the same tensors.
        self._buffers = (Buffers(), Buffers()) if keep.async_save else None
        # A thread must not mix its messages with those of the training.
        self._group = dist.new_group(backend="gloo") if keep.async_save else None
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    @property
    def failed(self) -> bool:
        """Whether the save under way has failed; the next `save` or `wait` raises its error."""
        return self._error is not None

    def save(self, state: TrainerState, *, wait: bool = True) -> None:
        """Save model, optimizer, RNG and `state` (with `step`) after the save before has ended.

        Returns once the folder is in place, with `async_save` and not `wait` once all is copied.
        Raises OSError (disk full) with the half-written folder removed and earlier ones intact,
        on every rank; of a save that was not waited for, at the next call.
        """
        import torch.distributed as dist

        from scaling.training.staging import host_copy, stage

        self.wait()
        aside = self._folder / f".{step_name(state.step)}.tmp"
        with _together(aside, None):
            if dist.get_rank() == 0:
                self._folder.mkdir(parents=True, exist_ok=True)
                _remove_aside(self._folder)
                aside.mkdir()
        own, own_mean = (lambda tensor: tensor), host_copy
        if self._buffers:
            own, own_mean = (buffers.copied for buffers in self._buffers)
        try:
            writes = stage(self._engine, aside, own=own, own_mean=own_mean, ema=self._ema)
        except Exception as error:  # the others wait within DeepSpeed and end with this rank
            if _is_full(error, aside):
                raise OSError(errno.ENOSPC, "no space left on device", str(aside)) from error
            raise
        if self._buffers is None:
            self._write(writes, aside, state)
            return
        for buffers in self._buffers:
            buffers.release()
        self._thread = threading.Thread(
            target=self._write_apart, args=(writes, aside, state), name="saver", daemon=True
        )
        self._thread.start()
        if wait:
            self.wait()

    def wait(self) -> None:
        """Return when no save is under way; raise what the last one raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, _: Any, error: BaseException | None, *__: object) -> None:
        """Wait; a failure of the save comes second to another that is on its way."""
        try:
            self.wait()
        except Exception as late:
            if error is None:
                raise
            LOGGER.warning("the checkpoint under way is lost: %s", late)

    def _write_apart(self, *args: Any) -> None:
        try:
            self._write(*args)
        except Exception as error:
            self._error = error

    def _write(self, writes: list[Callable[[], Any]], aside: Path, state: TrainerState) -> None:
        import torch.distributed as dist

        with _together(aside, self._group):
            for write in writes:
                write()
        with _together(aside, self._group):
            if dist.get_rank() == 0:
                final = self._folder / step_name(state.step)
                _finish(aside, final, state)
                write_atomic(self._folder / LATEST, final.name)
                _remove_after(self._folder, state.step)
                _prune(self._folder, self._keep)


@contextmanager
def _together(aside: Path, group: Any) -> Iterator[None]:
    """Let the ranks go on when all have come through; else remove `aside` and raise on each.

    A full disk, met by any of them, is an OSError on all.
    """
    import torch.distributed as dist

    mine: Exception | None = None
    try:
        yield
    except Exception as error:
        mine = error
    told = mine and (_is_full(mine, aside), f"{type(mine).__name__}: {mine}")
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, told, group=group)
    problems = {rank: problem for rank, problem in enumerate(found) if problem}
    if not problems:
        return
    if dist.get_rank() == 0:
        shutil.rmtree(aside, ignore_errors=True)
    if any(full for full, _ in problems.values()):
        raise OSError(errno.ENOSPC, "no space left on device", str(aside)) from mine
    if mine is not None:
        raise mine
    rank, (_, text) = min(problems.items())
    raise RuntimeError(f"rank {rank} could not write {aside.name}: {text}")


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error, or one that it came of, says that a disk or quota is full.

    By its words as well: safetensors and numpy give no errno.
    """
    said: BaseException | None = error
    while said is not None:
        if isinstance(said, OSError) and said.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(mark in str(said).lower() for mark in FULL_MARKS):
            return True
        said = said.__cause__ or said.__context__
    return False


def _is_full(error: Exception, aside: Path) -> bool:
    """Return whether it is a full disk; torch reports that as a RuntimeError of its own."""
    return is_disk_full(error) or shutil.disk_usage(aside.parents[1]).free < FULL_BYTES


def restore(engine: Any, path: Path, *, ema: "Ema | None" = None) -> TrainerState:
    """Load a step folder into the engine and the RNG; return its saved `state`.

    On another world size or ZeRO stage the optimizer's state is dealt anew (reshard.py);
    ranks that did not exist keep the RNG they were seeded with, which only dropout draws from.
    """
    import torch
    import torch.distributed as dist
    from safetensors.torch import load_file

    state = read_state(path)
    saved_as = (state.world_size, state.zero_stage)
    if saved_as == (dist.get_world_size(), engine.zero_optimization_stage()):
        loaded, _ = engine.load_checkpoint(str(path), tag=OPTIMIZER)
        if loaded is None:
            raise ValueError(f"checkpoint {path} holds no DeepSpeed state; delete it")
    else:
        from scaling.training import reshard

        reshard.load(engine, path / OPTIMIZER, step=state.step)
    file = path / OPTIMIZER / f"rng_{dist.get_rank():05d}.safetensors"
    if file.exists():
        rng = load_file(str(file))
        torch.set_rng_state(rng["cpu"])
        if "cuda" in rng and torch.cuda.is_available():
            torch.cuda.set_rng_state(rng["cuda"])
    if ema:
        ema.load(path / OPTIMIZER)
    return state


def newest_valid(folder: Path) -> Path | None:
    """Return the newest step folder whose hashes agree, warning about each that does not."""
    found_any = False
    for _, path in reversed(step_folders(folder)):
        problem = verify(path)
        if problem is None:
            return path
        LOGGER.warning("skipping checkpoint %s: %s", path, problem)
        found_any = True
    if found_any:
        LOGGER.warning("no checkpoint is whole; starting anew")
    return None


def newest_for_all(folder: Path) -> Path | None:
    """Return what rank 0 finds as `newest_valid` on every rank; one reads the files, not all."""
    import torch.distributed as dist

    found = [newest_valid(folder) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(found, src=0)
    return found[0]


def _finish(aside: Path, final: Path, state: TrainerState) -> None:
    """Complete what all ranks have written, make it durable and put it in place."""
    (aside / STATE).write_text(json.dumps(asdict(state)))
    files = sorted(path for path in aside.rglob("*") if path.is_file())
    digests = {str(path.relative_to(aside)): file_sha256(path) for path in files}
    (aside / MANIFEST).write_text(json.dumps({"step": state.step, "sha256": digests}))
    folders = [path for path in aside.rglob("*") if path.is_dir()]
    for path in [*files, aside / MANIFEST, *folders, aside]:
        _sync(path)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(aside, final)
    _sync(final.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_after(folder: Path, step: int) -> None:
    """Delete the step folders after the one just saved.

    They were passed over as damaged when the run resumed; counted among the last k they would
    push out what is whole.
    """
    for later, path in step_folders(folder):
        if later > step:
            shutil.rmtree(path, ignore_errors=True)


def _prune(folder: Path, keep: EngineConfig) -> None:
    """Delete step folders but for the last k, every m-th, those named, and the best."""
    found = dict(step_folders(folder))
    kept = {*list(found)[-max(1, keep.keep_last) :], *keep.keep_steps}
    kept |= {step for step in found if keep.keep_every and step % keep.keep_every == 0}
    if keep.keep_best:
        kept |= _best(list(found.values()))
    for step, path in found.items():
        if step not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _best(paths: list[Path]) -> set[int]:
    """Return the step with the lowest val/l1 of those evaluated when they were saved."""
    rated = []
    for path in paths:
        with suppress(OSError, ValueError):  # damaged since
            state = read_state(path)
            if state.val_l1 is not None:
                rated.append((state.val_l1, state.step))
    return {min(rated)[1]} if rated else set()


def _remove_aside(folder: Path) -> None:
    """Remove what a kill while saving left half-written."""
    for path in folder.glob(".step_*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
