"""Runs the evaluation of a split during and after training and keeps its per-episode errors."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.distributed as dist

from scaling.evaluate import evaluate_baselines, evaluate_policy, per_episode, summarise
from scaling.features import FeatureCache
from scaling.spec import RunSpec
from xvla.data.evaluation import EvalBatch, EvalSplit, eval_batches, mean_chunk
from xvla.data.normalise import Normaliser

DENOISING_STEPS = 10


class Validation:
    """Evaluates the engine's model on the frozen frames of a split."""

    def __init__(
        self,
        spec: RunSpec,
        engine: Any,
        *,
        normaliser: Normaliser,
        cache: FeatureCache | None,
        folder: Path,
    ) -> None:
        self.spec, self.engine, self.normaliser = spec, engine, normaliser
        self.cache, self.folder = cache, folder

    def run(self, split: EvalSplit, *, step: int, anchor_only: bool = False) -> dict[str, float]:
        """Return the metrics of a split, `val/l1` and so on, and append val_episodes.parquet."""
        errors = evaluate_policy(
            self._batches(split, anchor_only), self._act, self.spec, self.normaliser
        )
        if dist.get_rank() == 0:
            append_episodes(self.folder, per_episode(errors, step=step, split=split))
        return summarise(errors, anchor=self.spec.data.anchor_domain, prefix=split)

    def baselines(self, split: EvalSplit) -> dict[str, float]:
        """Return the same metrics for the two trivial predictors, e.g. baseline/hold/val/l1."""
        chunks = mean_chunk(self.spec.data)
        found = evaluate_baselines(self._batches(split, anchor_only=False), chunks)
        result: dict[str, float] = {}
        for name, errors in found.items():
            metrics = summarise(errors, anchor=self.spec.data.anchor_domain, prefix=split)
            result |= {f"baseline/{name}/{key}": value for key, value in metrics.items()}
        return result

    def _batches(self, split: EvalSplit, anchor_only: bool) -> Iterator[EvalBatch]:
        data = replace(self.spec.data, decode_images=self.cache is None)
        if anchor_only:
            anchor = [entry for entry in data.mixture if entry.name == data.anchor_domain]
            data = replace(data, mixture=anchor)
        return eval_batches(data, split, self.normaliser, self.spec.engine.eval_batch_size)

    def _act(self, item: EvalBatch, noise: torch.Tensor) -> torch.Tensor:
        device = self.engine.device
        features = self.cache.lookup(item.keys, device) if self.cache else None
        with torch.autocast(device.type, torch.bfloat16, enabled=self.spec.precision == "bf16"):
            return self.engine.module.act(
                item.batch.to(device), DENOISING_STEPS, noise.to(device), features
            )


def append_episodes(folder: Path, rows: pd.DataFrame) -> None:
    """Add rows to val_episodes.parquet; rows of the same step and split are replaced."""
    path = folder / "val_episodes.parquet"
    if path.exists():
        old = pd.read_parquet(path)
        again = (old["step"] == rows["step"].iloc[0]) & (old["split"] == rows["split"].iloc[0])
        rows = pd.concat([old[~again], rows], ignore_index=True)
    temporary = path.with_suffix(".tmp")
    rows.to_parquet(temporary, index=False)
    temporary.replace(path)
