"""Labelled simulated frames as tensors: what a picture shows, and the heads that must say it.

n frames, V views (main first), S pixels, K keypoints, E encoder width. The files are those of
`xvla.stand_in.frames.generate_frames`; lengths in m in the frame of robot 0's base.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from xvla.data.images import resize
from xvla.data.text import build_tokenizer

MAX_VIEWS = 3
# Targets of the main stream (with the instruction) and of a wrist view, with their widths.
MAIN_TARGETS: dict[str, int] = {
    "objects": 6,
    "to_object": 12,
    "grippers": 6,
    "handles": 6,
    "yaw": 4,
    "keypoints": 12,
    "closed": 2,
}
WRIST_TARGETS: dict[str, int] = {"to_object_hand": 6, "keypoints": 12, "closed": 1}
# Keypoints come in pairs of a kind (objects, grippers, handles) that look alike in a small patch.
NUM_KINDS = 3
# Which targets are points in space, and of how many coordinates: reported as distances.
POINTS: dict[str, int] = {
    "objects": 3,
    "to_object": 3,
    "grippers": 3,
    "handles": 3,
    "to_object_hand": 3,
    "keypoints": 2,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """All labelled frames of all domains; absent views are zero and masked.

    sources: domain, seed, number and size of each file's frames, which say how to make it again;
    images [n, V, 3, S, S] uint8, view_mask [n, V], input_ids [n, L], domain [n] (index into names),
    held_out [n]; main [n, M] and wrist [n, V - 1, W] hold the targets in the order of the tables
    above, *_known says which are defined; keypoints [n, V, K, 2] and seen [n, V, K] are the points
    of every view again, for the spatial task.
    """

    names: list[str]
    sources: list[dict[str, Any]]
    images: Tensor
    view_mask: Tensor
    input_ids: Tensor
    domain: Tensor
    held_out: Tensor
    main: Tensor
    main_known: Tensor
    wrist: Tensor
    wrist_known: Tensor
    keypoints: Tensor
    seen: Tensor


def load_frames(
    folder: str | Path,
    *,
    image_size: int,
    text_length: int,
    tokenizer: str = "demo",
    held_out_fraction: float = 0.1,
    seed: int = 0,
) -> Frames:
    """Read every .npz of a folder; whole demonstrations are held out, by their seeds.

    Raises ValueError if there is none, or a file lacks an array.
    """
    files = sorted(Path(folder).glob("*.npz"))
    if not files:
        raise ValueError(f"{folder} holds no .npz; make frames with xvla.stand_in.frames first")
    encode = build_tokenizer(tokenizer).encode
    parts: list[dict[str, Tensor]] = []
    sources: list[dict[str, Any]] = []
    for index, file in enumerate(files):
        with np.load(file) as table:
            try:
                meta = json.loads(str(table["meta"]))
                part = _read(table, meta["views"], image_size)
                words = [encode(str(text), text_length) for text in table["instruction"]]
                episodes = table["episode"]
            except KeyError as error:
                raise ValueError(f"{file}: {error}; make the frames again") from error
        sources.append({k: meta[k] for k in ("domain", "frames", "seed", "size") if k in meta})
        part["input_ids"] = torch.from_numpy(np.stack(words))
        part["domain"] = torch.full((len(words),), index)
        part["held_out"] = _hold_out(episodes, held_out_fraction, [seed, index])
        parts.append(part)
    merged = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Frames(names=[file.stem for file in files], sources=sources, **merged)


def _read(table: np.lib.npyio.NpzFile, views: list[str], size: int) -> dict[str, Tensor]:
    """Return one domain's images and targets, padded to MAX_VIEWS views."""
    count = len(table["state"])
    images = np.zeros((count, MAX_VIEWS, 3, size, size), np.uint8)
    for i, view in enumerate(views):
        images[:, i] = resize(table[view], size)
    mask = np.zeros((count, MAX_VIEWS), bool)
    mask[:, : len(views)] = True
    keypoints = np.zeros((count, MAX_VIEWS, len(table["present"][0]), 2), np.float32)
    seen = np.zeros(keypoints.shape[:-1], bool)
    keypoints[:, : len(views)], seen[:, : len(views)] = table["keypoints"], table["seen"]
    main, main_known = _main_targets(table)
    wrist, wrist_known = _wrist_targets(table, len(views) - 1)
    arrays = {
        "images": images,
        "view_mask": mask,
        "main": main,
        "main_known": main_known,
        "wrist": wrist,
        "wrist_known": wrist_known,
        "keypoints": keypoints,
        "seen": seen,
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _main_targets(table: np.lib.npyio.NpzFile) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    present, seen = table["present"], table["seen"][:, 0]
    objects, grippers, handles = present[:, 0:2], present[:, 2:4], present[:, 4:6]
    pairs = grippers[:, :, None] & objects[:, None, :]
    columns = {
        "objects": (table["objects"], objects),
        "to_object": (table["to_object"], pairs),
        "grippers": (table["grippers"], grippers),
        "handles": (table["handles"], handles),
        "yaw": (table["yaw"], objects),
        "keypoints": (table["keypoints"][:, 0], seen),
        "closed": (table["closed"], grippers),
    }
    return _flatten(columns, MAIN_TARGETS)


def _wrist_targets(
    table: np.lib.npyio.NpzFile, wrists: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Wrist view i looks from gripper i; what it does not see cannot be asked of it."""
    count, width = len(table["state"]), sum(WRIST_TARGETS.values())
    values = np.zeros((count, MAX_VIEWS - 1, width), np.float32)
    known = np.zeros((count, MAX_VIEWS - 1, width), bool)
    for i in range(wrists):
        seen = table["seen"][:, 1 + i]
        columns = {
            "to_object_hand": (table["to_object_hand"][:, i], seen[:, 0:2]),
            "keypoints": (table["keypoints"][:, 1 + i], seen),
            "closed": (table["closed"][:, i : i + 1], np.ones((count, 1), bool)),
        }
        values[:, i], known[:, i] = _flatten(columns, WRIST_TARGETS)
    return values, known


def _flatten(
    columns: dict[str, tuple[NDArray, NDArray]], widths: dict[str, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Lay targets side by side; a mask [n, ...] covers all coordinates of its target."""
    values, known = [], []
    for name, width in widths.items():
        value, mask = columns[name]
        flat = value.reshape(len(value), width).astype(np.float32)
        spread = np.repeat(mask.reshape(len(mask), -1), width // mask[0].size, axis=1)
        values.append(np.where(spread, flat, 0))
        known.append(spread)
    return np.concatenate(values, axis=1), np.concatenate(known, axis=1)


def _hold_out(episodes: NDArray, fraction: float, seed: list[int]) -> Tensor:
    """Mark all frames of a random fraction of the demonstrations."""
    unique = np.unique(episodes)
    count = max(1, round(fraction * len(unique)))
    chosen = np.random.default_rng(seed).permutation(unique)[:count]
    return torch.from_numpy(np.isin(episodes, chosen))


def spans(widths: dict[str, int]) -> dict[str, slice]:
    """Return where each target lies in the flat vector."""
    edges = np.cumsum([0, *widths.values()]).tolist()
    return {name: slice(a, b) for name, a, b in zip(widths, edges, edges[1:], strict=False)}


class Heads(nn.Module):
    """Linear read-outs, and the mean and scale that bring every target to unit size.

    They are linear on purpose: what a linear map can read, the policy's first layer can. `spatial`
    reads, off each token of the map, whether it holds a kind of keypoint and where inside.
    """

    def __init__(self, width: int, frames: Frames) -> None:
        super().__init__()
        self.main = nn.Linear(width, sum(MAIN_TARGETS.values()))
        self.wrist = nn.Linear(width, sum(WRIST_TARGETS.values()))
        self.spatial = nn.Linear(width, 3 * NUM_KINDS)
        for name, values, known in (
            ("main", frames.main, frames.main_known),
            ("wrist", frames.wrist, frames.wrist_known),
        ):
            mean, scale = _standard(values[~frames.held_out], known[~frames.held_out])
            self.register_buffer(f"{name}_mean", mean)
            self.register_buffer(f"{name}_scale", scale)

    def standardise(self, name: str, values: Tensor) -> Tensor:
        """Bring targets to zero mean and unit size."""
        return (values - getattr(self, f"{name}_mean")) / getattr(self, f"{name}_scale")

    def read(self, name: str, tokens: Tensor) -> Tensor:
        """Read standardised targets off tokens [..., E]."""
        return getattr(self, name)(tokens)

    def restore(self, name: str, standardised: Tensor) -> Tensor:
        """Undo `standardise`."""
        return standardised * getattr(self, f"{name}_scale") + getattr(self, f"{name}_mean")


def spatial_loss(head: nn.Linear, tokens: Tensor, keypoints: Tensor, seen: Tensor) -> Tensor:
    """Return the loss of locating keypoints [N, K, 2] (seen [N, K]) from map tokens [N, side^2, E].

    Per kind: cross-entropy over the tokens against where its keypoints lie, plus the place inside
    the right token's patch, in units of the patch.
    """
    count, num_cells = tokens.shape[:2]
    side = round(num_cells**0.5)
    scaled = keypoints * side
    corner = scaled.floor().clamp(0, side - 1)
    cell = (corner[..., 1] * side + corner[..., 0]).long()
    logits, places = head(tokens).split([NUM_KINDS, 2 * NUM_KINDS], dim=-1)
    hits = functional.one_hot(cell, num_cells) * seen.unsqueeze(-1)
    hits = hits.view(count, NUM_KINDS, -1, num_cells).sum(2).float()
    share = hits / hits.sum(-1, keepdim=True).clamp(min=1)
    missing = -(share * logits.transpose(1, 2).log_softmax(dim=-1)).sum(-1)
    index = cell[..., None, None].expand(-1, -1, 1, 2)
    per_kind = places.unflatten(-1, (NUM_KINDS, 2)).transpose(1, 2)
    per_kind = per_kind.repeat_interleave(keypoints.shape[1] // NUM_KINDS, dim=1)
    inside = per_kind.gather(2, index).squeeze(2) - (scaled - corner - 0.5)
    number = seen.sum().clamp(min=1)
    return missing.sum() / number + (inside.abs().sum(-1) * seen).sum() / number


def _standard(values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    flat, mask = values.flatten(0, -2), known.flatten(0, -2).float()
    count = mask.sum(0).clamp(min=1)
    mean = (flat * mask).sum(0) / count
    scale = (((flat - mean) ** 2 * mask).sum(0) / count).sqrt()
    return mean, scale.clamp(min=1e-2)
