"""How a loader gets at its samples: one-off caches, the device that augments, broken episodes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xvla.config import DataConfig
from xvla.data.frame_cache import CacheSpec, FrameCache, cache_path
from xvla.data.sample_index import SampleIndex
from xvla.data.sources import Mixture, Source
from xvla.limits import Config, limited


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderOptions(Config):
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
    max_failed_share: float = limited(0.01, least=0, most=1)


def options_of(mixture: Mixture, device: str = "") -> LoaderOptions:
    """Return the options that the configuration asks for; `device` is where training runs.

    Raw frames hold the videos' own pixels: they are used wherever they are prepared for every
    domain.
    """
    config = mixture.config
    frames: Literal["video", "raw", "jpeg"] = "video"
    if config.pixels == "jpeg":
        frames = "jpeg"
    elif config.cache and all(_has_raw(config, source) for source in mixture.sources.values()):
        frames = "raw"
    return LoaderOptions(
        cache=config.cache,
        frames=frames,
        random_crop=config.random_crop,
        device=device if config.augment_on == "device" else "",
        max_failed_share=config.max_failed_share,
    )


def open_caches(
    mixture: Mixture, options: LoaderOptions
) -> tuple[dict[str, FrameCache], dict[str, SampleIndex]]:
    """Open the caches of the mixture's domains, by name.

    Raises:
        ValueError: a frame cache that is asked for has no folder, is not there or is of other data.
    """
    if not options.cache:
        if options.frames != "video":
            raise ValueError(f"frames={options.frames!r} needs `cache`, the folder of frame caches")
        return {}, {}
    sources = mixture.sources.values()
    root = Path(options.cache)
    indices = {
        source.name: SampleIndex(source.dataset, index_path(root, source.name))
        for source in sources
        if (index_path(root, source.name) / "index.json").exists()
    }
    if options.frames == "video":
        return {}, indices
    return {source.name: _frames(mixture.config, options, source) for source in sources}, indices


def index_path(folder: str | Path, name: str) -> Path:
    """Return where the index of the domain `name` lies in a folder of caches."""
    return Path(folder) / name / "index"


def _frames(config: DataConfig, options: LoaderOptions, source: Source) -> FrameCache:
    """Open the cache of every start_stride-th frame, or else of all frames."""
    assert options.frames != "video"
    places = _places(config, source, options.cache, options.frames)
    for spec, folder in places:
        if folder.is_dir():
            return FrameCache(source.dataset, folder, spec)
    raise ValueError(
        f"no {options.frames} frame cache of {source.name} at {places[0][1]}; build it with "
        f"`scaling data prepare STUDY --out {options.cache} --frames {options.frames} --yes`"
    )


def _has_raw(config: DataConfig, source: Source) -> bool:
    return any(folder.is_dir() for _, folder in _places(config, source, config.cache, "raw"))


def _places(
    config: DataConfig, source: Source, cache: str, codec: Literal["raw", "jpeg"]
) -> list[tuple[CacheSpec, Path]]:
    """Return where a frame cache may be: of every start_stride-th frame, or of all."""
    specs = [
        CacheSpec(size=config.image_size, views=config.num_views, stride=stride, codec=codec)
        for stride in (config.start_stride, 1)
    ]
    return [(spec, cache_path(cache, source.name, spec)) for spec in specs]
