"""Step folders: written aside, hashed, renamed, then `latest`; a corrupt one is passed over."""

import errno
import hashlib
import json
import os
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaling.config import write_atomic
from scaling.spec import EngineConfig

if TYPE_CHECKING:
    from scaling.ema import Ema

FULL_BYTES = 2**20


def step_name(step: int) -> str:
    """Return the folder name of a step, e.g. step_0001000."""
    return f"step_{step:07d}"


def save(
    engine: Any,
    folder: Path,
    *,
    state: dict[str, Any],
    keep: EngineConfig,
    ema: "Ema | None" = None,
) -> Path:
    """Save model, optimizer, RNG and `state` (with `step`) on all ranks; return the new folder.

    With `ema` the published model.safetensors holds the running mean. Raises OSError (disk full)
    with the half-written folder removed and earlier ones intact.
    """
    import torch.distributed as dist

    final = folder / step_name(state["step"])
    aside = folder / f".{final.name}.tmp"
    rank = dist.get_rank()
    try:
        if rank == 0:
            _remove_aside(folder)
            aside.mkdir(parents=True)
        dist.barrier()
        _save_rank(engine, aside, rank, ema)
        dist.barrier()
        with ema.applied() if ema else nullcontext():
            if rank == 0:
                _finish(engine, aside, final, state)
        if rank == 0:
            write_atomic(folder / "latest", final.name)
            _prune(folder, keep)
    except Exception as error:
        # torch's writer reports a full disk as a RuntimeError of its own.
        full = shutil.disk_usage(folder).free < FULL_BYTES
        if rank == 0:
            shutil.rmtree(aside, ignore_errors=True)
        if full:
            raise OSError(errno.ENOSPC, "no space left on device", str(final)) from error
        raise
    dist.barrier()
    return final


def restore(engine: Any, path: Path, *, ema: "Ema | None" = None) -> dict[str, Any]:
    """Load a step folder into the engine and the RNG; return its saved `state`.

    On another world size or ZeRO stage the optimizer's state is dealt anew (scaling.reshard);
    ranks that did not exist keep the RNG they were seeded with, which only dropout draws from.
    """
    import torch
    import torch.distributed as dist
    from safetensors.torch import load_file

    state = json.loads((path / "trainer.json").read_text())
    saved_as = (state["world_size"], state["zero_stage"])
    if saved_as == (dist.get_world_size(), engine.zero_optimization_stage()):
        loaded, _ = engine.load_checkpoint(str(path), tag="deepspeed")
        if loaded is None:
            raise ValueError(f"checkpoint {path} holds no DeepSpeed state; delete it")
    else:
        from scaling import reshard

        reshard.load(engine, path / "deepspeed", step=state["step"])
    file = path / "deepspeed" / f"rng_{dist.get_rank():05d}.safetensors"
    if file.exists():
        rng = load_file(str(file))
        torch.set_rng_state(rng["cpu"])
        if "cuda" in rng and torch.cuda.is_available():
            torch.cuda.set_rng_state(rng["cuda"])
    if ema:
        ema.load(path / "deepspeed")
    return state


def newest_valid(folder: Path) -> Path | None:
    """Return the newest step folder whose hashes agree, warning about each that does not."""
    found_any = False
    for path in sorted(folder.glob("step_*"), reverse=True):
        problem = verify(path)
        if problem is None:
            return path
        print(f"warning: skipping checkpoint {path}: {problem}", file=sys.stderr, flush=True)
        found_any = True
    if found_any:
        print("warning: no checkpoint is whole; starting anew", file=sys.stderr, flush=True)
    return None


def newest_for_all(folder: Path) -> Path | None:
    """Return what rank 0 finds as `newest_valid` on every rank; one reads the files, not all."""
    import torch.distributed as dist

    found = [newest_valid(folder) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(found, src=0)
    return found[0]


def verify(path: Path) -> str | None:
    """Return what is wrong with a step folder, or None."""
    try:
        digests = json.loads((path / "manifest.json").read_text())["sha256"]
    except FileNotFoundError:
        return "it has no manifest.json"
    except (ValueError, KeyError, TypeError):
        return "manifest.json is not readable"
    for name, digest in digests.items():
        file = path / name
        if not file.exists():
            return f"{name} is missing"
        if file_sha256(file) != digest:
            return f"{name} does not match its sha256"
    return None


def file_sha256(path: Path) -> str:
    """Return the hex sha256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _save_rank(engine: Any, aside: Path, rank: int, ema: "Ema | None") -> None:
    import torch
    from safetensors.torch import save_file

    engine.save_checkpoint(str(aside), tag="deepspeed", save_latest=False)
    rng = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        rng["cuda"] = torch.cuda.get_rng_state()
    save_file(rng, str(aside / "deepspeed" / f"rng_{rank:05d}.safetensors"))
    if ema:
        ema.save(aside / "deepspeed")


def _finish(engine: Any, aside: Path, final: Path, state: dict[str, Any]) -> None:
    from xvla.pretrained import save_pretrained

    weights = aside / "weights"
    save_pretrained(engine.module, str(weights), layout="ours")
    for file in weights.iterdir():
        file.rename(aside / file.name)
    weights.rmdir()
    (aside / "trainer.json").write_text(json.dumps(state))
    files = sorted(path for path in aside.rglob("*") if path.is_file())
    digests = {str(path.relative_to(aside)): file_sha256(path) for path in files}
    (aside / "manifest.json").write_text(json.dumps({"step": state["step"], "sha256": digests}))
    for path in [*files, aside / "manifest.json"]:
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


def _prune(folder: Path, keep: EngineConfig) -> None:
    """Delete step folders but for the last k, every m-th, those named, and the best."""
    paths = sorted(folder.glob("step_*"))
    steps = [int(path.name.removeprefix("step_")) for path in paths]
    kept = {*steps[-max(1, keep.keep_last) :], *keep.keep_steps}
    kept |= {step for step in steps if keep.keep_every and step % keep.keep_every == 0}
    if keep.keep_best:
        kept |= _best(paths)
    for step, path in zip(steps, paths, strict=True):
        if step not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _best(paths: list[Path]) -> set[int]:
    """Return the step with the lowest val/l1 of those evaluated when they were saved."""
    files = [path / "trainer.json" for path in paths if (path / "trainer.json").exists()]
    states = [json.loads(file.read_text()) for file in files]
    rated = [(s["val_l1"], s["step"]) for s in states if s.get("val_l1") is not None]
    return {min(rated)[1]} if rated else set()


def _remove_aside(folder: Path) -> None:
    """Remove what a kill while saving left half-written."""
    for path in folder.glob(".step_*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
