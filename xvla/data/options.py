"""How a loader gets at its samples: one-off caches, the device that augments, broken episodes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xvla.config import DataConfig
from xvla.data.catalogue import Source, open_sources
from xvla.data.frame_cache import CacheSpec, FrameCache, cache_path
from xvla.data.sample_index import SampleIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderOptions:
    """Options beside DataConfig.

    cache             folder of one-off caches, "" for none; indices in it are used.
    frames            where pixels come from: "video", or a frame cache that must be there. "raw"
                      gives the pixels of the videos, "jpeg" slightly others: another experiment.
    random_crop       RandomResizedCrop of training images (Table 11: Fractal); scientific.
    device            where training images are augmented and normalised: "" in the worker, or a
                      torch device, to which uint8 goes (a quarter of the bytes).
    max_failed_share  share of the training episodes that may be unreadable before the run stops.
    """

    cache: str = ""
    frames: Literal["video", "raw", "jpeg"] = "video"
    random_crop: bool = False
    device: str = ""
    max_failed_share: float = 0.01

    def __post_init__(self) -> None:
        """Raise ValueError for a share outside 0..1, or cached frames without a folder."""
        if not 0.0 <= self.max_failed_share <= 1.0:
            raise ValueError(f"max_failed_share = {self.max_failed_share}; allowed: 0 to 1")
        if self.frames != "video" and not self.cache:
            raise ValueError(f"frames = {self.frames!r} needs `cache`, the folder of frame caches")


def open_caches(
    config: DataConfig, options: LoaderOptions
) -> tuple[dict[str, FrameCache], dict[str, SampleIndex]]:
    """Open the caches of the mixture's domains, by name.

    Raises:
        ValueError: a frame cache that is asked for is not there or is of other data.
    """
    if not options.cache:
        return {}, {}
    sources = open_sources(config)
    root = Path(options.cache)
    indices = {
        source.name: SampleIndex(source.dataset, index_path(root, source.name))
        for source in sources
        if (index_path(root, source.name) / "index.json").exists()
    }
    if options.frames == "video":
        return {}, indices
    return {source.name: _frames(config, options, source) for source in sources}, indices


def index_path(folder: str | Path, name: str) -> Path:
    """Return where the index of the domain `name` lies in a folder of caches."""
    return Path(folder) / name / "index"


def _frames(config: DataConfig, options: LoaderOptions, source: Source) -> FrameCache:
    """Open the cache of every start_stride-th frame, or else of all frames."""
    assert options.frames != "video"
    specs = [
        CacheSpec(
            size=config.image_size, views=config.num_views, stride=stride, codec=options.frames
        )
        for stride in (config.start_stride, 1)
    ]
    folders = [cache_path(options.cache, source.name, spec) for spec in specs]
    for spec, folder in zip(specs, folders, strict=True):
        if folder.is_dir():
            return FrameCache(source.dataset, folder, spec)
    raise ValueError(f"no frame cache of {source.name} at {folders[0]}; build it first")
