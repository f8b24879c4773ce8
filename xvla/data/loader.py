"""Batches for a rank: its rows of every global batch of the one global sample order."""

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from xvla.batch import Batch
from xvla.config import DataConfig
from xvla.data.evaluation import eval_frames
from xvla.data.images import jitter_draws
from xvla.data.mixture import SampleOrder
from xvla.data.normalise import Normaliser
from xvla.data.samples import SampleKey, SampleMaker

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

Split = Literal["train", "val", "test"]
Item = tuple[list[SampleKey], Batch]
PREFETCH_BATCHES = 4


class TrainBatches:
    """Map-style: item j is this rank's part of the j-th global batch after `start_sample`."""

    def __init__(
        self,
        maker: SampleMaker,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start_sample: int = 0,
    ) -> None:
        """List the start frames of the mixture and fix the order of samples by `seed`."""
        self.maker = maker
        self.seed = seed
        self.first = start_sample + rank * maker.config.batch_size
        self.stride = world_size * maker.config.batch_size
        self.starts = {name: _list_starts(maker, name) for name in maker.sources}
        weights = {name: source.entry.weight for name, source in maker.sources.items()}
        sizes = {name: len(rows) for name, rows in self.starts.items()}
        self.order = SampleOrder(weights, sizes, seed)

    def keys(self, first: int, count: int) -> list[SampleKey]:
        """Return samples first..first + count of the global order."""
        domains, rows = self.order.samples(first, count)
        names = [self.order.names[number] for number in domains]
        starts = [self.starts[name][row] for name, row in zip(names, rows, strict=True)]
        return [(name, int(e), int(s)) for name, (e, s) in zip(names, starts, strict=True)]

    def __getitem__(self, index: int) -> Item:
        """Return the keys and the batch of global batch `index`."""
        config = self.maker.config
        first = self.first + index * self.stride
        keys = self.keys(first, config.batch_size)
        jitter = None
        if config.augmentation == "color_jitter":
            samples = np.arange(first, first + config.batch_size)
            jitter = jitter_draws(samples, seed=self.seed, views=config.num_views)
        return keys, self.maker.make(keys, jitter)


class EvalBatches:
    """Map-style: item j is this rank's part of the j-th global batch of the evaluation frames."""

    def __init__(
        self, maker: SampleMaker, frames: list[SampleKey], *, rank: int = 0, world_size: int = 1
    ) -> None:
        """Cut `frames` into global batches; a rank's rows of the last one may be fewer."""
        size = maker.config.batch_size
        firsts = range(rank * size, len(frames), world_size * size)
        self.maker = maker
        self.parts = [frames[first : first + size] for first in firsts]

    def __getitem__(self, index: int) -> Item:
        """Return the keys and the batch of part `index`; IndexError after the last."""
        keys = self.parts[index]
        return keys, self.maker.make(keys)


class Loader:
    """Iterator of Batch with a position; made by `make_loader`.

    last_keys: (domain, episode, start) of the rows of the batch returned last.
    """

    def __init__(self, batches: TrainBatches | EvalBatches, *, start: int, step: int) -> None:
        """Serve `batches` in order; `step` samples of the global order pass with each."""
        self.last_keys: list[SampleKey] = []
        self.normaliser = batches.maker.normaliser
        self._next_sample = start
        self._step = step
        self._items = _serve(batches, batches.maker.config.num_workers)

    def __iter__(self) -> Iterator[Batch]:
        """Return itself: a loader is iterated once."""
        return self

    def __next__(self) -> Batch:
        """Return the next batch of this rank."""
        self.last_keys, batch = next(self._items)
        self._next_sample += self._step
        return batch

    def state_dict(self) -> dict[str, int]:
        """Return {"next_sample": i}: give i as `start_sample` to go on after the last batch."""
        return {"next_sample": self._next_sample}


def make_loader(
    config: DataConfig,
    *,
    split: Split,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    start_sample: int = 0,
    normaliser: Normaliser | None = None,
) -> Loader:
    """Return the batches of `config.batch_size` samples that rank `rank` of `world_size` takes.

    The global batch is batch_size * world_size consecutive samples of an order that depends on
    config and seed alone; rank r takes rows [r * batch_size, (r + 1) * batch_size). "train" is
    endless and starts at sample `start_sample`; "val" and "test" give the frozen evaluation
    frames once, unaugmented (`seed` has no part in them).
    `normaliser` is fitted on the training episodes unless given.

    Raises:
        ValueError: unknown split, a rank outside the world, or a defective mixture or dataset.
    """
    if split not in ("train", "val", "test"):
        raise ValueError(f"split {split!r} is unknown; allowed: train, val, test")
    if not (0 <= rank < world_size and config.batch_size > 0 and start_sample >= 0):
        raise ValueError(
            f"rank {rank} of {world_size}, batch_size {config.batch_size}, start_sample "
            f"{start_sample}; allowed: 0 <= rank < world_size, batch_size > 0, start_sample >= 0"
        )
    maker = SampleMaker(config, normaliser)
    step = world_size * config.batch_size
    if split == "train":
        batches = TrainBatches(
            maker, seed=seed, rank=rank, world_size=world_size, start_sample=start_sample
        )
        return Loader(batches, start=start_sample, step=step)
    frames = eval_frames(config, split)[start_sample:]
    parts = EvalBatches(maker, frames, rank=rank, world_size=world_size)
    return Loader(parts, start=start_sample, step=step)


def train_frames(config: DataConfig) -> list[SampleKey]:
    """Return every (domain, episode, start) that training visits, e.g. to cache features of."""
    maker = SampleMaker(config, Normaliser())
    return [
        (name, int(episode), int(start))
        for name in maker.sources
        for episode, start in _list_starts(maker, name)
    ]


def _serve(batches: TrainBatches | EvalBatches, num_workers: int) -> Iterator[Item]:
    if num_workers == 0:
        return _in_process(batches)
    indices: Any = itertools.count()
    if isinstance(batches, EvalBatches):
        indices = range(len(batches.parts))
    return iter(_worker_loader(batches, indices, num_workers))


def _in_process(batches: TrainBatches | EvalBatches) -> Iterator[Item]:
    for index in itertools.count():
        try:
            item = batches[index]
        except IndexError:
            return
        yield item


def _worker_loader(
    batches: TrainBatches | EvalBatches, indices: Any, num_workers: int
) -> "DataLoader":
    from torch.utils.data import DataLoader

    # batch_size=None: an item is a whole batch, and DataLoader returns items in the order of
    # `indices` whichever worker is first.
    return DataLoader(
        batches,  # type: ignore[arg-type]
        batch_size=None,
        sampler=indices,
        num_workers=num_workers,
        collate_fn=_as_is,
        prefetch_factor=PREFETCH_BATCHES,
    )


def _as_is(item: Any) -> Any:
    """Keep an item as it is: the default would turn the keys' tuples into lists."""
    return item


def _list_starts(maker: SampleMaker, name: str) -> np.ndarray:
    """Return (episode, start) rows [n, 2] of all start frames of a domain's training episodes."""
    rows = [
        np.stack([np.full(len(starts), episode), starts], axis=1)
        for episode in maker.sources[name].episodes
        if len(starts := maker.starts(name, episode))
    ]
    return np.concatenate(rows) if rows else np.empty((0, 2), dtype=np.int64)
