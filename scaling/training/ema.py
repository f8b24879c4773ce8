"""A running mean of the trainable weights, each parameter kept by one rank in fp32."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist


class Ema:
    """Exponential moving average of a module's weights over optimizer steps.

    A rank keeps every world_size-th parameter, so that the mean costs 4 / world_size bytes a
    parameter. The decay grows as (1 + n) / (10 + n) up to `decay`, so that early weights are soon
    forgotten.
    """

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        """Start from the module's present weights."""
        self.decay = decay
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        self._parameters = [parameter for _, parameter in named]
        rank, world_size = dist.get_rank(), dist.get_world_size()
        mine = named[rank::world_size]
        self._sources = [parameter for _, parameter in mine]
        self.means = {name: p.detach().to(torch.float32, copy=True) for name, p in mine}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimizer step number `step` (the first is 1)."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        fresh = [parameter.detach().float() for parameter in self._sources]
        if fresh:
            torch._foreach_lerp_(list(self.means.values()), fresh, weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Hold the mean in the module's weights; all ranks enter and leave together."""
        with torch.no_grad():
            before = [parameter.detach().clone() for parameter in self._parameters]
            self._spread()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_([p.data for p in self._parameters], before)

    def load(self, folder: Path) -> None:
        """Read this rank's `means` from the files ema_*.safetensors of any number of ranks.

        Raises ValueError when a parameter is in none of them.
        """
        from safetensors import safe_open

        missing = set(self.means)
        for path in sorted(folder.glob("ema_*.safetensors")):
            with safe_open(str(path), framework="pt") as stream:
                for name in missing & set(stream.keys()):
                    self.means[name].copy_(stream.get_tensor(name))
                    missing.remove(name)
        if missing:
            raise ValueError(f"checkpoint {folder.parent} has no running mean of {min(missing)}")

    def _spread(self) -> None:
        rank, world_size = dist.get_rank(), dist.get_world_size()
        means = iter(self.means.values())
        for index, parameter in enumerate(self._parameters):
            owner = index % world_size
            if owner == rank:
                parameter.data.copy_(next(means))
            if world_size > 1:
                dist.broadcast(parameter.data, src=owner)
