"""Building the one-off caches of a mixture: what they take is said first."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from xvla.config import DataConfig
from xvla.data.caches import index_path
from xvla.data.frame_cache import (
    CacheSpec,
    build_frame_cache,
    cache_cost,
    cache_path,
    verify_frame_cache,
)
from xvla.data.readers.base import Dataset
from xvla.data.sample_index import build_index, index_cost
from xvla.data.sources import Mixture
from xvla.data.writing.targets import check_folder

CacheFrames = Literal["none", "jpeg", "raw"]


def prepare_caches(
    mixture: Mixture,
    folder: str | Path,
    *,
    frames: CacheFrames = "none",
    yes: bool = False,
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Build the index and, if asked for, the frame cache of every domain; return a row each.

    Says what each takes on disk; without `yes` that is all. A second call goes on where the
    first was interrupted; finished frame caches are read back and compared with their checksums.

    Raises:
        ValueError: a cache of other data or a file is in the way, or what was written is damaged.
    """
    check_folder(Path(folder))
    rows, config = [], mixture.config
    for source in mixture.sources.values():
        row: dict[str, Any] = {"domain": source.name, "index": index_cost(source.dataset)}
        say(f"{source.name}: index of {_amount(row['index'])}")
        spec = None
        if frames != "none":
            spec = CacheSpec(
                size=config.image_size,
                views=config.num_views,
                stride=config.start_stride,
                codec=frames,
            )
            row["frames"] = cache_cost(source.dataset, spec)
            say(f"{source.name}: {frames} cache of {_amount(row['frames'])}")
        rows.append(row)
        if yes:
            _build(source.dataset, source.name, config, Path(folder), spec)
    if not yes:
        say("nothing written; repeat with --yes to build")
    return rows


def _build(
    dataset: Dataset, name: str, config: DataConfig, folder: Path, spec: CacheSpec | None
) -> None:
    build_index(dataset, index_path(folder, name), config)
    if spec is None:
        return
    path = build_frame_cache(dataset, cache_path(folder, name, spec), spec)
    if damage := verify_frame_cache(path):
        raise ValueError(f"{damage[0]} ({len(damage)} shards)")


def _amount(cost: dict[str, int]) -> str:
    return f"{cost['frames']:,} frames, {cost['bytes'] / 2**30:.2f} GiB"
