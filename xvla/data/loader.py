"""Batches for a rank: its rows of every global batch of the one global sample order."""

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from xvla.batch import Batch
from xvla.config import DataConfig
from xvla.data.augment import Draws, crop_draws, jitter_draws
from xvla.data.caches import LoaderOptions, open_caches, options_of
from xvla.data.evaluation import eval_frames
from xvla.data.failures import Failure, FailureCount, known_failures, replacement_rows
from xvla.data.normalise import Normaliser
from xvla.data.order import SampleOrder
from xvla.data.random_streams import random_stream
from xvla.data.sample_index import StartFrames
from xvla.data.samples import SampleKey, SampleMaker, finished
from xvla.data.sources import Mixture

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

Split = Literal["train", "val", "test"]
PREFETCH_BATCHES = 4


class Item(NamedTuple):
    """A batch as workers hand it over; `draws` are left when the device is to augment it."""

    keys: list[SampleKey]
    batch: Batch
    draws: Draws | None = None
    failures: tuple[Failure, ...] = ()


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
        options: LoaderOptions | None = None,
    ) -> None:
        """List the start frames of the mixture and fix the order of samples by `seed`.

        Raises ValueError when more episodes cannot be read than `max_failed_share` allows.
        """
        self.maker = maker
        self.seed = seed
        self.options = options or LoaderOptions()
        self.first = start_sample + rank * maker.config.batch_size
        self.stride = world_size * maker.config.batch_size
        self.failures = FailureCount(maker.sources, self.options.max_failed_share)
        self.starts = {}
        for name in maker.sources:
            self.starts[name], failures = list_starts(maker, name)
            self.failures.add(failures)
        sizes = {name: len(rows) for name, rows in self.starts.items()}
        self.order = SampleOrder(maker.mixture.weights, sizes, seed)

    def keys(self, first: int, count: int) -> list[SampleKey]:
        """Return samples first..first + count of the global order."""
        domains, rows = self.order.samples(first, count)
        keys: list[SampleKey] = [("", 0, 0)] * count
        for number, name in enumerate(self.order.names):
            mine = np.flatnonzero(domains == number)
            for place, key in zip(mine, self._keys_at(name, rows[mine]), strict=True):
                keys[place] = key
        return keys

    def _keys_at(self, name: str, rows: np.ndarray) -> list[SampleKey]:
        episodes, frames = self.starts[name].at(rows)
        return [(name, e, f) for e, f in zip(episodes.tolist(), frames.tolist(), strict=True)]

    def __getitem__(self, index: int) -> Item:
        """Return the keys and the batch of global batch `index`."""
        first = self.first + index * self.stride
        keys = self.keys(first, self.maker.config.batch_size)
        failures: tuple[Failure, ...] = ()
        try:
            batch = self.maker.raw(keys, texts=self._texts(first, keys))
        except ValueError:
            keys, failures = self._readable(first, keys)
            batch = self.maker.raw(keys, texts=self._texts(first, keys))
        draws = self._draws(np.arange(first, first + len(keys)))
        if self.options.device:
            return Item(keys, batch, draws, failures)
        return Item(keys, finished(batch, draws), None, failures)

    def _texts(self, first: int, keys: list[SampleKey]) -> list[str]:
        """Return a wording of each sample's instruction, chosen by seed and place."""
        texts = []
        for position, key in enumerate(keys, start=first):
            wordings = self.maker.wordings(key)
            choice = 0
            if len(wordings) > 1:
                generator = random_stream("wording", self.seed, position)
                choice = int(generator.integers(len(wordings)))
            texts.append(wordings[choice])
        return texts

    def _readable(
        self, first: int, keys: list[SampleKey]
    ) -> tuple[list[SampleKey], tuple[Failure, ...]]:
        """Replace what cannot be read by other samples of the domain, chosen by seed and place."""
        kept, failures = [], []
        for position, key in enumerate(keys, start=first):
            name = key[0]
            others = replacement_rows(self.seed, name, position, len(self.starts[name]))
            for candidate in (key, *self._keys_at(name, others)):
                try:
                    self.maker.check(candidate)
                except ValueError as error:
                    failures.append(Failure(candidate[0], candidate[1], str(error)))
                    continue
                kept.append(candidate)
                break
            else:
                raise ValueError(failures[-1].message)
        return kept, tuple(failures)

    def _draws(self, samples: np.ndarray) -> Draws | None:
        config = self.maker.config
        factors = order = boxes = None
        if config.augmentation == "color_jitter":
            factors, order = jitter_draws(samples, seed=self.seed, views=config.num_views)
        if self.options.random_crop:
            boxes = crop_draws(
                samples, seed=self.seed, views=config.num_views, size=config.image_size
            )
        if factors is None and boxes is None:
            return None
        return Draws(factors=factors, order=order, boxes=boxes)


