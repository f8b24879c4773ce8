"""The frozen evaluation frames, their batches, and the two trivial predictors."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from xvla.batch import Batch
from xvla.data.normalise import Normaliser, thinned
from xvla.data.random_streams import random_stream
from xvla.data.samples import SampleKey, SampleMaker
from xvla.data.sources import Mixture, Source
from xvla.data.starts import candidate_starts

if TYPE_CHECKING:
    from torch import Tensor

EvalSplit = Literal["val", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalBatch:
    """One batch of evaluation frames with what metrics need, in absolute poses.

    keys         (domain, episode, start) of each row.
    raw_proprio  [B, 20] float, not standardised.
    target       [B, T, 20] float, the absolute anchor points.
    present      [B, 20] bool, False on the dimensions of an arm that the domain has not.
    """

    batch: Batch
    keys: list[SampleKey]
    raw_proprio: "Tensor"
    target: "Tensor"
    present: "Tensor"


def eval_frames(mixture: Mixture, split: EvalSplit) -> list[SampleKey]:
    """Return the frozen evaluation frames (domain, episode, start) of the mixture's domains.

    In every episode of the split: `eval_starts_per_episode` frames on the anchor domain, which
    comes first, and `eval_starts_other` on the others, spread evenly over the allowed start
    frames. They depend on the datasets and these fields only, not on seeds, subset or window.

    Raises:
        ValueError: the anchor domain is not in the mixture, or a domain has no such episodes.
    """
    if split not in ("val", "test"):
        raise ValueError(f"split {split!r} is not evaluated; allowed: val, test")
    return [
        (source.name, episode, start)
        for source in mixture.anchor_first()
        for episode in source.split(split)
        for start in _even_starts(mixture, source, episode)
    ]


def eval_digest(frames: Sequence[SampleKey]) -> str:
    """Return the sha256 of an evaluation manifest: equal digests, equal frames in equal order."""
    return hashlib.sha256(json.dumps(list(frames)).encode()).hexdigest()


def eval_batches(
    mixture: Mixture, parts: Iterable[list[SampleKey]], normaliser: Normaliser
) -> Iterator[EvalBatch]:
    """Yield a batch for each part of the evaluation frames, e.g. those of one rank."""
    maker = SampleMaker(mixture.with_fields(num_workers=0), normaliser)
    for keys in parts:
        poses = maker.poses(keys)
        yield EvalBatch(
            batch=maker.collate(keys, poses),
            keys=keys,
            raw_proprio=torch.from_numpy(poses.proprio.copy()),
            target=torch.from_numpy(poses.action.copy()),
            present=torch.from_numpy(
                np.stack([mixture.sources[name].present for name, _, _ in keys])
            ),
        )


def frame_noise(
    keys: Sequence[SampleKey], *, seed: int, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Return standard normal noise [B, *shape] fixed by (frame, evaluation seed)."""
    rows = [random_stream("eval", seed, *key).standard_normal(shape) for key in keys]
    return np.stack(rows).astype(np.float32)


def hold_chunk(raw_proprio: "Tensor", num_anchors: int = 30) -> "Tensor":
    """Predict that the pose at the start frame [B, 20] is held: [B, T, 20]."""
    return raw_proprio[:, None, :].repeat(1, num_anchors, 1)


def mean_chunk(mixture: Mixture) -> dict[str, NDArray[np.float32]]:
    """Predict each domain's mean absolute chunk [T, 20] over the start frames trained on.

    Of a set of more than FITTED_EPISODES episodes every n-th is taken: with their hundreds of
    thousands of chunks the mean is far more exact than its difference from a model's error.
    """
    maker = SampleMaker(mixture, Normaliser())
    return {name: _mean_chunk(maker, source) for name, source in mixture.sources.items()}


def _mean_chunk(maker: SampleMaker, source: Source) -> NDArray[np.float32]:
    total = np.zeros((maker.config.num_anchors, 20))
    count = 0
    for episode in thinned(source.readable):
        starts = maker.starts(source.name, episode)
        chunks = maker.episode_chunks(source.name, episode)[starts, 1:]
        total += chunks.sum(axis=0, dtype=np.float64)
        count += len(starts)
    if count == 0:
        raise ValueError(
            f"domain {source.name} has no start frame to train on; take other episodes"
        )
    return (total / count).astype(np.float32)


def _even_starts(mixture: Mixture, source: Source, episode: int) -> list[int]:
    config = mixture.config
    is_anchor = source.name == config.anchor_domain
    wanted = config.eval_starts_per_episode if is_anchor else config.eval_starts_other
    candidates = candidate_starts(source.dataset, episode, config, evaluate=True)
    places = np.linspace(0, len(candidates) - 1, min(wanted, len(candidates)))
    return sorted({int(candidates[int(place)]) for place in np.round(places)})
