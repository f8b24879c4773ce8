"""What one rank has to write of a checkpoint: DeepSpeed's files and ours, as they are or copied."""

import copy
import json
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
from safetensors.torch import save_file

if TYPE_CHECKING:
    from scaling.training.ema import Ema

Write = Callable[[], Any]
Own = Callable[[torch.Tensor], torch.Tensor]


class Buffers:
    """Host memory for copies of the training's tensors, kept from one save to the next.

    New memory costs a page fault every 4 KiB: filling it takes many times as long as copying.
    """

    def __init__(self) -> None:
        self._kept: list[torch.Tensor] = []
        self._seen: dict[Any, tuple[torch.Tensor, torch.Tensor]] = {}

    def copied(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy in host memory; of one tensor given twice the same copy."""
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if key not in self._seen:
            place = len(self._seen)
            self._kept[place:] = self._kept[place:] or [_host_like(tensor)]
            if (self._kept[place].shape, self._kept[place].dtype) != (tensor.shape, tensor.dtype):
                self._kept[place] = _host_like(tensor)
            copied = self._kept[place].copy_(tensor.detach(), non_blocking=True)
            self._seen[key] = (copied, tensor)  # alive, so that no address is used twice
        return self._seen[key][0]

    def release(self) -> None:
        """Wait for copies from a GPU and let go of what was copied; call after each `stage`."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._seen.clear()


def host_copy(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy in new host memory."""
    return tensor.detach().to("cpu", copy=True)


def stage(engine: Any, aside: Path, *, own: Own, own_mean: Own, ema: "Ema | None") -> list[Write]:
    """Return what this rank has to call to have its files in `aside`; all ranks call together.

    `own` returns the tensor to write in place of a given one: itself, to be written at once, or a
    copy that training will not change. `own_mean`: a copy of a weight while it holds `ema`'s mean,
    never that of `own`, which has the weight as trained.
    """
    collector = _Collector(own)
    original, engine.checkpoint_engine = engine.checkpoint_engine, collector
    try:
        engine.save_checkpoint(str(aside), tag="deepspeed", save_latest=False)
    finally:
        engine.checkpoint_engine = original
    rank, folder = dist.get_rank(), aside / "deepspeed"
    random = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state()
    writes = collector.writes
    writes.append(partial(save_file, random, folder / f"rng_{rank:05d}.safetensors"))
    if ema:
        means = {name: own(mean) for name, mean in ema.means.items()}
        writes.append(partial(save_file, means, folder / f"ema_{rank:05d}.safetensors"))
    with ema.applied() if ema else nullcontext():
        if rank == 0:  # the mean is in the weights for this moment only
            writes.append(_published(engine.module, aside, own_mean if ema else own))
    return writes


class _Collector(TorchCheckpointEngine):
    """Stands in for DeepSpeed's writer: notes what it is asked to save."""

    def __init__(self, own: Own) -> None:
        super().__init__()
        self._own = own
        self.writes: list[Write] = []

    def save(self, state_dict: Any, path: str) -> None:
        self.writes.append(partial(torch.save, _owned(state_dict, self._own), path))


def _published(model: Any, folder: Path, own: Own) -> Write:
    """Return what writes model.safetensors and config.json, loadable without DeepSpeed."""
    from xvla.layouts.config import config_to_json
    from xvla.pretrained import CONFIG_FILE, WEIGHTS_FILE, write_tensors

    tensors = {name: own(tensor) for name, tensor in model.state_dict().items()}
    config = json.dumps(config_to_json(model.config, "ours"), indent=2) + "\n"

    def write() -> None:
        (folder / CONFIG_FILE).write_text(config)
        write_tensors(folder / WEIGHTS_FILE, tensors)

    return write


def _owned(value: Any, own: Own) -> Any:
    """Return a state dict with each tensor replaced by `own` of it, all else copied."""
    if isinstance(value, torch.Tensor):
        return own(value)
    if isinstance(value, dict):
        owned = copy.copy(value)
        owned.update((key, _owned(item, own)) for key, item in value.items())
        return owned
    if type(value) in (list, tuple):
        return type(value)(_owned(item, own) for item in value)
    return copy.deepcopy(value)


def _host_like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
