"""Step folders: written aside, hashed, renamed, then `latest`; a corrupt one is passed over."""

import errno
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from scaling.config import write_atomic

FULL_BYTES = 2**20


def step_name(step: int) -> str:
    """Return the folder name of a step, e.g. step_0001000."""
    return f"step_{step:07d}"


def save(engine: Any, folder: Path, *, state: dict[str, Any], keep_last: int, keep_every: int):
    """Save model, optimizer, RNG and `state` (with `step`) on all ranks; return the new folder.

    Raises OSError (disk full) with the half-written folder removed and earlier ones intact.
    """
    import torch.distributed as dist

    final = folder / step_name(state["step"])
    aside = folder / f".{final.name}.tmp"
    rank = dist.get_rank()
    try:
        if rank == 0:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
        dist.barrier()
        _save_rank(engine, aside, rank)
        dist.barrier()
        if rank == 0:
            _finish(engine, aside, final, state)
            write_atomic(folder / "latest", final.name)
            _prune(folder, keep_last=keep_last, keep_every=keep_every)
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


def restore(engine: Any, path: Path) -> dict[str, Any]:
    """Load a step folder into the engine and the RNG; return its saved `state`."""
    import torch
    import torch.distributed as dist
    from safetensors.torch import load_file

    loaded, _ = engine.load_checkpoint(str(path), tag="deepspeed")
    if loaded is None:
        raise ValueError(f"checkpoint {path} holds no DeepSpeed state; delete it to use an earlier")
    rng = load_file(str(path / "deepspeed" / f"rng_{dist.get_rank():05d}.safetensors"))
    torch.set_rng_state(rng["cpu"])
    if "cuda" in rng:
        torch.cuda.set_rng_state(rng["cuda"])
    return json.loads((path / "trainer.json").read_text())


def newest_valid(folder: Path) -> Path | None:
    """Return the newest step folder whose hashes agree, warning about each that does not."""
    for path in sorted(folder.glob("step_*"), reverse=True):
        problem = verify(path)
        if problem is None:
            return path
        print(f"warning: skipping checkpoint {path}: {problem}", file=sys.stderr, flush=True)
    return None


def verify(path: Path) -> str | None:
    """Return what is wrong with a step folder, or None."""
    manifest = path / "manifest.json"
    if not manifest.exists():
        return "it has no manifest.json"
    for name, digest in json.loads(manifest.read_text())["sha256"].items():
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


def _save_rank(engine: Any, aside: Path, rank: int) -> None:
    import torch
    from safetensors.torch import save_file

    engine.save_checkpoint(str(aside), tag="deepspeed", save_latest=False)
    rng = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        rng["cuda"] = torch.cuda.get_rng_state()
    save_file(rng, str(aside / "deepspeed" / f"rng_{rank:05d}.safetensors"))


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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _prune(folder: Path, *, keep_last: int, keep_every: int) -> None:
    steps = sorted(folder.glob("step_*"))
    for path in steps[: -max(1, keep_last)]:
        if keep_every and int(path.name.removeprefix("step_")) % keep_every == 0:
            continue
        shutil.rmtree(path, ignore_errors=True)
