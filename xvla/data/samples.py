"""From (domain, episode, start) to model input: anchors, pixels, tokens, collated into a Batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xvla.batch import Batch
from xvla.data import memory
from xvla.data.augment import Draws
from xvla.data.frame_cache import FrameCache
from xvla.data.frames import frame_views
from xvla.data.images import finish
from xvla.data.normalise import Normaliser, fit_normaliser
from xvla.data.readers.base import STATE_DIM
from xvla.data.resample import anchors, episode_anchors, training_starts
from xvla.data.sample_index import SampleIndex
from xvla.data.sources import Mixture
from xvla.data.starts import candidate_starts
from xvla.data.text import build_tokenizer

SampleKey = tuple[str, int, int]

# Anchors of whole episodes; beyond their budget each sample's are interpolated when asked for.
ANCHORS: memory.ByteCache[NDArray[np.float32]] = memory.ByteCache(memory.ANCHORS)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePoses:
    """Absolute poses of samples: proprio [B, 20] and action [B, T, 20], float32."""

    proprio: NDArray[np.float32]
    action: NDArray[np.float32]


class SampleMaker:
    """Makes batches of any samples of a mixture; caches anchors by episode.

    `frames` and `indices` hold, by domain, the one-off caches that are there.
    """

    def __init__(
        self,
        mixture: Mixture,
        normaliser: Normaliser | None = None,
        *,
        frames: Mapping[str, FrameCache] | None = None,
        indices: Mapping[str, SampleIndex] | None = None,
    ) -> None:
        """Read an open mixture; without a normaliser, fit it. Raises ValueError as that does."""
        self.mixture, self.config, self.sources = mixture, mixture.config, mixture.sources
        self.normaliser = normaliser or fit_normaliser(mixture)
        self.tokenizer = build_tokenizer(self.config.tokenizer)
        self._rules: dict[str, Any] = {
            "window_s": self.config.prediction_window_s,
            "num_anchors": self.config.num_anchors,
            "rotation": self.config.rotation,
        }
        self._frames = dict(frames or {})
        self.indices = dict(indices or {})

    def make(self, keys: Sequence[SampleKey], draws: Draws | None = None) -> Batch:
        """Return the batch of samples `keys`, augmented by `draws`."""
        return self.collate(keys, self.poses(keys), draws)

    def collate(
        self, keys: Sequence[SampleKey], poses: SamplePoses, draws: Draws | None = None
    ) -> Batch:
        """Return the batch of samples whose absolute poses are at hand."""
        return finished(self.raw(keys, poses), draws)

    def raw(
        self,
        keys: Sequence[SampleKey],
        poses: SamplePoses | None = None,
        texts: Sequence[str] | None = None,
    ) -> Batch:
        """Return the batch with its images still uint8, to be `finished` on any device.

        `texts` replace the recorded instructions.
        """
        names = [name for name, _, _ in keys]
        texts = texts or [self.wordings(key)[0] for key in keys]
        poses = poses or self.poses(keys)
        proprio, action = self.normaliser.encode(names, poses.proprio, poses.action)
        view_mask = self._view_mask(names)
        return Batch(
            input_ids=torch.from_numpy(np.stack([self._encode(text) for text in texts])),
            images=self._images(keys, view_mask),
            view_mask=torch.from_numpy(view_mask),
            domain_id=torch.tensor([self.sources[name].domain_id for name in names]),
            proprio=torch.from_numpy(proprio),
            action=torch.from_numpy(action),
        )

    def check(self, key: SampleKey) -> None:
        """Raise ValueError when the poses or frames of a sample cannot be read."""
        self._chunk(*key)
        if self.config.decode_images and not self.config.blind:
            self._pixels(key, int(self._view_mask([key[0]]).sum()))

    def poses(self, keys: Sequence[SampleKey]) -> SamplePoses:
        """Return the absolute poses of samples."""
        chunks = np.stack([self._chunk(*key) for key in keys])
        return SamplePoses(proprio=chunks[:, 0], action=chunks[:, 1:])

    def episode_chunks(self, name: str, episode: int) -> NDArray[np.float32]:
        """Return the anchors of every frame of an episode, [n, T + 1, 20]."""
        dataset, key = self.sources[name].dataset, (episode, *self._rules.values())
        kept = ANCHORS.find(dataset, key)
        if kept is not None:
            return kept
        recorded = self._recorded(name, episode)
        starts = np.arange(len(recorded["times"]))
        chunks = episode_anchors(**recorded, starts=starts, **self._rules)
        if ANCHORS.has_room(chunks.nbytes):
            return ANCHORS.get(dataset, key, lambda: chunks)
        return chunks

    def starts(self, name: str, episode: int) -> NDArray[np.int64]:
        """Return the frames of an episode that training may start from; none of a broken one."""
        if episode in self.sources[name].broken:
            return np.empty(0, dtype=np.int64)
        candidates = candidate_starts(self.sources[name].dataset, episode, self.config)
        chunks = self.episode_chunks(name, episode)
        return training_starts(chunks, candidates, stride=self.config.start_stride)

    def wordings(self, key: SampleKey) -> list[str]:
        """Return the instruction of a sample and other wordings that its source has for it."""
        dataset = self.sources[key[0]].dataset
        task = dataset.episodes.task_at(key[1], key[2])
        return [task, *dataset.instruction_variants.get(task, [])]

    def _recorded(self, name: str, episode: int) -> dict:
        """Return times and states of an episode, and `arm_times` where arms have own clocks."""
        dataset = self.sources[name].dataset
        if name not in self.indices or dataset.has_arm_clocks:
            return dataset.poses(episode).recorded()
        times, states = self.indices[name].episode(episode)
        return {"times": times, "states": states}

    def _chunk(self, name: str, episode: int, start: int) -> NDArray[np.float32]:
        dataset = self.sources[name].dataset
        kept = ANCHORS.find(dataset, (episode, *self._rules.values()))
        if kept is not None:
            return kept[start]
        length = int(dataset.episodes.lengths[episode])
        size = length * (self.config.num_anchors + 1) * STATE_DIM * 4
        # With an index a sample costs one chunk, whatever the number of episodes.
        if ANCHORS.has_room(size) and name not in self.indices:
            return self.episode_chunks(name, episode)[start]
        return anchors(**self._recorded(name, episode), start=start, **self._rules)

    def _encode(self, text: str) -> NDArray[np.int64]:
        return self.tokenizer.encode(text, self.config.text_length)

    def _view_mask(self, names: Sequence[str]) -> NDArray[np.bool_]:
        """Return [B, V]: a domain's views come first, absent ones are False."""
        counts = np.array([len(self.sources[name].dataset.views) for name in names])
        return np.arange(self.config.num_views) < counts[:, None]

    def _images(self, keys: Sequence[SampleKey], view_mask: NDArray[np.bool_]) -> torch.Tensor:
        """Return [B, V, 3, H, W] uint8; float zeros when blind or not decoding."""
        size = self.config.image_size if self.config.decode_images else 0
        if self.config.blind or not self.config.decode_images:
            return torch.zeros(*view_mask.shape, 3, size, size)
        images = np.zeros((*view_mask.shape, 3, size, size), dtype=np.uint8)
        for row, key in enumerate(keys):
            views = int(view_mask[row].sum())
            images[row, :views] = self._pixels(key, views)
        return torch.from_numpy(images)

    def _pixels(self, key: SampleKey, views: int) -> NDArray[np.uint8]:
        """Return the present views of a frame, uint8 [views, 3, size, size]."""
        name, episode, start = key
        if name in self._frames:
            cached = self._frames[name].get(episode, start)
            if cached is not None:
                return cached
        workers = max(1, self.config.num_workers)
        budget = int(self.config.frame_cache_gib * 2**30) // workers
        dataset = self.sources[name].dataset
        size = self.config.image_size
        return frame_views(dataset, episode, start, views=views, size=size, budget=budget)


def finished(batch: Batch, draws: Draws | None = None) -> Batch:
    """Return a raw batch with its images augmented by `draws` and normalised, where they are."""
    if batch.images.dtype != torch.uint8:
        return batch
    return replace(batch, images=finish(batch.images, batch.view_mask, draws))
