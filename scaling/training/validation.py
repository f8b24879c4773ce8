"""Runs the evaluation of a split during and after training and keeps its per-episode errors.

The frames are dealt out to the ranks in whole batches; each rank then has the errors of all.
"""

import os
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from scaling.runs.folder import Run
from scaling.runs.table import read_episodes
from scaling.spec import RunSpec
from scaling.training.evaluate import (
    KEYS,
    evaluate_baselines,
    evaluate_policy,
    per_episode,
    summarise,
)
from scaling.training.features import FeatureCache
from xvla.data.evaluation import EvalBatch, EvalSplit, eval_batches, eval_frames, mean_chunk
from xvla.data.normalise import Normaliser
from xvla.data.samples import SampleKey
from xvla.data.sources import Mixture

DENOISING_STEPS = 10


class StoppedError(Exception):
    """A rank was asked to stop during an evaluation, of which nothing was written."""


class Validation:
    """Evaluates the engine's model on the frozen frames of a split."""

    def __init__(
        self,
        spec: RunSpec,
        engine: Any,
        *,
        mixture: Mixture,
        normaliser: Normaliser,
        cache: FeatureCache | None,
        home: Run,
        on_batch: Callable[[str], None] = lambda _: None,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        """Keep the errors by episode of the run at `home`.

        `on_batch(where)` is called before each batch, as a sign of life. Where `stop_requested()`
        of any rank says so, an evaluation ends with StoppedError on all.
        """
        self.spec, self.engine, self.normaliser = spec, engine, normaliser
        self.mixture = mixture.with_fields(decode_images=cache is None)
        self.cache, self.home, self.on_batch = cache, home, on_batch
        self._stop_requested = stop_requested

    def run(self, split: EvalSplit, *, step: int, anchor_only: bool = False) -> dict[str, float]:
        """Return the metrics of a split, `val/l1` and so on, and append val_episodes.parquet."""
        mixture = self.mixture
        if anchor_only:
            mixture = mixture.alone(mixture.config.anchor_domain)
        batches = self._batches(mixture, split)
        errors = evaluate_policy(batches, self._act, self.spec, self.normaliser)
        errors = gathered(errors, eval_frames(mixture, split))
        if dist.get_rank() == 0:
            append_episodes(self.home, per_episode(errors, step=step, split=split))
        return summarise(errors, anchor=self.spec.data.anchor_domain, prefix=split)

    def baselines(self, split: EvalSplit) -> dict[str, float]:
        """Return the same metrics for the two trivial predictors, e.g. baseline/hold/val/l1."""
        mixture = self.mixture.with_fields(decode_images=False)  # neither looks
        found = evaluate_baselines(self._batches(mixture, split), self._mean_chunks)
        frames = eval_frames(mixture, split)
        result: dict[str, float] = {}
        for name, errors in found.items():
            errors = gathered(errors, frames)
            metrics = summarise(errors, anchor=self.spec.data.anchor_domain, prefix=split)
            result |= {f"baseline/{name}/{key}": value for key, value in metrics.items()}
        return result

    @cached_property
    def _mean_chunks(self) -> dict[str, NDArray[np.float32]]:
        return mean_chunk(self.mixture)

    def _batches(self, mixture: Mixture, split: EvalSplit) -> Iterator[EvalBatch]:
        """Yield this rank's batches; the ranks agree before each whether to go on."""
        size, ranks = self.spec.engine.eval_batch_size, dist.get_world_size()
        frames = eval_frames(mixture, split)
        parts = rank_parts(frames, size, rank=dist.get_rank(), world_size=ranks)
        rounds = len(rank_parts(frames, size, rank=0, world_size=ranks))  # no rank has more
        for batch in eval_batches(mixture, parts, self.normaliser):
            self._agree_to_go_on()
            self.on_batch(f"an evaluation batch of {split}")
            yield batch
        for _ in range(rounds - len(parts)):
            self._agree_to_go_on()

    def _agree_to_go_on(self) -> None:
        stop = torch.tensor(self._stop_requested(), dtype=torch.int32, device=self.engine.device)
        if dist.get_world_size() > 1:
            dist.all_reduce(stop, op=dist.ReduceOp.MAX)
        if stop:
            raise StoppedError

    def _act(self, item: EvalBatch, noise: torch.Tensor) -> torch.Tensor:
        device = self.engine.device
        features = self.cache.lookup(item.keys, device) if self.cache else None
        return self.engine.module.act(
            item.batch.to(device), DENOISING_STEPS, noise.to(device), features
        )


def rank_parts(
    frames: list[SampleKey], batch_size: int, *, rank: int, world_size: int
) -> list[list[SampleKey]]:
    """Return the batches of a rank: every world_size-th of the same cut for any rank.

    Where there are fewer batches than ranks, they are made smaller to occupy all.
    """
    size = max(1, min(batch_size, -(-len(frames) // world_size)))
    parts = [frames[first : first + size] for first in range(0, len(frames), size)]
    return parts[rank::world_size]


def gathered(errors: pd.DataFrame, frames: list[SampleKey]) -> pd.DataFrame:
    """Return the errors of all ranks in the order of `frames`, on every rank."""
    if dist.get_world_size() == 1:
        return errors
    tables: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(tables, errors)
    whole = pd.concat([table for table in tables if len(table)], ignore_index=True)
    order = pd.MultiIndex.from_tuples(frames, names=list(KEYS))
    return whole.set_index(list(KEYS)).loc[order].reset_index()


def append_episodes(run: Run, rows: pd.DataFrame) -> None:
    """Add rows to val_episodes.parquet; rows of the same step and split are replaced.

    Raises ValueError for a file that is damaged.
    """
    path = run.episodes_file
    if path.exists():
        old = read_episodes(run)
        again = (old["step"] == rows["step"].iloc[0]) & (old["split"] == rows["split"].iloc[0])
        rows = pd.concat([old[~again], rows], ignore_index=True)
    temporary = path.with_suffix(".tmp")
    try:
        with open(temporary, "wb") as stream:
            rows.to_parquet(stream, index=False)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
