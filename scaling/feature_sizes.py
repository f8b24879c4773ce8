"""Which runs cache features of a frozen encoder, and what the caches take on disk.

Standard library only, for planners; `scaling.training.features` makes the caches.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter

from scaling.document import plain
from scaling.spec import RunSpec, canonical_json
from xvla.config import DataConfig
from xvla.domains import dataset_folder
from xvla.params import num_view_tokens

FLOAT32 = 4
# What decides the features of a frame, or which frames are encoded, beside the data's own bytes.
FRAME_FIELDS = (
    "root",
    "image_size",
    "num_views",
    "text_length",
    "tokenizer",
    "blind",
    "prediction_window_s",
    "num_anchors",
    "start_stride",
    "start_tail_s",
    "eval_starts_per_episode",
    "eval_starts_other",
)


_SELECTED = attrgetter(*FRAME_FIELDS, "split.val", "split.test")


def can_cache(spec: RunSpec) -> bool:
    """Return whether features are constant: frozen encoder, the video's own pixels, unchanged."""
    data = spec.data
    changed = data.augmentation != "none" or data.random_crop or data.pixels != "video"
    return spec.optim.freeze_vlm and not changed and spec.engine.cache_features


def frame_selection(data: DataConfig) -> str:
    """Return, as JSON, what names a cache; splits that are the set's own go without saying."""
    fields = {name: getattr(data, name) for name in FRAME_FIELDS}
    return canonical_json(fields | ({"split": plain(data.split)} if data.split.val else {}))


def feature_bytes(specs: Iterable[RunSpec]) -> int:
    """Return about how many bytes the caches of these runs take, each cache once.

    Of a domain that is not at hand, or is no LeRobot folder, nothing is known: it counts 0.
    """
    caches: dict[tuple[object, ...], int] = {}
    kinds: dict[tuple[int, int], str] = {}  # runs share these configs or have copies of them
    for spec in filter(can_cache, specs):
        model = spec.model
        parts = (id(model.vision), id(model.text))
        if parts not in kinds:
            kinds[parts] = f"{model.vision} {model.text}"
        selected = (kinds[parts], *_weights(spec), *_SELECTED(spec.data))
        for entry in spec.data.mixture:
            key = (*selected, entry.name, entry.mapping and str(entry.mapping))
            if key not in caches:
                caches[key] = _frame_bytes(spec) * _num_frames(spec.data, entry.name)
    return sum(caches.values())


def _weights(spec: RunSpec) -> tuple[object, ...]:
    """Return what tells encoders of one shape apart: those not pretrained are drawn from a seed."""
    init = spec.init
    drawn = spec.seeds.init if init.encoder == "none" and not init.checkpoint_sha256 else None
    return (init.encoder, init.checkpoint_sha256, drawn)


def _frame_bytes(spec: RunSpec) -> int:
    """Return the bytes of a frame: [Nv + L, D] of the main view, [Nv, D] of each other view."""
    view = num_view_tokens(spec.model.vision, spec.data.image_size)
    tokens = view + spec.data.text_length + (spec.data.num_views - 1) * view
    return FLOAT32 * tokens * spec.model.projection_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class _Extent:
    """What a LeRobot folder says of itself; `train`: episodes that are not held out."""

    episodes: int
    frames: int
    fps: float
    train: int


def _num_frames(data: DataConfig, name: str) -> int:
    """Return about how many frames are encoded: starts to train from, and those evaluated."""
    extent = _extent(data, name)
    if extent is None:
        return 0
    length = extent.frames / extent.episodes
    candidates, stride = max(1.0, length - data.start_tail_s * extent.fps), data.start_stride
    # Every stride-th, rounded up: over episodes of many lengths (stride - 1) / 2 more a time.
    starts = (candidates + (stride - 1) / 2) / stride
    evaluated = max(data.eval_starts_per_episode, data.eval_starts_other)
    held_out = extent.episodes - extent.train
    return round(extent.train * starts + held_out * min(evaluated, length))


def _extent(data: DataConfig, name: str) -> _Extent | None:
    try:
        text = (dataset_folder(data, name) / "meta" / "info.json").read_text()
        info = json.loads(text)
        episodes = int(info["total_episodes"])
        train = _split_size(info.get("splits", {}), episodes)
        return _Extent(
            episodes=max(1, episodes),
            frames=int(info["total_frames"]),
            fps=float(info["fps"]),
            train=train,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # the run's own reader says what is wrong with it


def _split_size(splits: Mapping[str, str], episodes: int) -> int:
    """Return the number of episodes in "train", e.g. of {"train": "0:40", "val": "40:48"}."""
    if not {"val", "test"} & splits.keys():
        return episodes  # a few are held out, which changes little
    first, _, last = str(splits.get("train", "0:0")).partition(":")
    return int(last) - int(first)