class EvalBatches:
    """Map-style: item j is this rank's part of the j-th global batch of the evaluation frames.

    All ranks have equally many parts, so that they can meet after each: the frames of the last
    global batch are dealt out evenly. Ranks for which none is left repeat the last frame; its key
    tells, and errors by key count once.
    """

    def __init__(
        self, maker: SampleMaker, frames: list[SampleKey], *, rank: int = 0, world_size: int = 1
    ) -> None:
        """Cut `frames` into global batches."""
        size = maker.config.batch_size
        whole = len(frames) // (world_size * size) * world_size * size
        firsts = range(rank * size, whole, world_size * size)
        self.maker = maker
        self.parts = [frames[first : first + size] for first in firsts]
        if rest := frames[whole:]:
            bounds = np.linspace(0, len(rest), world_size + 1).round().astype(int)
            self.parts.append(rest[bounds[rank] : bounds[rank + 1]] or rest[-1:])

    def __getitem__(self, index: int) -> Item:
        """Return the keys and the batch of part `index`; IndexError after the last."""
        keys = self.parts[index]
        return Item(keys, self.maker.make(keys))


class Loader:
    """Iterator of Batch with a position; made by `make_loader`.

    last_keys: (domain, episode, start) of the rows of the batch returned last.
    failures:  the episodes that could not be read so far, by name.
    """

    def __init__(self, batches: TrainBatches | EvalBatches, *, start: int, step: int) -> None:
        """Serve `batches` in order; `step` samples of the global order pass with each."""
        self.last_keys: list[SampleKey] = []
        if isinstance(batches, TrainBatches):
            self.failures, self._device = batches.failures, batches.options.device
        else:
            self.failures, self._device = FailureCount(batches.maker.sources, max_share=0.0), ""
        self.normaliser = batches.maker.normaliser
        self._next_sample = start
        self._step = step
        self._items = _serve(batches, batches.maker.config.num_workers)

    def __iter__(self) -> Iterator[Batch]:
        """Return itself: a loader is iterated once."""
        return self

    def __next__(self) -> Batch:
        """Return the next batch of this rank, on the device when one augments.

        Raises ValueError when more episodes cannot be read than `max_failed_share` allows.
        """
        item = next(self._items)
        self.failures.add(item.failures)
        self.last_keys, batch = item.keys, item.batch
        self._next_sample += self._step
        return finished(batch.to(self._device), item.draws) if self._device else batch

    def state_dict(self) -> dict[str, int]:
        """Return {"next_sample": i}: give i as `start_sample` to go on after the last batch."""
        return {"next_sample": self._next_sample}


def make_loader(
    config: DataConfig | Mixture,
    *,
    split: Split,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    start_sample: int = 0,
    normaliser: Normaliser | None = None,
    options: LoaderOptions | None = None,
) -> Loader:
    """Return the batches of `config.batch_size` samples that rank `rank` of `world_size` takes.

    The global batch is batch_size * world_size consecutive samples of an order that depends on
    config and seed alone; rank r takes rows [r * batch_size, (r + 1) * batch_size). "train" is
    endless and starts at sample `start_sample`; "val" and "test" give the frozen evaluation
    frames once, unaugmented (`seed` has no part in them). A mixture that is open already is taken
    in the place of its `config`.
    `normaliser` is fitted on the training episodes unless given; `options` (default: what the
    configuration asks for) choose caches, the device that augments and how many broken episodes
    are borne.

    Raises:
        ValueError: unknown split, a rank outside the world, or a defective mixture or dataset.
    """
    if split not in ("train", "val", "test"):
        raise ValueError(f"split {split!r} is unknown; allowed: train, val, test")
    if not (0 <= rank < world_size and start_sample >= 0 and start_sample == int(start_sample)):
        raise ValueError(
            f"rank {rank} of {world_size}, start_sample {start_sample}; allowed: "
            "0 <= rank < world_size, a whole start_sample >= 0"
        )
    start_sample = int(start_sample)
    mixture = config if isinstance(config, Mixture) else Mixture.open(config)
    options = options or options_of(mixture)
    frames, indices = open_caches(mixture, options)
    maker = SampleMaker(mixture, normaliser, frames=frames, indices=indices)
    step = world_size * mixture.config.batch_size
    if split == "train":
        batches = TrainBatches(
            maker,
            seed=seed,
            rank=rank,
            world_size=world_size,
            start_sample=start_sample,
            options=options,
        )
        return Loader(batches, start=start_sample, step=step)
    parts = EvalBatches(
        maker, eval_frames(mixture, split)[start_sample:], rank=rank, world_size=world_size
    )
    return Loader(parts, start=start_sample, step=step)


def list_starts(maker: SampleMaker, name: str) -> tuple[StartFrames, list[Failure]]:
    """Return the start frames of a domain's training episodes, and those that cannot be read.

    They come from its index if it has one.
    """
    source = maker.sources[name]
    failures = known_failures(source)
    if name in maker.indices:
        index, readable = maker.indices[name], source.readable
        if index.broken:
            unread = sorted({*index.broken} & {*readable})
            failures += [Failure(name, episode, index.broken[episode]) for episode in unread]
            readable = tuple(episode for episode in readable if episode not in index.broken)
        return index.starts(maker.config, readable), failures
    found = {}
    for episode in source.readable:
        try:
            found[episode] = maker.starts(name, episode)
        except ValueError as error:
            failures.append(Failure(name, episode, str(error)))
    bounds = np.zeros(max(found, default=0) + 2, dtype=np.int64)
    bounds[np.array([*found], dtype=np.int64) + 1] = [len(starts) for starts in found.values()]
    frames = np.concatenate([*found.values(), np.empty(0, dtype=np.int64)]).astype(np.int32)
    return StartFrames(np.array([*found], dtype=np.int64), np.cumsum(bounds), frames), failures


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
