"""Features of a frozen encoder, computed once a domain and shared by all runs through a file.

A frozen encoder without augmentation maps a frame to the same features in every epoch and every
run; on a CPU this is most of the cost of a step. Files: <folder>/<digest>/<domain>-<data>.{index,
vlm,aux}.npy, memory-mapped; the first process that needs a domain builds it under a file lock.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scaling.document import plain
from scaling.feature_sizes import frame_selection
from scaling.spec import RunSpec, canonical_json
from xvla.batch import Batch
from xvla.data.evaluation import eval_frames
from xvla.data.normalise import Normaliser
from xvla.data.samples import SampleKey, SampleMaker
from xvla.data.sources import Mixture
from xvla.data.verify import dataset_digest

ENCODE_BATCH = 32


class FeatureCache:
    """Looks up encoder features by (domain, episode, start)."""

    def __init__(self, spec: RunSpec, model: Any, folder: Path, *, mixture: Mixture) -> None:
        self._mixture = mixture
        self._model = model
        self._folder = folder / _digest(spec, model)
        self._digests: dict[str, str] = {}
        self._tables: dict[str, tuple[dict[tuple[int, int], int], np.ndarray, np.ndarray]] = {}

    def prepare(self, on_progress: Callable[[str, int, int], None] | None = None) -> None:
        """Build what is missing for the domains of the run and open all of it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        names = [*self._mixture.sources]
        # First what nobody else is at, so that runs starting together share the work; then wait.
        for wait in (False, True):
            for name in names:
                self._build_once(name, on_progress, wait=wait)
        for name in names:
            self._tables[name] = self._open(name)

    def lookup(
        self, keys: list[SampleKey], device: torch.device | str = "cpu"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return on `device` (vlm_features [B, Nv + L, D], aux_features [B, (V - 1) Nv, D])."""
        vlm, aux = [], []
        for domain, episode, start in keys:
            rows, vlm_table, aux_table = self._tables[domain]
            row = rows[(episode, start)]
            vlm.append(vlm_table[row])
            aux.append(aux_table[row])
        tables = (torch.from_numpy(np.stack(rows)) for rows in (vlm, aux))
        vlm_features, aux_features = (table.to(device) for table in tables)
        return vlm_features, aux_features

    def _build_once(
        self, domain: str, on_progress: Callable[[str, int, int], None] | None, *, wait: bool
    ) -> None:
        index = self._file(domain, "index")
        if index.exists():
            return
        with _locked(index.with_suffix(".lock"), wait=wait) as mine:
            if mine and not index.exists():
                self._build(domain, on_progress)

    def _build(self, domain: str, on_progress: Callable[[str, int, int], None] | None) -> None:
        # All training episodes, whichever this run takes: others take others.
        whole = self._mixture.alone(domain, whole=True).with_fields(decode_images=True)
        maker = SampleMaker(whole, Normaliser())
        keys = _all_keys(maker, domain)
        vlm, aux = [], []
        for first in range(0, len(keys), ENCODE_BATCH):
            pair = self._encode(maker, keys[first : first + ENCODE_BATCH])
            vlm.append(pair[0])
            aux.append(pair[1])
            if on_progress:
                on_progress(domain, first, len(keys))
        index = np.array([key[1:] for key in keys], dtype=np.int32)
        for name, table in (("vlm", np.concatenate(vlm)), ("aux", np.concatenate(aux))):
            _save(self._file(domain, name), table)
        _save(self._file(domain, "index"), index)

    @torch.no_grad()
    def _encode(self, maker: SampleMaker, keys: list[SampleKey]) -> tuple[np.ndarray, np.ndarray]:
        batch = maker.make(keys)
        if not maker.config.blind:
            return self._to_numpy(batch)
        # Zero images: the features depend on the instruction alone, so encode each one once.
        _, rows, inverse = np.unique(
            batch.input_ids.numpy(), axis=0, return_index=True, return_inverse=True
        )
        vlm, aux = self._to_numpy(maker.make([keys[row] for row in rows]))
        return vlm[inverse.reshape(-1)], aux[inverse.reshape(-1)]

    def _to_numpy(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        device = next(self._model.parameters()).device
        vlm, aux = self._model.encode(batch.to(device))
        return vlm.float().cpu().numpy(), aux.float().cpu().numpy()

    def _file(self, domain: str, table: str) -> Path:
        """Return the path of a table, named by the bytes of the dataset as well."""
        if domain not in self._digests:
            source = self._mixture.sources[domain]
            name = dataset_digest(source.dataset.path)
            if source.entry.mapping is not None:  # it chooses the views; a file is in the digest
                meaning = name + canonical_json(plain(source.entry.mapping))
                name = hashlib.sha256(meaning.encode()).hexdigest()
            self._digests[domain] = name[:12]
        return self._folder / f"{domain}-{self._digests[domain]}.{table}.npy"

    def _open(self, domain: str) -> tuple[dict[tuple[int, int], int], np.ndarray, np.ndarray]:
        index = _load(self._file(domain, "index"))
        rows = {(int(episode), int(start)): row for row, (episode, start) in enumerate(index)}
        return rows, _load(self._file(domain, "vlm")), _load(self._file(domain, "aux"))


def _all_keys(maker: SampleMaker, domain: str) -> list[SampleKey]:
    """Return every frame a run may ask for, whether or not the domain is its anchor."""
    keys = {
        (domain, episode, int(start))
        for episode in maker.sources[domain].episodes
        for start in maker.starts(domain, episode)
    }
    for starts in (maker.config.eval_starts_per_episode, maker.config.eval_starts_other):
        mixture = maker.mixture.with_fields(eval_starts_per_episode=starts)
        for split in ("val", "test"):
            keys |= set(eval_frames(mixture, split))
    return sorted(keys)


def _digest(spec: RunSpec, model: Any) -> str:
    """Name the folder by all that decides the features: encoder weights and frame selection."""
    weights = hashlib.sha256()
    for name, tensor in sorted(model.vlm.state_dict().items()):
        weights.update(name.encode())
        weights.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    parts = frame_selection(spec.data)
    return hashlib.sha256((parts + weights.hexdigest()).encode()).hexdigest()[:16]


@contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a file lock; yield whether it is ours (always, when waiting)."""
    with open(path, "w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def _load(path: Path) -> np.ndarray:
    """Return the table, read as it is used. Raises ValueError for a file that is damaged."""
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete the folder {path.parent}, it is made anew"
        ) from None


def _save(path: Path, array: np.ndarray) -> None:
    temporary = path.with_suffix(".tmp.npy")
    try:
        with open(temporary, "wb") as stream:
            np.save(stream, array)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
